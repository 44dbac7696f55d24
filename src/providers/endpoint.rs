//! Where a provider is and the key for it, read from an environment that is passed in. Sends nothing.

use std::fmt;

use secrecy::SecretString;

use super::Provider;
use crate::secrets::source::{Unreadable, secret};

/// An address and the key that goes there and nowhere else.
#[derive(Clone)]
pub struct Endpoint {
    base_url: String,
    plain: bool,
    loopback: bool,
    key: Option<SecretString>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_some() { "a key" } else { "no key" };
        write!(f, "{} with {key}", self.base_url)
    }
}

/// An address or a key that cannot be used. No variant holds a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not an http(s) URL with a host.
    #[error("{name} is not the address of an API: {reason}")]
    Address {
        /// The variable.
        name: String,
        /// Why.
        reason: String,
    },
    /// The file that should hold the key cannot be read.
    #[error(transparent)]
    File(#[from] Unreadable),
}

impl EndpointError {
    /// How to mend it.
    pub fn hint(&self) -> String {
        match self {
            Self::Address { name, .. } => format!("set {name} to something like https://host/path, without a query"),
            Self::File(unreadable) => unreadable.hint(),
        }
    }
}

impl Endpoint {
    /// From an address (`name` is what errors call it) and a key.
    pub fn new(name: &str, base_url: &str, key: Option<SecretString>) -> Result<Self, EndpointError> {
        let refuse = |reason: &str| EndpointError::Address { name: name.to_owned(), reason: reason.to_owned() };
        let url = reqwest::Url::parse(base_url.trim()).map_err(|error| refuse(&error.to_string()))?;
        let plain = match url.scheme() {
            "https" => false,
            "http" => true,
            _ => return Err(refuse("it begins with neither https:// nor http://")),
        };
        let host = url.host_str().ok_or_else(|| refuse("it has no host"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it holds a user name or a password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it has a query or a fragment"));
        }
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        Ok(Self { base_url: url.as_str().trim_end_matches('/').to_owned(), plain, loopback, key })
    }

    /// A provider's endpoint from an environment: the base URL's variable, and the key as in [`secret`].
    pub fn from_env(provider: &dyn Provider, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, EndpointError> {
        let access = provider.access();
        let base = lookup(access.base_var).filter(|value| !value.trim().is_empty());
        let key = secret(access.key_vars, lookup)?;
        Self::new(access.base_var, base.as_deref().unwrap_or(access.base_url), key)
    }

    /// The address without a slash at its end.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The key.
    pub fn key(&self) -> Option<&SecretString> {
        self.key.as_ref()
    }

    /// Whether it is reached without encryption.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::providers::provider;

    fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        move |name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn key_of(provider_name: &str, pairs: &[(&str, &str)]) -> Option<String> {
        let endpoint = Endpoint::from_env(provider(provider_name).unwrap(), &env(pairs)).unwrap();
        endpoint.key().map(|key| key.expose_secret().to_owned())
    }

    #[test]
    fn a_key_comes_from_variable_file_or_credentials_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("elsewhere");
        std::fs::write(&file, "from-file\n").unwrap();
        std::fs::write(folder.path().join("GOOGLE_API_KEY"), "from-systemd\n").unwrap();
        let (file, folder) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
        let all = [("GEMINI_API_KEY", " "), ("GEMINI_API_KEY_FILE", file), ("CREDENTIALS_DIRECTORY", folder)];
        assert_eq!(key_of("gemini", &all).as_deref(), Some("from-file"));
        assert_eq!(key_of("gemini", &all[2..]).as_deref(), Some("from-systemd"));
        assert_eq!(key_of("gemini", &[("GOOGLE_API_KEY", "direct"), all[1]]).as_deref(), Some("direct"));
        assert_eq!(key_of("anthropic", &all), None);
    }

    #[test]
    fn addresses_are_checked() {
        for bad in ["", "api", "ftp://x", "http://", "https://u:secret@x", "https://x?key=secret", "file:///etc"] {
            let error = Endpoint::new("X_BASE_URL", bad, None).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let good = Endpoint::new("X", "http://[::1]:1234/v1/", Some("k-123456".to_owned().into())).unwrap();
        assert_eq!(good.base_url(), "http://[::1]:1234/v1");
        assert!(good.is_loopback() && good.is_plain());
        assert!(!format!("{good:?}").contains("k-123456"));
    }
}
