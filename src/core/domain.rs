//! Entries of a network allow-list: which hosts a command may reach, and on which ports.
//!
//! Purely about names: whether an address that a name resolves to may be reached is for whoever resolves it.

use std::fmt;
use std::net::IpAddr;
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
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let on_port = self.port.map_or(USUAL_PORTS.contains(&port), |own| own == port);
        on_port
            && match &self.host {
                Host::Name(name) => *name == host,
                Host::Below(suffix) => host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.')),
                Host::Address(address) => address_of(&host) == Some(*address),
            }
    }

    /// Whether a person wrote down a plain address, which may then also be a private one.
    pub fn is_address(&self) -> bool {
        matches!(self.host, Host::Address(_))
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
