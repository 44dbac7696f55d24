//! What a person does about a remote that refuses: the very lines for devo.yaml, the very command for a host's key.

use super::git::Credentials;
use super::remote::{Kind, Remote};

/// For a remote that does not know whoever asks, or does not let them.
pub(super) fn access(remote: &Remote, credentials: &Credentials, said: &str) -> String {
    let place = remote.place().unwrap_or_default();
    let then = "then `devo retry RUN`";
    match remote.kind() {
        Kind::Local(path) => format!("look at owner and mode of {}, {then}", path.display()),
        Kind::Web { .. } if said.contains("error: 407") => format!(
            "the proxy wants a user and a password: set `git: {{credentials: {{\"{place}\": {{proxy: GIT_PROXY}}}}}}` in \
             devo.yaml, export GIT_PROXY=http://USER:PASSWORD@PROXY:PORT, {then}"
        ),
        Kind::Web { .. } => match (&credentials.token_name, remote.password()) {
            (Some(name), _) => format!(
                "{place} does not accept the token in {name}: renew it, or give it the right to read and push this \
                 repository, {then}"
            ),
            (None, Some(_)) => format!(
                "{place} does not accept the password that stands in `url`; a token is better placed outside: {}, {then}",
                token_lines(&place)
            ),
            (None, None) => format!("give devo a token for {place}: {}, {then}", token_lines(&place)),
        },
        Kind::Ssh { .. } => match (&credentials.ssh_key, &credentials.ssh_auth_sock) {
            (Some(key), _) => format!(
                "{place} does not accept {0}: add {0}.pub to the account or to the repository's deploy keys, with the right \
                 to write (a key with a passphrase works through the agent only), {then}",
                key.display()
            ),
            (None, agent) => format!(
                "{}: `ssh-add` a key that {place} knows, or name one in devo.yaml: \
                 `git: {{credentials: {{\"{place}\": {{ssh_key: ~/.ssh/id_ed25519}}}}}}`, {then}",
                match agent {
                    Some(_) => "neither the ssh agent nor ~/.ssh holds a key that is accepted",
                    None =>
                        "there is no ssh agent (SSH_AUTH_SOCK is not set), and ~/.ssh holds no key that is accepted",
                }
            ),
        },
    }
}

/// For a host whose key is unknown, or is another one than it was.
pub(super) fn host_key(remote: &Remote, credentials: &Credentials, said: &str) -> String {
    let Kind::Ssh { host, port, .. } = remote.kind() else { return String::new() };
    let file = match &credentials.known_hosts {
        Some(file) => file.display().to_string(),
        None => "~/.ssh/known_hosts".to_owned(),
    };
    let host = host.trim_matches(['[', ']']);
    let (option, name) = match port {
        Some(port) => (format!("-p {port} "), format!("'[{host}]:{port}'")),
        None => (String::new(), host.to_owned()),
    };
    let scan = format!("ssh-keyscan {option}{host} >> {file}");
    let compare = format!("compare `ssh-keygen -lf {file}` with the fingerprint that the host publishes");
    if said.contains("identification has changed") {
        format!(
            "ask the host's owner whether its key was changed; if so: ssh-keygen -f {file} -R {name}; {scan}; {compare}"
        )
    } else {
        format!("as the user that devo runs as: {scan}; {compare}")
    }
}

/// How to give devo a token for a host.
fn token_lines(place: &str) -> String {
    let name = match place.split(':').next().unwrap_or_default() {
        host if host.contains("github") => "GITHUB_TOKEN",
        host if host.contains("gitlab") => "GITLAB_TOKEN",
        _ => "GIT_TOKEN",
    };
    format!(
        "set `git: {{credentials: {{\"{place}\": {{token: {name}}}}}}}` in devo.yaml and export {name} (or {name}_FILE=/path, or \
         a systemd credential {name})"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn at(url: &str) -> Remote {
        Remote::parse(url, Path::new("/")).unwrap()
    }

    #[test]
    fn remedies_name_the_lines_to_paste() {
        let none = Credentials::default();
        let https = access(&at("https://github.com/a/b"), &none, "error: 401");
        assert!(https.contains(r#"git: {credentials: {"github.com": {token: GITHUB_TOKEN}}}"#), "{https}");
        assert!(https.contains("GITHUB_TOKEN_FILE") && https.ends_with("then `devo retry RUN`"), "{https}");
        let port = access(&at("https://git.acme.com:8443/a/b"), &none, "");
        assert!(port.contains(r#"{"git.acme.com:8443": {token: GIT_TOKEN}}"#), "{port}");
        let named = Credentials { token_name: Some("T".into()), ..none.clone() };
        assert!(access(&at("https://github.com/a/b"), &named, "").contains("does not accept the token in T"));
        let ssh = access(&at("git@github.com:a/b"), &none, "");
        assert!(ssh.contains("SSH_AUTH_SOCK") && ssh.contains("ssh_key: ~/.ssh/id_ed25519"), "{ssh}");
        let key = Credentials { ssh_key: Some("/k".into()), ..none.clone() };
        assert!(access(&at("git@github.com:a/b"), &key, "").contains("/k.pub"));
        let host = host_key(&at("ssh://git@h:2222/a"), &none, "");
        assert!(host.contains("ssh-keyscan -p 2222 h >> ~/.ssh/known_hosts"), "{host}");
        let changed = host_key(&at("git@h:a"), &none, "remote host identification has changed");
        assert!(changed.contains("ssh-keygen -f ~/.ssh/known_hosts -R h;"), "{changed}");
    }
}
