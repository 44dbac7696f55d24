//! What opens a remote: the entry of devo.yaml for its host, with the secrets that it names. Secrets are read here, made known
//! to the masker, and handed to git's caller; nothing here speaks to a remote.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use secrecy::{ExposeSecret as _, SecretString};

use crate::config;
use crate::core::failure::Failure;
use crate::secrets::Masker;
use crate::secrets::source::{Unreadable, secret};
use crate::workspace::{Credentials, Remote};

/// The credentials for a remote. Only what devo.yaml names is used: a `GITHUB_TOKEN` that happens to be in the environment is
/// sent nowhere. Without an entry ssh still tries the agent and ~/.ssh, and https is asked without credentials.
pub fn credentials(
    home: &Path,
    git: &config::Git,
    remote: &Remote,
    masker: &Masker,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Credentials, Failure> {
    let mut found = Credentials {
        ssh_auth_sock: environment("SSH_AUTH_SOCK").map(PathBuf::from),
        https_proxy: environment("https_proxy").or_else(|| environment("HTTPS_PROXY")).map(SecretString::from),
        no_proxy: environment("no_proxy").or_else(|| environment("NO_PROXY")),
        ..Credentials::default()
    };
    let entry = git.credentials.iter().find(|(place, _)| remote.is_at(place));
    if let Some((place, entry)) = entry {
        let web = remote.shown().starts_with("http");
        if let Some(name) = entry.token.as_ref().filter(|_| web) {
            found.token = Some(named(name, &format!("the token for {place}"), environment)?);
            found.token_name = Some(name.clone());
        }
        found.user.clone_from(&entry.user);
        if let Some(proxy) = entry.proxy.as_ref().filter(|_| web) {
            found.https_proxy = Some(match proxy.contains("://") {
                true => SecretString::from(proxy.clone()),
                false => named(proxy, &format!("the proxy for {place}"), environment)?,
            });
            found.no_proxy = None;
        }
        let place_of = |path: &PathBuf| located(home, path, environment);
        found.known_hosts = entry.known_hosts.as_ref().map(place_of);
        found.ssh_key = entry.ssh_key.as_ref().map(place_of);
        if let Some(key) = found.ssh_key.as_ref().filter(|_| !web) {
            private_key(key, place)?;
        }
    }
    for secret in [found.token.as_ref(), found.https_proxy.as_ref()].into_iter().flatten() {
        masker.add(secret);
    }
    // The form in which it travels.
    if let Some(login) = found.login(remote) {
        masker.add(&base64::engine::general_purpose::STANDARD.encode(login.expose_secret()).into());
    }
    Ok(found)
}

fn named(name: &str, what: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<SecretString, Failure> {
    let unreadable = |error: Unreadable| Failure::terminal("no_credential", error.to_string()).hint(error.hint());
    secret(&[name], environment).map_err(unreadable)?.ok_or_else(|| {
        let message = format!("devo.yaml says that {name} is {what}, and there is no {name}");
        Failure::terminal("no_credential", message).hint(format!(
            "export {name}=…, or {name}_FILE=/path/of/a/file, or give systemd `LoadCredential={name}:/path`, then `devo retry RUN`"
        ))
    })
}

/// Where private keys lie that git is given or that ssh finds by itself, and the agent that has some.
pub(super) fn key_files(home: &Path, git: &config::Git, environment: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let named = git.credentials.values().filter_map(|entry| entry.ssh_key.as_deref());
    let named = named.map(|path| located(home, path, environment));
    let own = environment("HOME").map(|user| Path::new(&user).join(".ssh"));
    named.chain(own).chain(environment("SSH_AUTH_SOCK").map(PathBuf::from)).collect()
}

/// `~/…` is the user's, a relative path the home's.
fn located(home: &Path, path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    match (path.strip_prefix("~"), environment("HOME")) {
        (Ok(rest), Some(user)) => Path::new(&user).join(rest),
        _ => home.join(path),
    }
}

/// What ssh would only mention beside a refusal of the server.
fn private_key(key: &Path, place: &str) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let refused = |why: String, hint: String| {
        Failure::terminal("no_credential", format!("the ssh key for {place}, {}, {why}", key.display())).hint(hint)
    };
    let name = key.display();
    match std::fs::File::open(key).and_then(|file| file.metadata()) {
        Err(error) => Err(refused(
            format!("cannot be read: {error}"),
            format!("put the key there, or make one: ssh-keygen -t ed25519 -N '' -f {name}"),
        )),
        Ok(meta) if !meta.is_file() => Err(refused("is not a file".into(), "name the private key's file".into())),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            Err(refused("is open to others, so ssh does not use it".into(), format!("chmod 600 {name}")))
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str, url: &str, env: &[(&str, &str)]) -> Result<(Credentials, Masker), Failure> {
        let config = config::Config::read("devo.yaml", yaml.as_bytes()).unwrap();
        let remote = Remote::parse(url, Path::new("/")).unwrap();
        let masker = Masker::default();
        let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        credentials(Path::new("/home/devo"), &config.git, &remote, &masker, &lookup).map(|found| (found, masker))
    }

    const YAML: &str =
        "git: {credentials: {github.com: {token: HUB, user: ana}, \"git.acme.com:2222\": {known_hosts: ~/k}}}";

    #[test]
    fn a_token_is_read_for_its_host_alone() {
        let env = [("HUB", "tok-123456"), ("GITHUB_TOKEN", "other-123456"), ("HOME", "/u")];
        let (found, masker) = of(YAML, "https://github.com/a/b", &env).unwrap();
        assert_eq!((found.token.unwrap().expose_secret(), found.token_name.as_deref()), ("tok-123456", Some("HUB")));
        assert_eq!(masker.mask("x tok-123456 YW5hOnRvay0xMjM0NTY= y"), "x *** *** y");
        for url in ["https://github.com.evil.com/a/b", "https://github.com:8443/a/b", "git@github.com:a/b", "/srv/a"] {
            let (found, _) = of(YAML, url, &env).unwrap();
            assert!(found.token.is_none(), "{url}");
        }
        let (found, _) = of("repos: {}", "https://github.com/a/b", &env).unwrap();
        assert!(found.token.is_none(), "only what devo.yaml names is used");
        let (found, _) = of(YAML, "ssh://git@git.acme.com:2222/a", &env).unwrap();
        assert_eq!(found.known_hosts.unwrap(), Path::new("/u/k"));
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let failure = of(YAML, "https://github.com/a/b", &[]).err().unwrap();
        assert!(failure.message.contains("there is no HUB") && failure.hint.unwrap().contains("LoadCredential=HUB"));
        let failure = of(YAML, "https://github.com/a/b", &[("HUB_FILE", "/nowhere/x")]).err().unwrap();
        assert!(failure.message.contains("/nowhere/x"), "{failure:?}");
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let yaml = format!("git: {{credentials: {{h: {{ssh_key: {}}}}}}}", key.display());
        let failure = of(&yaml, "git@h:a", &[]).err().unwrap();
        assert!(failure.message.contains("cannot be read") && failure.hint.unwrap().contains("ssh-keygen"));
        std::fs::write(&key, "k").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(of(&yaml, "git@h:a", &[]).err().unwrap().hint.unwrap().starts_with("chmod 600"));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(of(&yaml, "git@h:a", &[]).unwrap().0.ssh_key.unwrap(), key);
    }
}
