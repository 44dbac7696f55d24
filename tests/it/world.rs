//! A world of its own for one test: home, cleared environment, a real repository with a bare remote, fake models.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::fake::Fake;

pub const KEY: &str = "sk-test-0123456789abcdef";

pub struct World {
    pub dir: TempDir,
    pub fake: Fake,
}

/// What a command printed and how it ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn code(self, wanted: i32) -> Self {
        assert_eq!(self.code, Some(wanted), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The lines of an NDJSON stream.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

impl World {
    /// A home without repositories.
    pub fn bare() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap(), fake: Fake::start() };
        world.devo(&["init", world.home().to_str().unwrap()]).code(0);
        world
    }

    /// A home with the repository `shop`: the demo's shop with a bare remote whose base branch is `development`.
    pub fn shop() -> Self {
        let world = Self::bare();
        let source = world.path("source");
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/frontends/cli/demo/tienda");
        copy_sample(&sample, &source);
        world.git(&source, &["init", "-q", "-b", "main"]);
        world.git(&source, &["add", "-A"]);
        world.git(&source, &["commit", "-q", "-m", "The shop"]);
        world.git(&source, &["branch", "development"]);
        world.git(world.dir.path(), &["clone", "-q", "--bare", "source", "remote.git"]);
        world.configure("");
        world
    }

    /// Writes devo.yaml: the shop, and whatever the test adds.
    pub fn configure(&self, more: &str) {
        let text = format!(
            "repos:\n  shop:\n    url: {}\n    base: development\n    checks: {{test: cargo test --offline --lib --tests}}\n{more}\n",
            self.path("remote.git").display()
        );
        std::fs::write(self.home().join("devo.yaml"), text).unwrap();
    }

    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The binary with a cleared environment, this home and the fake models.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devo"));
        let user = self.path("user");
        std::fs::create_dir_all(&user).unwrap();
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            // Toolchains live in the real home; everything of devo's own goes to this world's.
            .env("HOME", std::env::var_os("HOME").unwrap_or_else(|| user.clone().into()))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("DEVO_HOME", self.home())
            .env("ANTHROPIC_API_KEY", KEY)
            .env("GEMINI_API_KEY", KEY)
            .env("ANTHROPIC_BASE_URL", &self.fake.url)
            .env("GOOGLE_GEMINI_BASE_URL", &self.fake.url)
            .stdin(Stdio::null());
        command
    }

    pub fn devo(&self, args: &[&str]) -> Ran {
        ran(self.command(args).output().unwrap())
    }

    pub fn git(&self, dir: &Path, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(args)
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("LANG", "C.UTF-8")])
            .envs([("GIT_AUTHOR_NAME", "Test"), ("GIT_AUTHOR_EMAIL", "test@localhost")])
            .envs([("GIT_COMMITTER_NAME", "Test"), ("GIT_COMMITTER_EMAIL", "test@localhost")])
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Branches of the remote, with their commits.
    pub fn remote_branches(&self) -> Vec<(String, String)> {
        let text = self
            .git(&self.path("remote.git"), &["for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads"]);
        text.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    pub fn status(&self, run: &str) -> Value {
        self.devo(&["status", run, "--json"]).code(0).json()
    }
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn copy_sample(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let name = match name.strip_suffix(".in") {
            Some("gitignore") => ".gitignore",
            Some(name) => name,
            None => &name,
        };
        if entry.file_type().unwrap().is_dir() {
            copy_sample(&entry.path(), &to.join(name));
        } else {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}
