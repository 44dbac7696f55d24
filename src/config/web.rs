//! Settings of the web channel: where it listens, who may use it, what may knock from outside. It does not know how any of
//! it is served.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

/// The user that the home's `token` file stands for.
pub const OWNER: &str = "owner";

/// The web pages and the API of `devo serve`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// An IP address and a port. Anything but loopback needs `users`.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// How people reach it from elsewhere, for links: `https://devo.example.org`. Its host is admitted as well.
    pub url: Option<String>,
    /// More host names that requests may be for, beside `localhost`, IP addresses and the one of `url`.
    pub hosts: Vec<String>,
    /// Whether a proxy in front sets X-Forwarded-For and X-Forwarded-Proto; without one, anybody could.
    pub behind_proxy: bool,
    /// Doors for other programs: a signed POST to `/hooks/NAME` submits a task.
    pub hooks: BTreeMap<String, Hook>,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7333)),
            url: None,
            hosts: Vec::new(),
            behind_proxy: false,
            hooks: BTreeMap::new(),
        }
    }
}

/// A door for another program.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Name of the environment variable with the shared secret (or with `_FILE`, or a systemd credential of that name).
    pub secret: String,
    /// The pipeline that its tasks use, a name under pipelines/.
    pub pipeline: String,
    /// The repository that its tasks use.
    #[serde(default)]
    pub repo: Option<String>,
}

/// Someone who may use the pages and the API. `devo user hash` makes the hashes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// What the user may do.
    pub roles: Vec<UserRole>,
    /// An argon2 hash of a password, `$argon2id$…`.
    #[serde(default)]
    pub password: Option<String>,
    /// The hash of a token, `sha256:` and 64 hex digits.
    #[serde(default)]
    pub token: Option<String>,
}

/// What a user may do; each role may look at everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UserRole {
    /// Look.
    Viewer,
    /// Submit tasks, revise plans, abort and retry.
    Submitter,
    /// Approve and reject plans, answer questions.
    Approver,
}

/// A mistake that the schema cannot find: where, a stable word, what, and what to do.
pub(super) type Fault = (String, &'static str, String, &'static str);

/// What the schema cannot say of both keys.
pub(super) fn check(web: &Web, users: &BTreeMap<String, User>) -> Vec<Fault> {
    let mut wrong = Vec::new();
    for (name, user) in users {
        let place = format!("/users/{name}");
        if !is_name(name) {
            wrong.push((place.clone(), "bad_name", format!("`{name}` cannot name a user"), NAME_HELP));
        }
        if name == OWNER {
            let message = format!("`{OWNER}` is whoever has the home's token; it needs no entry");
            wrong.push((place.clone(), "bad_name", message, "choose another name"));
        }
        if user.roles.is_empty() {
            let message = format!("`{name}` may do nothing");
            wrong.push((
                place.clone(),
                "no_role",
                message,
                "give roles: [viewer], [submitter] or [approver], or several",
            ));
        }
        if user.password.is_none() && user.token.is_none() {
            let message = format!("`{name}` has no way to sign in");
            wrong.push((
                place.clone(),
                "no_credential",
                message,
                "add `password` or `token`: `devo user hash` makes one",
            ));
        }
        if user.password.as_ref().is_some_and(|hash| !hash.starts_with("$argon2")) {
            let message = "this is not the hash of a password".to_owned();
            wrong.push((format!("{place}/password"), "not_a_hash", message, "`devo user hash` makes one"));
        }
        if user.token.as_ref().is_some_and(|hash| !is_token_hash(hash)) {
            let message = "this is not the hash of a token".to_owned();
            wrong.push((format!("{place}/token"), "not_a_hash", message, "`devo user hash --token` makes one"));
        }
    }
    for name in web.hooks.keys().filter(|name| !is_name(name)) {
        wrong.push((format!("/web/hooks/{name}"), "bad_name", format!("`{name}` cannot name a hook"), NAME_HELP));
    }
    for (name, hook) in &web.hooks {
        let plain = hook.secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !plain || hook.secret.is_empty() {
            let message = "`secret` is the name of an environment variable, not the secret itself".to_owned();
            wrong.push((format!("/web/hooks/{name}/secret"), "bad_name", message, "like `secret: DEVO_HOOK_SECRET`"));
        }
    }
    if web.url.as_ref().is_some_and(|url| host_of_url(url).is_none()) {
        let message = "`url` must be like https://devo.example.org".to_owned();
        wrong.push(("/web/url".to_owned(), "wrong_value", message, "give scheme and host, without a path"));
    }
    wrong
}

const NAME_HELP: &str = "use letters, digits, `-`, `_` and `.`, 64 at most";

fn is_name(text: &str) -> bool {
    let strict = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    strict && !text.starts_with(['.', '-']) && !text.is_empty() && text.len() <= 64
}

fn is_token_hash(hash: &str) -> bool {
    hash.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Host and port of a base URL without a path; `None` if it is not one.
pub fn host_of_url(url: &str) -> Option<&str> {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?.trim_end_matches('/');
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    (plain && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, FILE};

    #[test]
    fn users_and_hooks_are_checked_with_their_place() {
        let text = "web: {listen: '0.0.0.0:80', url: 'devo', hooks: {h: {secret: 'p w', pipeline: p}}}\nusers:\n  owner: {roles: [viewer], password: plain}\n  ann: {roles: []}\n  bob: {roles: [viewer], token: 'sha256:1'}\n  'c d': {roles: [boss], token: x}\n";
        let codes = |text: &str| -> Vec<(&str, usize)> {
            Config::read(FILE, text.as_bytes()).unwrap_err().iter().map(|fault| (fault.code, fault.line)).collect()
        };
        assert_eq!(codes(text), [("wrong_value", 6)]);
        let text = text.replace("boss", "viewer");
        let found = codes(&text);
        for wanted in [
            ("bad_name", 3),
            ("not_a_hash", 3),
            ("no_role", 4),
            ("no_credential", 4),
            ("not_a_hash", 5),
            ("bad_name", 6),
            ("bad_name", 1),
            ("wrong_value", 1),
        ] {
            assert!(found.contains(&wanted), "{wanted:?} is missing in {found:?}");
        }
        assert_eq!(codes("web: {listen: here}\n"), [("wrong_value", 1)]);
    }
}
