//! `git:`: who commits, what opens remotes, and how links are made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// Commits, and what opens remotes.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Git {
    /// Author and committer.
    #[serde(default)]
    pub author: Author,
    /// What opens remotes, by `HOST`, or `HOST:PORT` where an address names another port than the usual one.
    #[serde(default)]
    pub credentials: BTreeMap<String, Credential>,
}

/// What opens the remotes of one host. It is sent to that host and to no other.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// For https: the NAME of a token, never the token. It is read from the environment variable NAME, the file that
    /// NAME_FILE names, or systemd's credential NAME.
    #[serde(default)]
    pub token: Option<String>,
    /// For https: the user beside the token, where the forge wants a certain one.
    #[serde(default)]
    pub user: Option<String>,
    /// For ssh: the file of a private key, without a passphrase; without it the agent's keys and those in ~/.ssh are tried.
    #[serde(default)]
    pub ssh_key: Option<PathBuf>,
    /// For ssh: the file of known host keys, instead of ~/.ssh/known_hosts.
    #[serde(default)]
    pub known_hosts: Option<PathBuf>,
    /// For https: the address of a proxy, or the NAME of a secret that holds it where a password belongs to it.
    #[serde(default)]
    pub proxy: Option<String>,
}

/// Author and committer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Author {
    /// A name.
    pub name: String,
    /// An address.
    pub email: String,
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "dev-orchestrator".to_owned(), email: "devo@localhost".to_owned() }
    }
}

/// Links of a forge.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkTemplate {
    /// A branch's page.
    pub branch: String,
    /// The page on which a person creates the pull request.
    pub compare: String,
}

impl Git {
    /// What the schema cannot say: where, what, and what to do.
    pub(super) fn check(&self) -> Vec<(String, &'static str, String, &'static str)> {
        let mut wrong = Vec::new();
        let mut fault = |at: String, code, message: String, help| wrong.push((at, code, message, help));
        for (host, credential) in &self.credentials {
            let at = format!("/git/credentials/{}", host.replace('~', "~0").replace('/', "~1"));
            if !names_a_host(host) {
                let message = "this is no host, so no credentials can belong to it".to_owned();
                fault(
                    at.clone(),
                    "bad_host",
                    message,
                    "write the host alone, as in `github.com` or `git.acme.com:8443`",
                );
            }
            let names = [("token", credential.token.as_ref()), ("proxy", credential.proxy.as_ref())];
            for (key, name) in names.into_iter().filter_map(|(key, name)| Some((key, name?))) {
                // The value is not repeated: it may be the secret that should not stand here.
                if names_a_secret(name) || (key == "proxy" && names_a_proxy(name)) {
                    continue;
                }
                let message = format!("`{key}` holds the NAME of a secret, in capitals, never the secret");
                let help = "write a name such as GITHUB_TOKEN, and export the variable of that name";
                fault(format!("{at}/{key}"), "not_a_name", message, help);
            }
        }
        wrong
    }
}

/// `HOST` or `HOST:PORT`.
fn names_a_host(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(['-', '.', ':'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
}

/// Capitals, digits and `_`, as environment variables are named; tokens look otherwise.
pub(super) fn names_a_secret(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_uppercase() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// An address without a user or password in it.
fn names_a_proxy(text: &str) -> bool {
    let rest = ["http://", "https://", "socks5://", "socks5h://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| names_a_host(rest.trim_end_matches('/')))
}
