//! What `devo demo` works on: a temporary home, a small shop with a bare remote, and the shipped recording of two models.

use std::path::{Path, PathBuf};
use std::process::Command;

use rust_embed::Embed;

use super::make_home;
use crate::error::Error;
use crate::sandboxes::{self, SandboxKind, Settings, Supervisor, Surroundings};

/// The sample repository, its scripted replies and the recording made of them.
#[derive(Embed)]
#[folder = "src/frontends/cli/demo"]
struct Files;

/// The task of the demo.
pub const TASK: &str = "Validar stock negativo en ventas: una venta no puede dejar el inventario por debajo de cero";
/// The repository's key.
pub const REPO: &str = "tienda";
/// Names end in this where the plain name would mean something inside this repository (a manifest, an ignore file).
const SUFFIX: &str = ".in";

/// A prepared demo.
pub struct Demo {
    /// The home.
    pub home: PathBuf,
    /// The recording.
    pub cassette: PathBuf,
    /// Why commands run on the host, where no sandbox works.
    pub unconfined: Option<String>,
}

/// Makes everything in a new folder below the system's temporary one.
pub async fn prepare() -> Result<Demo, Error> {
    let failed = |what: &'static str| move |error: std::io::Error| Error::machine("demo", what, &error);
    let root = tempfile::Builder::new().prefix("devo-demo-").tempdir().map_err(failed("no temporary folder"))?.keep();
    let home = root.join("home");
    make_home(&home)?;
    let source = root.join("source");
    for name in Files::iter() {
        let Some(path) = name.strip_prefix("tienda/") else { continue };
        let path = match path.strip_suffix(SUFFIX) {
            Some("gitignore") => ".gitignore",
            Some(path) => path,
            None => path,
        };
        let file = Files::get(&name).ok_or_else(|| Error::bug(format!("{name} is not embedded")))?;
        let path = source.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(&source)).map_err(failed("cannot write the sample"))?;
        std::fs::write(path, file.data).map_err(failed("cannot write the sample"))?;
    }
    let cassette = home.join("demo-cassette.jsonl");
    let recorded = Files::get("cassette.jsonl").map(|file| file.data.into_owned()).unwrap_or_default();
    std::fs::write(&cassette, recorded).map_err(failed("cannot write the recording"))?;
    for args in [
        &["init", "-q", "-b", "main"][..],
        &["add", "-A"],
        &["commit", "-q", "-m", "Una tienda de ejemplo"],
        &["branch", "development"],
        &["clone", "-q", "--bare", ".", "../remote.git"],
    ] {
        git(&source, args)?;
    }
    let unconfined = sandbox_trouble(&home).await;
    let kind = if unconfined.is_some() { "host" } else { "bubblewrap" };
    let config = format!(
        "# Written by `devo demo`.\nrepos:\n  {REPO}:\n    url: {}\n    base: development\n    checks: {{test: cargo test \
         --offline --lib --tests}}\n    sandbox: {{type: {kind}}}\n",
        root.join("remote.git").display()
    );
    std::fs::write(home.join("devo.yaml"), config).map_err(failed("cannot write devo.yaml"))?;
    Ok(Demo { home, cassette, unconfined })
}

async fn sandbox_trouble(home: &Path) -> Option<String> {
    let mut settings = Settings::new(Supervisor::this_program(), &Surroundings::from_env());
    settings.hide = vec![home.to_owned()];
    let opened = match sandboxes::open(SandboxKind::Bubblewrap, &settings) {
        Ok(sandbox) => sandbox.probe().await,
        Err(error) => Err(error),
    };
    opened.err().map(|error| error.to_string())
}

fn git(dir: &Path, args: &[&str]) -> Result<(), Error> {
    let author = [("GIT_AUTHOR_NAME", "Tienda"), ("GIT_AUTHOR_EMAIL", "tienda@localhost")];
    let committer = [("GIT_COMMITTER_NAME", "Tienda"), ("GIT_COMMITTER_EMAIL", "tienda@localhost")];
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("LANG", "C.UTF-8")])
        .envs(author.into_iter().chain(committer))
        // The sample is the same commit everywhere, so that what is shown is what the README shows.
        .envs([("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z"), ("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")])
        .output()
        .map_err(|error| {
            Error::machine("git", "cannot run git", &error).hint("install it: `sudo apt-get install git`")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::refused("git", format!("git {} failed: {}", args.join(" "), said.trim())))
}
