//! A repository's address, taken apart: what git is called with, what people see, and a password that neither shows.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::error::{Error, Result};

/// The longest address, in bytes.
const LONGEST: usize = 2048;

/// Where a repository lives. Has no `Display`: choose between [`Remote::shown`] and what git gets.
#[derive(Clone)]
pub struct Remote {
    kind: Kind,
    user: Option<String>,
    password: Option<SecretString>,
}

/// The forms of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// `https://host[:port]/path`, and `http://` on loopback. `host` has `:port` where one was given.
    Web { scheme: &'static str, host: String, path: String },
    /// `ssh://` or `user@host:path`.
    Ssh { host: String, port: Option<u16>, path: String, scp: bool },
    /// An absolute path.
    Local(PathBuf),
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.shown())
    }
}

impl Remote {
    /// Reads an address as `git clone` would; a relative path is relative to `folder`. Schemes other than https, ssh,
    /// file and (on loopback) http are refused.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let text = text.trim();
        let bad = |why| Err(Error::BadUrl { url: without_credentials(text), why });
        if text.is_empty() {
            return bad("it is empty");
        }
        if text.len() > LONGEST {
            return bad("it is too long");
        }
        if text.chars().any(char::is_control) {
            return bad("it holds control characters");
        }
        if text.starts_with('-') {
            return bad("it starts with a dash");
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "https" => web("https", rest).or_else(bad),
                "http" => match web("http", rest) {
                    Ok(remote) if remote.is_loopback() => Ok(remote),
                    Ok(_) => bad("plain http sends everything in the clear; use https"),
                    Err(why) => bad(why),
                },
                "ssh" | "git+ssh" | "ssh+git" => ssh(rest).or_else(bad),
                "file" => match rest.strip_prefix("localhost").unwrap_or(rest) {
                    path if path.starts_with('/') => {
                        let path = percent_decode_str(path).decode_utf8_lossy().into_owned();
                        Ok(Self::local(PathBuf::from(path)))
                    }
                    _ => bad("a file address needs an absolute path"),
                },
                _ => bad("only https, ssh and local paths are used"),
            };
        }
        if text.contains("::") && !text.starts_with(['/', '.']) && !text.contains('[') {
            return bad("remote helpers are not used");
        }
        // As git: a colon before the first slash makes it `host:path`.
        match text.split_once(':') {
            Some((host, path)) if !host.contains('/') => scp(host, path).or_else(bad),
            _ => Ok(Self::local(clean(&folder.join(text)))),
        }
    }

    fn local(path: PathBuf) -> Self {
        Self { kind: Kind::Local(path), user: None, password: None }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The user that the address names; for https it may be a token, so it is never shown.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password that stood in the address; whoever masks texts should know it.
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    /// The host, with its port where that is not the usual one; `None` for a path.
    pub fn place(&self) -> Option<String> {
        let (host, port, usual) = match &self.kind {
            Kind::Local(_) => return None,
            Kind::Web { scheme, host, .. } => {
                let usual = if *scheme == "https" { 443 } else { 80 };
                let (host, port) = split_port(host);
                (host, port, usual)
            }
            Kind::Ssh { host, port, .. } => (host.as_str(), *port, 22),
        };
        Some(match port.filter(|port| *port != usual) {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        })
    }

    /// Whether `HOST` or `HOST:PORT` names its host: without a port only the usual one is meant.
    pub fn is_at(&self, place: &str) -> bool {
        let usual = match &self.kind {
            Kind::Web { scheme: "https", .. } => 443,
            Kind::Web { .. } => 80,
            _ => 22,
        };
        let place = place.to_ascii_lowercase();
        let (host, port) = split_port(&place);
        let place = match port {
            Some(port) if port == usual => host,
            _ => &place,
        };
        self.place().is_some_and(|own| own == place)
    }

    /// As [`Remote::is_at`]; without a port any one is meant.
    pub fn is_on(&self, host: &str) -> bool {
        self.is_at(host) || self.place().is_some_and(|own| split_port(&own).0 == host.to_ascii_lowercase())
    }

    fn is_loopback(&self) -> bool {
        let Kind::Web { host, .. } = &self.kind else { return false };
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// What git is called with: no password in it, for https no user either.
    pub(super) fn for_git(&self) -> OsString {
        match &self.kind {
            Kind::Local(path) => path.clone().into_os_string(),
            _ => self.shown().into(),
        }
    }

    /// For people, logs and errors: no password in it, for https no user either.
    pub fn shown(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        match &self.kind {
            Kind::Web { scheme, host, path } => format!("{scheme}://{host}/{path}"),
            Kind::Ssh { host, path, scp: true, .. } => format!("{user}{host}:{path}"),
            Kind::Ssh { host, port, path, .. } => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("ssh://{user}{host}{port}/{path}")
            }
            Kind::Local(path) => path.display().to_string(),
        }
    }

    /// The one transport that git may use for it.
    pub(super) fn protocol(&self) -> &'static str {
        match &self.kind {
            Kind::Web { scheme, .. } => scheme,
            Kind::Ssh { .. } => "ssh",
            Kind::Local(_) => "file",
        }
    }
}

fn web(scheme: &'static str, rest: &str) -> std::result::Result<Remote, &'static str> {
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, host) = place.rsplit_once('@').map_or((None, place), |(login, host)| (Some(login), host));
    if !host_is_sound(host) {
        return Err("its host is not a host's name");
    }
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Err("it names no repository on that host");
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        None => (None, None),
        Some((user, "")) => (Some(decoded(user)), None),
        Some((user, password)) => (Some(decoded(user)), Some(SecretString::from(decoded(password)))),
    };
    let kind = Kind::Web { scheme, host: host.to_ascii_lowercase(), path: path.to_owned() };
    Ok(Remote { kind, user: user.filter(|user| !user.is_empty()), password })
}

fn ssh(rest: &str) -> std::result::Result<Remote, &'static str> {
    let (place, path) = rest.split_once('/').ok_or("it names no repository on that host")?;
    let (login, place) = place.rsplit_once('@').map_or((None, place), |(login, host)| (Some(login), host));
    let end = place.rfind(']').unwrap_or(0);
    let (host, port) = match place[end..].find(':') {
        Some(colon) => {
            let port = place[end + colon + 1..].parse().map_err(|_| "its port is not a number")?;
            (&place[..end + colon], Some(port))
        }
        None => (place, None),
    };
    shell_remote(login, host, port, path, false)
}

fn scp(place: &str, path: &str) -> std::result::Result<Remote, &'static str> {
    let (login, host) = place.rsplit_once('@').map_or((None, place), |(login, host)| (Some(login), host));
    shell_remote(login, host, None, path, true)
}

fn shell_remote(
    login: Option<&str>,
    host: &str,
    port: Option<u16>,
    path: &str,
    scp: bool,
) -> std::result::Result<Remote, &'static str> {
    if !host_is_sound(host) {
        return Err("its host is not a host's name");
    }
    if path.trim_matches('/').is_empty() {
        return Err("it names no repository on that host");
    }
    if path.starts_with('-') {
        return Err("its path starts with a dash");
    }
    // ssh takes no password from an address; one that stands there is dropped, not shown.
    let user = login.map(|login| login.split(':').next().unwrap_or_default()).filter(|user| !user.is_empty());
    if user.is_some_and(|user| user.starts_with('-') || !user.bytes().all(|b| b.is_ascii_graphic())) {
        return Err("its user is not a user's name");
    }
    let kind = Kind::Ssh { host: host.to_ascii_lowercase(), port, path: path.to_owned(), scp };
    Ok(Remote { kind, user: user.map(str::to_owned), password: None })
}

/// `host:port`, where a host may be an address in brackets.
fn split_port(place: &str) -> (&str, Option<u16>) {
    let end = place.rfind(']').unwrap_or(0);
    match place[end..].rfind(':') {
        Some(colon) => (&place[..end + colon], place[end + colon + 1..].parse().ok()),
        None => (place, None),
    }
}

fn host_is_sound(host: &str) -> bool {
    !host.is_empty()
        && !host.starts_with(['-', '.', ':'])
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
}

/// Folds `.` and `..` without asking the disk, so that the text is one and the same for one place.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

/// A text with what stands between `//` and `@` taken out, wherever it occurs.
pub(super) fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || c == '\'' || c == '"').unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => &after[at + 1..],
            None => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn parsed(text: &str) -> Result<Remote> {
        Remote::parse(text, Path::new("/home/x"))
    }

    #[test]
    fn addresses_come_out_as_git_wants_them_without_passwords() {
        for (given, wanted, protocol) in [
            ("https://me:s3cret@GitHub.com/acme/shop.git", "https://github.com/acme/shop.git", "https"),
            ("https://ghp_tokentoken@github.com/acme/shop", "https://github.com/acme/shop", "https"),
            ("http://127.0.0.1:8080/a/b.git", "http://127.0.0.1:8080/a/b.git", "http"),
            ("http://[::1]:8080/a", "http://[::1]:8080/a", "http"),
            ("git@github.com:acme/shop.git", "git@github.com:acme/shop.git", "ssh"),
            ("ssh://git:pw@git.acme.com:7999/shop.git", "ssh://git@git.acme.com:7999/shop.git", "ssh"),
            ("/srv/shop.git", "/srv/shop.git", "file"),
            ("../shop.git", "/home/shop.git", "file"),
            ("shop", "/home/x/shop", "file"),
            ("file:///srv/a%20b.git", "/srv/a b.git", "file"),
        ] {
            let remote = parsed(given).unwrap();
            assert_eq!((remote.shown().as_str(), remote.protocol()), (wanted, protocol), "{given}");
            let debug = format!("{remote:?}");
            assert!(!debug.contains("s3cret") && !debug.contains("ghp_"), "{debug}");
        }
        let remote = parsed("https://me:p%40ss@h/x").unwrap();
        assert_eq!(remote.password().unwrap().expose_secret(), "p@ss");
    }

    #[test]
    fn what_could_run_or_redirect_is_refused() {
        for bad in [
            "",
            "-oProxyCommand=x",
            "ext::sh -c x",
            "fd::17",
            "git://host/x",
            "ftp://host/x",
            "http://example.com/x",
            "http://127.0.0.1.evil.com/x",
            "http://127.0.0.1@evil.com/x",
            "https://host",
            "https:///x",
            "ssh://-oProxyCommand=x/y",
            "ssh://host:port/x",
            "-x@host:y",
            "git@-host:y",
            "host:-y",
            "a\nb",
            "https://h/\u{1b}[2J",
        ] {
            assert!(matches!(parsed(bad), Err(Error::BadUrl { .. })), "{bad:?}");
        }
        let error = parsed("ftp://me:s3cret@host/x").unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_place_is_a_host_and_its_port() {
        for (url, place, others) in [
            ("https://github.com/a/b", "GitHub.com", "github.com:8443"),
            ("https://github.com:443/a/b", "github.com:443", "evil.github.com"),
            ("https://git.acme.com:8443/a", "git.acme.com:8443", "git.acme.com"),
            ("ssh://git@git.acme.com:7999/a", "git.acme.com:7999", "git.acme.com"),
            ("git@git.acme.com:a", "git.acme.com:22", "git.acme.co"),
            ("http://[::1]:8080/a", "[::1]:8080", "[::1]"),
        ] {
            let remote = parsed(url).unwrap();
            assert!(remote.is_at(place) && !remote.is_at(others), "{url}");
            assert!(remote.is_on(split_port(&place.to_lowercase()).0), "{url}");
        }
        assert!(!parsed("/srv/a").unwrap().is_at("") && parsed("/srv/a").unwrap().place().is_none());
    }

    #[test]
    fn credentials_leave_texts() {
        assert_eq!(
            without_credentials("fatal: 'https://a:b@h/x' and ssh://c@h/y, see https://h/@z"),
            "fatal: 'https://h/x' and ssh://h/y, see https://h/@z"
        );
    }
}
