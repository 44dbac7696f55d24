//! Which folders of PATH a command needs, and what they need in turn. Nothing is executed to find out.

use std::path::{Path, PathBuf};

/// What a command's PATH is, and which folders outside the system's own must be readable for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Toolchains {
    /// In order; every entry exists.
    pub path: Vec<PathBuf>,
    /// Folders to bind read-only at their own place; the system's (`/usr` and so on) are not among them.
    pub bind: Vec<PathBuf>,
}

/// Folders that every sandbox has.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib64"];

impl Toolchains {
    /// Resolves a PATH. `home` is the user's home, which is never bound as a whole.
    pub fn discover(path: &str, home: Option<&Path>) -> Self {
        let mut found = Self::default();
        for entry in std::env::split_paths(path) {
            if !entry.is_absolute() || !entry.is_dir() {
                continue;
            }
            if is_system(&entry) {
                found.add_path(entry);
            } else if let Some(toolchain) = rustup(&entry) {
                found.add_bound(toolchain.join("bin"), toolchain);
            } else if let Some(version) = pyenv(&entry) {
                found.add_bound(version.join("bin"), version);
            } else {
                let bound = widest(&entry, home);
                found.add_bound(entry, bound);
            }
        }
        for system in ["/usr/local/bin", "/usr/bin", "/bin"] {
            found.add_path(PathBuf::from(system));
        }
        found
    }

    /// As a PATH variable.
    pub fn variable(&self) -> String {
        let parts: Vec<String> = self.path.iter().map(|path| path.display().to_string()).collect();
        parts.join(":")
    }

    fn add_path(&mut self, path: PathBuf) {
        if path.is_dir() && !self.path.contains(&path) {
            self.path.push(path);
        }
    }

    fn add_bound(&mut self, path: PathBuf, bind: PathBuf) {
        self.add_path(path);
        if !self.bind.contains(&bind) {
            self.bind.push(bind);
        }
    }
}

fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| path.starts_with(system))
}

/// `~/.cargo/bin` holds rustup's proxies, which need variables that a command does not see: the default toolchain itself.
fn rustup(entry: &Path) -> Option<PathBuf> {
    if !entry.join("rustup").exists() {
        return None;
    }
    let home = entry.parent()?.parent()?.join(".rustup");
    let settings = std::fs::read_to_string(home.join("settings.toml")).unwrap_or_default();
    let named = settings.lines().find_map(|line| {
        let value = line.strip_prefix("default_toolchain")?.trim_start().strip_prefix('=')?;
        Some(value.trim().trim_matches('"').to_owned())
    });
    let toolchains = home.join("toolchains");
    let chosen = named.map(|name| toolchains.join(name)).filter(|path| path.join("bin").is_dir());
    let chosen = chosen.or_else(|| {
        let mut all: Vec<PathBuf> = std::fs::read_dir(&toolchains).ok()?.flatten().map(|entry| entry.path()).collect();
        all.retain(|path| path.join("bin").is_dir());
        all.sort();
        all.pop()
    })?;
    std::fs::canonicalize(chosen).ok()
}

/// pyenv's shims are scripts that look for a version: that version itself.
fn pyenv(entry: &Path) -> Option<PathBuf> {
    let root = entry.parent()?;
    if entry.file_name()? != "shims" || !root.join("versions").is_dir() {
        return None;
    }
    let version = std::fs::read_to_string(root.join("version")).ok()?;
    let version = root.join("versions").join(version.split_whitespace().next()?);
    version.join("bin").is_dir().then_some(version)
}

/// `/opt/x/bin` comes with `/opt/x`; a folder right under the user's home or the root comes alone.
fn widest(entry: &Path, home: Option<&Path>) -> PathBuf {
    let parent = entry.parent().filter(|_| entry.file_name().is_some_and(|name| name == "bin"));
    let wide = parent.filter(|parent| {
        let holds_home = home.is_some_and(|home| home.starts_with(parent));
        let dotless = parent.file_name().is_some_and(|name| name != ".local" && name != ".config");
        !holds_home && dotless && parent.components().count() > 2
    });
    wide.unwrap_or(entry).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_and_shims_become_the_toolchain_itself_and_home_is_never_bound() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let cargo = at(".cargo/bin");
        std::fs::write(cargo.join("rustup"), "").unwrap();
        at(".rustup/toolchains/stable/bin");
        std::fs::write(home.path().join(".rustup/settings.toml"), "default_toolchain = \"stable\"\n").unwrap();
        let shims = at(".pyenv/shims");
        at(".pyenv/versions/3.11.7/bin");
        std::fs::write(home.path().join(".pyenv/version"), "3.11.7\n").unwrap();
        let local = at(".local/bin");
        let bin = at("bin");
        let path = std::env::join_paths([&cargo, &shims, &local, &bin, Path::new("relative")]).unwrap();
        let found = Toolchains::discover(path.to_str().unwrap(), Some(home.path()));
        let toolchain = std::fs::canonicalize(home.path().join(".rustup/toolchains/stable")).unwrap();
        assert_eq!(found.path[0], toolchain.join("bin"));
        assert_eq!(found.bind, [toolchain, home.path().join(".pyenv/versions/3.11.7"), local, bin]);
        assert!(found.path.iter().all(|path| path.is_absolute()));
    }
}
