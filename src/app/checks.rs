//! What `devo doctor` looks at. Each check says what it found and, where something is missing, the command that mends it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::outfit::{Cassettes, Shop};
use super::{BotAccess, Settings};
use crate::config::{self, Config};
use crate::core::failure::Failure;
use crate::engine::Clock;
use crate::error::Error;
use crate::journal::{Durability, MemoryJournal, SqliteJournal};
use crate::sandboxes::docker;
use crate::secrets::Masker;
use crate::secrets::source::secret;
use crate::steps::repo::Repo;

/// The oldest git that has everything that is used.
const GIT_MIN: (u32, u32) = (2, 30);
/// How long a remote may take to answer.
const REMOTE_LIMIT: Duration = Duration::from_secs(10);
/// Below this a run is likely to stop for want of room, in bytes.
const DISK_LOW: u64 = 1024 * 1024 * 1024;
/// Below this nothing can be recorded safely, in bytes.
const DISK_OUT: u64 = 64 * 1024 * 1024;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Something will not work, or not well.
    Warning,
    /// Nothing will work.
    Critical,
    /// It could not be looked at because something else is missing.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable.
    pub id: String,
    /// How it ended.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    /// A check without a remedy.
    pub fn new(id: &str, level: Level, message: impl Into<String>) -> Self {
        Self { id: id.to_owned(), level, message: message.into(), fix: None }
    }

    /// Adds the command that mends it.
    #[must_use]
    pub fn fix(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }
}

/// Everything there is to look at. A probe of the sandbox takes tens of milliseconds; each configured remote is asked for its
/// branches, ten seconds at most, and so is the server of each configured channel. Nothing else uses the network.
pub async fn checks(settings: &Settings) -> Vec<Check> {
    let mut found = vec![git(), user()];
    match settings.places.find() {
        Err(error) => {
            let message = std::iter::once(error.message).chain(error.causes).collect::<Vec<_>>().join(": ");
            found.push(Check::new("home", Level::Critical, message).fix("devo init DIR"));
            for id in ["home.private", "home.writable", "disk", "journal", "config", "roles"] {
                found.push(Check::new(id, Level::Skipped, "there is no home to look at"));
            }
            // What a new home would use, tried beside a folder that stands in for it.
            let starter = Config::read(super::home::CONFIG, super::home::STARTER.as_bytes());
            if let (Ok(config), Ok(folder)) = (starter, tempfile::tempdir()) {
                found.extend(configured(folder.path(), config).await.into_iter().filter(is_sandbox));
            }
        }
        Ok(home) => {
            found.push(Check::new("home", Level::Ok, home.display().to_string()));
            found.extend([private(&home), writable(&home), disk(&home), journal(&home)]);
            match super::read_config(&home) {
                Ok(config) => found.extend(configured(&home, config).await),
                Err(error) => {
                    let path = home.join(super::home::CONFIG);
                    let message = error.message.lines().next().unwrap_or_default().to_owned();
                    let check = Check::new("config", Level::Critical, message);
                    found.push(check.fix(format!("devo validate {}", shell_word(&path))));
                    found.push(Check::new("roles", Level::Skipped, "devo.yaml cannot be read"));
                }
            }
        }
    }
    found
}

fn is_sandbox(check: &Check) -> bool {
    check.id.starts_with("sandbox.")
}

/// What devo.yaml names: repositories, models with their keys, sandboxes.
async fn configured(home: &Path, config: Config) -> Vec<Check> {
    let shop = Shop {
        home: home.to_owned(),
        config: Arc::new(config),
        masker: Masker::default(),
        // Nothing here stores anything, and the real one may be what is broken.
        journal: Arc::new(MemoryJournal::default()),
        clock: Clock::start(),
        tools: super::outfit::Tools::default(),
    };
    let repos: Vec<&String> = shop.config.repos.keys().collect();
    let mut found = vec![if repos.is_empty() {
        let edit = format!("${{EDITOR:-vi}} {}", shell_word(&home.join(super::home::CONFIG)));
        Check::new("config", Level::Warning, "devo.yaml names no repository").fix(edit)
    } else {
        let names = if repos.len() == 1 { "repository" } else { "repositories" };
        Check::new("config", Level::Ok, format!("devo.yaml names {} {names}", repos.len()))
    }];
    for name in repos {
        let id = format!("repo.{name}");
        found.push(match shop.repo(name) {
            Ok(repo) if repo.checks.is_empty() => {
                let message = "it has no checks, so nothing can be tested";
                Check::new(&id, Level::Warning, message)
                    .fix(format!("add `checks: {{test: …}}` to repos.{name} in devo.yaml"))
            }
            Ok(repo) => remote(&id, repo).await,
            Err(failure) => broken(&id, failure),
        });
    }
    for role in Shop::roles() {
        let id = format!("role.{role}");
        // Without a model a recording still plays, and a pipeline that asks none still runs.
        found.push(match shop.client(role, &Cassettes::None, shop.clock.now()) {
            Ok(client) => match client.card().retired(shop.clock.now()) {
                Some(retired) => {
                    Check::new(&id, Level::Warning, retired).fix(format!("edit `roles.{role}` in devo.yaml"))
                }
                None => Check::new(&id, Level::Ok, format!("{}: there is a key", client.card().id)),
            },
            Err(failure) => Check { level: Level::Warning, ..broken(&id, failure) },
        });
    }
    for (name, users) in shop.named_secrets() {
        let id = format!("secret.{name}");
        found.push(match shop.secret(&name) {
            Ok(_) => Check::new(&id, Level::Ok, "it has a value"),
            Err(failure) => {
                let by = if users.is_empty() { String::new() } else { format!(" (named by {})", users.join(", ")) };
                let message = format!("{}{by}", failure.message);
                Check { level: Level::Warning, ..broken(&id, Failure { message, ..failure }) }
            }
        });
    }
    found.extend(channels(&shop).await);
    let names = shop.config.repos.keys().map(|name| Some(name.as_str()));
    let mut tried = Vec::new();
    for repo in std::iter::once(None).chain(names) {
        let (settings, name) = shop.sandbox_of(repo);
        // Several containers are several things that can be wrong; the others are the same for everybody.
        let what = (name, settings.image.clone(), settings.runtime.clone());
        if !tried.contains(&what) {
            let first = !tried.iter().any(|(known, ..)| *known == name);
            let id = match repo.filter(|_| !first) {
                Some(repo) => format!("sandbox.{name}.{repo}"),
                None => format!("sandbox.{name}"),
            };
            tried.push(what);
            found.push(sandbox(&shop, &id, name, repo).await);
        }
    }
    found
}

/// The channels that speak to a server elsewhere, asked as `devo serve` would ask.
async fn channels(shop: &Shop) -> Vec<Check> {
    let mut found = vec![web(shop)];
    if let Some(smtp) = &shop.config.notify.smtp {
        found.push(mail(shop, smtp).await);
    }
    match super::bot::access(&shop.config, &shop.masker) {
        Ok(None) => {}
        Ok(Some(access)) => found.push(telegram(&access).await),
        Err(error) => found.push(refused("telegram", Level::Warning, error)),
    }
    found
}

/// What `devo serve` would refuse to serve pages and hooks with.
fn web(shop: &Shop) -> Check {
    let config = &shop.config;
    if let Err(error) = crate::frontends::web::may_listen(config) {
        return refused("web", Level::Critical, error);
    }
    let without = config.web.hooks.iter().find_map(|(name, hook)| {
        let why = match secret(&[&hook.secret], &super::outfit::environment) {
            Ok(Some(_)) => return None,
            Ok(None) => format!("{} is not set", hook.secret),
            Err(error) => error.to_string(),
        };
        Some((format!("the hook `{name}` has no secret, and `devo serve` does not start: {why}"), &hook.secret))
    });
    match without {
        Some((message, variable)) => Check::new("web", Level::Critical, message)
            .fix(format!("set {variable}, or {variable}_FILE to a file that holds it")),
        None => Check::new("web", Level::Ok, format!("pages would be served on http://{}", config.web.listen)),
    }
}

fn refused(id: &str, level: Level, error: Error) -> Check {
    let check = Check::new(id, level, error.message);
    match error.hint {
        Some(hint) => check.fix(hint),
        None => check,
    }
}

async fn mail(shop: &Shop, smtp: &config::Smtp) -> Check {
    let server = format!("{}:{}", smtp.host, smtp.port());
    let password = match &smtp.password {
        None => None,
        Some(name) => match secret(&[name], &super::outfit::environment) {
            Ok(Some(password)) => Some(password),
            Ok(None) => {
                let message = format!("the mail server's password `{name}` has no value");
                return Check::new("mail", Level::Warning, message).fix(format!(
                    "set {name}, or {name}_FILE to a file's path, or give devo a systemd credential {name}"
                ));
            }
            Err(error) => return Check::new("mail", Level::Warning, error.to_string()).fix(error.hint()),
        },
    };
    if let Some(password) = &password {
        shop.masker.add(password);
    }
    match crate::frontends::mail::probe(smtp, password).await {
        Ok(()) => Check::new("mail", Level::Ok, format!("{server} takes mail from us")),
        Err(why) => Check::new("mail", Level::Warning, format!("{server} cannot be used: {why}"))
            .fix("look at `notify.smtp` in devo.yaml and at the password's variable"),
    }
}

/// That the token is accepted, and that nothing else takes the updates away.
async fn telegram(access: &BotAccess) -> Check {
    use crate::frontends::telegram::Probed;
    match crate::frontends::telegram::probe(access).await {
        Probed::Ready(name) if access.settings.allow.is_empty() => {
            Check::new("telegram", Level::Warning, format!("@{name} answers, and nobody may talk to it"))
                .fix("add your numeric id to `chat.telegram.allow` in devo.yaml; @userinfobot tells it")
        }
        Probed::Ready(name) => Check::new("telegram", Level::Ok, format!("@{name} answers")),
        Probed::Webhook(name) => {
            let message = format!("@{name} sends its updates to a webhook of another program");
            Check::new("telegram", Level::Warning, message)
                .fix("stop that program; `devo serve` takes the webhook away when it starts")
        }
        Probed::Refused(why) => Check::new("telegram", Level::Warning, format!("the token is not accepted: {why}"))
            .fix("put the token that @BotFather shows into TELEGRAM_BOT_TOKEN"),
        Probed::Unknown(why) => {
            Check::new("telegram", Level::Warning, why).fix("look at the network, or at TELEGRAM_API_URL")
        }
    }
}

/// Asks the remote, as a run would: a wrong token or an unknown host key shows in no other way.
async fn remote(id: &str, repo: Repo) -> Check {
    let shown = repo.remote.shown();
    let asked = tokio::task::spawn_blocking(move || repo.reach(REMOTE_LIMIT)).await;
    match asked {
        Ok(Ok(base)) => Check::new(id, Level::Ok, format!("{shown} answers; work starts from `{base}`")),
        // The network may be away while devo is set up; credentials and addresses do not mend themselves.
        Ok(Err(error)) if error.retryable() => Check { level: Level::Warning, ..broken(id, error.to_failure()) },
        Ok(Err(error)) => broken(id, error.to_failure()),
        Err(error) => Check::new(id, Level::Warning, format!("{shown} could not be asked: {error}")),
    }
}

fn broken(id: &str, failure: Failure) -> Check {
    let check = Check::new(id, Level::Critical, failure.message);
    match failure.hint {
        // The remedies of failures speak of a run, and there is none here.
        Some(hint) => check.fix(hint.strip_suffix(", then `devo retry RUN`").unwrap_or(&hint)),
        None => check,
    }
}

/// A real try: that the program is there says nothing about what the kernel allows.
async fn sandbox(shop: &Shop, id: &str, name: &'static str, repo: Option<&str>) -> Check {
    let sandbox = match shop.sandbox(name, repo, None) {
        Ok(sandbox) => sandbox,
        Err(failure) => return broken(id, failure),
    };
    let image = shop.sandbox_of(repo).0.image.as_ref();
    match sandbox.probe().await {
        Ok(())
            if let Some(image) = image
                && !docker::has_image(image).await.unwrap_or(true) =>
        {
            let message =
                format!("the daemon answers; it does not have the image `{image}` yet, and the first run pulls it");
            Check::new(id, Level::Warning, message).fix(format!("docker pull {image}"))
        }
        Ok(()) if name == "docker" && image.is_none() => {
            Check::new(id, Level::Ok, "the daemon answers; the first run builds or pulls what the repository says")
        }
        Ok(()) if sandbox.isolates() => Check::new(id, Level::Ok, "commands can be confined"),
        Ok(()) => Check::new(id, Level::Warning, "commands are not confined: devo.yaml chose the host")
            .fix("set `sandbox: {type: bubblewrap}` in devo.yaml"),
        Err(error) => broken(id, crate::steps::sandbox_failure(&error)),
    }
}

fn git() -> Check {
    let install = "apt-get install git";
    let Ok(output) = Command::new("git").arg("--version").stdin(Stdio::null()).output() else {
        return Check::new("git", Level::Critical, "git is not on PATH").fix(install);
    };
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match git_version(&said) {
        Some(version) if version >= GIT_MIN => Check::new("git", Level::Ok, said),
        Some(_) => {
            let message = format!("{said} is too old: {}.{} or newer is needed", GIT_MIN.0, GIT_MIN.1);
            Check::new("git", Level::Critical, message).fix(install)
        }
        None => Check::new("git", Level::Critical, "git does not say its version").fix(install),
    }
}

fn git_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().nth(2)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn user() -> Check {
    if rustix::process::geteuid().is_root() {
        let message = "devo runs as root: whatever escapes a sandbox owns the machine";
        return Check::new("user", Level::Warning, message).fix("useradd --create-home devo && su - devo");
    }
    Check::new("user", Level::Ok, "devo runs as an ordinary user")
}

/// What of the home others may use.
pub fn open_to_others(home: &Path) -> Vec<String> {
    let names = ["", "devo.yaml", "state.db", "token", "inbox", "runs", "repos", "logs"];
    let paths = names.iter().map(|name| home.join(name));
    let open = paths.filter(|path| path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0));
    open.map(|path| path.display().to_string()).collect()
}

fn private(home: &Path) -> Check {
    let open = open_to_others(home);
    if open.is_empty() {
        return Check::new("home.private", Level::Ok, "only its owner can read the home");
    }
    let message = format!("others may use {}", open.join(", "));
    Check::new("home.private", Level::Warning, message).fix(format!("chmod -R go= {}", shell_word(home)))
}

fn writable(home: &Path) -> Check {
    let foreign = home.metadata().is_ok_and(|meta| meta.uid() != rustix::process::geteuid().as_raw());
    match tempfile::Builder::new().prefix(".doctor-").tempfile_in(home) {
        Ok(_) if foreign => {
            let message = "the home belongs to another user";
            Check::new("home.writable", Level::Warning, message).fix(format!("chown -R \"$USER\" {}", shell_word(home)))
        }
        Ok(_) => Check::new("home.writable", Level::Ok, "the home can be written"),
        Err(error) => Check::new("home.writable", Level::Critical, format!("the home cannot be written: {error}"))
            .fix(format!("chown -R \"$USER\" {0} && chmod -R u+rwX {0}", shell_word(home))),
    }
}

fn disk(home: &Path) -> Check {
    let Ok(stat) = rustix::fs::statvfs(home) else {
        return Check::new("disk", Level::Warning, "the file system does not say how much room there is");
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let message = format!("{} MiB free", free / (1024 * 1024));
    match free {
        0..DISK_OUT => {
            Check::new("disk", Level::Critical, message).fix(format!("du -xh {} | sort -h | tail", shell_word(home)))
        }
        DISK_OUT..DISK_LOW => {
            Check::new("disk", Level::Warning, message).fix(format!("du -xh {} | sort -h | tail", shell_word(home)))
        }
        _ => Check::new("disk", Level::Ok, message),
    }
}

fn journal(home: &Path) -> Check {
    let path = home.join("state.db");
    if !path.exists() && !home.join(".journal").exists() {
        return Check::new("journal", Level::Ok, "no run yet");
    }
    match SqliteJournal::open(&path, Durability::Full, true) {
        Ok(_) => Check::new("journal", Level::Ok, "state.db is whole"),
        Err(error) => {
            let check = Check::new("journal", Level::Critical, error.to_string());
            match error.hint() {
                Some(hint) => check.fix(hint),
                None => check,
            }
        }
    }
}

fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Places;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(git_version("git version 2.47.3"), Some((2, 47)));
        assert_eq!(git_version("git version 2.9.1 (Apple Git-1)"), Some((2, 9)));
        assert!((2, 9) < GIT_MIN);
        assert_eq!(git_version("hello"), None);
    }

    #[test]
    fn a_home_open_to_others_and_a_damaged_journal_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        crate::app::make_home(&home).unwrap();
        let settings = Settings { places: Places { explicit: Some(home.clone()), ..Places::from_env(None) } };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let level =
            |id: &str| runtime.block_on(checks(&settings)).into_iter().find(|check| check.id == id).unwrap().level;
        assert_eq!((level("home.private"), level("journal")), (Level::Ok, Level::Ok));
        assert_eq!((level("config"), level("role.planner") != Level::Skipped), (Level::Warning, true));
        std::fs::write(home.join("devo.yaml"), "repos: {shop: {url: /nowhere}}\nrols: {}\n").unwrap();
        assert_eq!((level("config"), level("roles")), (Level::Critical, Level::Skipped));
        std::fs::set_permissions(home.join("inbox"), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(home.join("state.db"), "not a database at all, just text that is long enough").unwrap();
        assert_eq!((level("home.private"), level("journal")), (Level::Warning, Level::Critical));
    }
}
