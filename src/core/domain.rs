//! Network allow-lists and their entries: which hosts a command may reach, and on which ports.
//!
//! Purely about names: whether an address that a name resolves to may be reached is for whoever resolves it.

use ::core::net::IpAddr;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ports of an entry that names none: https and http.
const USUAL_PORTS: [u16; 2] = [443, 80];

/// One entry: `registry.example.org`, `*.example.org` (every name below it, not itself), an IP address; each may end in
/// `:PORT`, and covers 443 and 80 without one. Names are kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Name(String),
    /// Without the `*.`.
    Below(String),
    Address(IpAddr),
}

/// A text that is no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a domain: {why}")]
pub struct DomainError {
    /// As it was given, cut.
    pub text: String,
    /// A fragment that completes the sentence.
    pub why: &'static str,
}

impl Domain {
    /// Whether the entry covers this host, which is a name or an address as a client says it, on this port.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        self.port.map_or(USUAL_PORTS.contains(&port), |own| own == port) && self.names(host)
    }

    /// Whether the entry covers this host on some port.
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match &self.host {
            Host::Name(name) => *name == host,
            Host::Below(suffix) => host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Host::Address(address) => address_of(&host) == Some(*address),
        }
    }

    /// Whether everything that another entry covers is covered by this one.
    pub fn covers_entry(&self, other: &Self) -> bool {
        let ports = match other.port {
            Some(port) => &[port][..],
            None => &USUAL_PORTS[..],
        };
        let hosts = match (&self.host, &other.host) {
            (_, Host::Name(name)) => return ports.iter().all(|port| self.covers(name, *port)),
            (_, Host::Address(address)) => return ports.iter().all(|port| self.covers(&address.to_string(), *port)),
            (Host::Below(own), Host::Below(other)) => {
                own == other || other.strip_suffix(own.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Host::Name(_) | Host::Address(_), Host::Below(_)) => false,
        };
        hosts && ports.iter().all(|port| self.port.map_or(USUAL_PORTS.contains(port), |own| own == *port))
    }

    /// Whether a person wrote down a plain address, which may then also be a private one.
    pub fn is_address(&self) -> bool {
        matches!(self.host, Host::Address(_))
    }
}

/// What a `network` key grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// These hosts; none at all where the list is empty.
    Domains(Vec<Domain>),
    /// The whole network: `["*"]`.
    All,
}

impl Default for Reach {
    fn default() -> Self {
        Self::Domains(Vec::new())
    }
}

impl Reach {
    /// Reads the entries of a `network` key.
    ///
    /// # Errors
    /// Every entry that is none, with its place in the list.
    pub fn read<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<(usize, DomainError)>> {
        if let [only] = entries
            && only.as_ref() == "*"
        {
            return Ok(Self::All);
        }
        let (mut domains, mut wrong) = (Vec::new(), Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            match entry.as_ref().parse() {
                Ok(domain) => domains.push(domain),
                Err(error) => wrong.push((at, error)),
            }
        }
        if wrong.is_empty() { Ok(Self::Domains(domains)) } else { Err(wrong) }
    }

    /// What `other` grants and this does not, in words; `None` where this grants all of it.
    pub fn beyond(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::All, _) => None,
            (Self::Domains(_), Self::All) => Some("the whole network".to_owned()),
            (Self::Domains(own), Self::Domains(others)) => {
                let missing = others.iter().filter(|other| !own.iter().any(|own| own.covers_entry(other)));
                let missing: Vec<String> = missing.map(|domain| format!("`{domain}`")).collect();
                (!missing.is_empty()).then(|| missing.join(", "))
            }
        }
    }
}

fn address_of(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let refuse = |why| Err(DomainError { text: text.chars().take(100).collect(), why });
        if text == "*" {
            return refuse("`*` stands for the whole network and can only stand alone, in devo.yaml");
        }
        if let Some(address) = address_of(text) {
            return Ok(Self { host: Host::Address(address), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => match port.parse::<u16>() {
                Ok(port) if port > 0 && port.to_string() == text[host.len() + 1..] => (host, Some(port)),
                _ => {
                    return refuse("what follows `:` is not a port (an address as a URL is not needed: name the host)");
                }
            },
            None => (text, None),
        };
        if let Some(address) = address_of(host) {
            return Ok(Self { host: Host::Address(address), port });
        }
        let (below, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name.is_empty() || name.len() > 253 {
            return refuse("a name has 1 to 253 characters");
        }
        let sound = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if !name.split('.').all(sound) {
            return refuse("a name is made of letters, digits, `-` and `.`, with `*.` before it at most");
        }
        if name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return refuse("it is neither a whole address nor a name");
        }
        Ok(Self { host: if below { Host::Below(name) } else { Host::Name(name) }, port })
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.to_string()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Address(IpAddr::V6(address)), Some(port)) => return write!(f, "[{address}]:{port}"),
            (Host::Name(name), _) => f.write_str(name)?,
            (Host::Below(name), _) => write!(f, "*.{name}")?,
            (Host::Address(address), _) => write!(f, "{address}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_covers_what_it_names_and_nothing_else() {
        for (entry, host, port, wanted) in [
            ("registry.example.org", "registry.example.org", 443, true),
            ("registry.example.org", "Registry.Example.ORG.", 80, true),
            ("registry.example.org", "registry.example.org", 22, false),
            ("registry.example.org", "evil-registry.example.org", 443, false),
            ("registry.example.org", "a.registry.example.org", 443, false),
            ("*.example.org", "a.b.example.org", 443, true),
            ("*.example.org", "example.org", 443, false),
            ("*.example.org", "evilexample.org", 443, false),
            ("example.org:8443", "example.org", 8443, true),
            ("example.org:8443", "example.org", 443, false),
            ("127.0.0.1:5000", "127.0.0.1", 5000, true),
            ("[::1]:5000", "::1", 5000, true),
            ("::1", "[::1]", 80, true),
            ("127.0.0.1", "127.0.0.1.example.org", 80, false),
        ] {
            let domain: Domain = entry.parse().expect(entry);
            assert_eq!(domain.covers(host, port), wanted, "{entry} and {host}:{port}");
            assert_eq!(domain.to_string().parse::<Domain>().expect("its own text"), domain);
        }
    }

    #[test]
    fn one_list_grants_another_only_where_it_covers_all_of_it() {
        let reach = |entries: &[&str]| Reach::read(entries).expect("entries");
        for (own, other, wanted) in [
            (&["*"][..], &["a.org", "*.b.org"][..], None),
            (&["*"], &["*"], None),
            (&["a.org"], &["*"], Some("the whole network")),
            (&[], &[], None),
            (&[], &["a.org"], Some("`a.org`")),
            (&["*.a.org", "b.org"], &["x.a.org", "*.y.a.org", "b.org:443"], None),
            (&["*.a.org"], &["a.org", "*.org"], Some("`a.org`, `*.org`")),
            (&["*.a.org"], &["*.a.org"], None),
            (&["*.a.org:443"], &["*.a.org"], Some("`*.a.org`")),
            (&["a.org:8443"], &["a.org"], Some("`a.org`")),
            (&["a.org"], &["a.org:22"], Some("`a.org:22`")),
            (&["10.0.0.1:80"], &["10.0.0.1:80"], None),
            (&["10.0.0.1:80"], &["10.0.0.2:80"], Some("`10.0.0.2:80`")),
        ] {
            assert_eq!(reach(own).beyond(&reach(other)).as_deref(), wanted, "{own:?} and {other:?}");
        }
        let wrong = Reach::read(&["a.org", "*", "x y"]).unwrap_err();
        assert_eq!(wrong.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "a b",
            "http://example.org",
            "example.org/path",
            "example.org:",
            "example.org:0",
            "a:70000",
            "exa*mple.org",
            "*.*.org",
            "-a.org",
            "a..b",
            "1.2.3",
            "user@example.org",
            "a:+80",
            "ñ.org",
        ] {
            assert!(text.parse::<Domain>().is_err(), "{text}");
        }
    }
}
