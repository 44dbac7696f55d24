//! What `devo doctor` looks at. Each check says what it found and, where something is missing, the command that mends it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use super::Settings;
use crate::engine::Clock;
use crate::journal::{Durability, SqliteJournal};
use crate::providers::endpoint::Endpoint;
use crate::providers::{ModelTable, provider};

/// The oldest git that has everything that is used.
const GIT_MIN: (u32, u32) = (2, 30);
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

/// Everything there is to look at; slow parts (a probe of the sandbox) take tens of milliseconds.
pub fn checks(settings: &Settings) -> Vec<Check> {
    let mut found = vec![git(), bubblewrap(), user()];
    match settings.places.find() {
        Err(error) => {
            let message = std::iter::once(error.message).chain(error.causes).collect::<Vec<_>>().join(": ");
            found.push(Check::new("home", Level::Critical, message).fix("devo init DIR"));
            for id in ["home.private", "home.writable", "disk", "journal"] {
                found.push(Check::new(id, Level::Skipped, "there is no home to look at"));
            }
        }
        Ok(home) => {
            found.push(Check::new("home", Level::Ok, home.display().to_string()));
            found.extend([private(&home), writable(&home), disk(&home), journal(&home)]);
            found.extend(configuration(&home));
        }
    }
    found
}

/// devo.yaml, and for each role that a shipped pipeline calls a known model and a key (which is never shown).
fn configuration(home: &Path) -> Vec<Check> {
    let config = match super::read_config(home) {
        Ok(config) => config,
        Err(error) => return vec![Check::new("config", Level::Critical, error.message).fix("devo validate devo.yaml")],
    };
    let repos = config.repos.len();
    let mut found = vec![match repos {
        0 => Check::new("config", Level::Warning, "devo.yaml names no repository").fix("edit devo.yaml: `repos:`"),
        _ => Check::new("config", Level::Ok, format!("{repos} repositories")),
    }];
    let table = ModelTable::builtin().with_overrides(config.prices.clone(), config.models.clone());
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    for (id, name) in [("role.planner", "planner"), ("role.executor", "executor")] {
        let Some(role) = config.role(name) else { continue };
        let Ok(adapter) = provider(&role.provider) else { continue };
        let model = table.card(&role.provider, &role.model, Clock::start().now());
        let check = match (model, Endpoint::from_env(adapter, &environment)) {
            (Err(error), _) => Check::new(id, Level::Warning, error.to_string()).fix(error.hint()),
            (_, Err(error)) => Check::new(id, Level::Warning, error.to_string()).fix(error.hint()),
            (Ok(_), Ok(endpoint)) if endpoint.key().is_none() && !adapter.access().keyless_elsewhere => {
                let key = adapter.access().key_vars.first().copied().unwrap_or_default();
                let message = format!("{} {}: there is no key", role.provider, role.model);
                Check::new(id, Level::Warning, message).fix(format!("export {key}=…   (or {key}_FILE=PATH)"))
            }
            _ => Check::new(id, Level::Ok, format!("{} {}: there is a key", role.provider, role.model)),
        };
        found.push(check);
    }
    found
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

/// A real try: the program alone says nothing about user namespaces.
fn bubblewrap() -> Check {
    let probe = Command::new("bwrap")
        .args(["--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/", "--proc", "/proc"])
        .args(["--dev", "/dev", "--", "true"])
        .stdin(Stdio::null())
        .output();
    match probe {
        Ok(output) if output.status.success() => {
            Check::new("sandbox.bubblewrap", Level::Ok, "commands can be sandboxed")
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let message =
                format!("bubblewrap is there and does not work: {}", said.lines().next().unwrap_or("it failed"));
            let allow = Path::new("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
            let fix = if std::fs::read_to_string(allow).is_ok_and(|text| text.trim() == "1") {
                "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
            } else {
                "sudo sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
            };
            Check::new("sandbox.bubblewrap", Level::Critical, message).fix(fix)
        }
        Err(_) => Check::new("sandbox.bubblewrap", Level::Critical, "bubblewrap (bwrap) is not on PATH")
            .fix("apt-get install bubblewrap"),
    }
}

fn user() -> Check {
    if rustix::process::geteuid().is_root() {
        let message = "devo runs as root: whatever escapes a sandbox owns the machine";
        return Check::new("user", Level::Warning, message).fix("useradd --create-home devo && su - devo");
    }
    Check::new("user", Level::Ok, "devo runs as an ordinary user")
}

fn private(home: &Path) -> Check {
    let names = ["", "devo.yaml", "state.db", "token", "inbox", "runs", "repos", "logs"];
    let mut open = Vec::new();
    for name in names {
        let path = home.join(name);
        if path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
            open.push(path.display().to_string());
        }
    }
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
        let level = |id: &str| checks(&settings).into_iter().find(|check| check.id == id).unwrap().level;
        assert_eq!((level("home.private"), level("journal")), (Level::Ok, Level::Ok));
        std::fs::set_permissions(home.join("inbox"), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(home.join("state.db"), "not a database at all, just text that is long enough").unwrap();
        assert_eq!((level("home.private"), level("journal")), (Level::Warning, Level::Critical));
    }
}
