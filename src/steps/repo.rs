//! What the steps of a run know of its repository, and the few ways in which they reach it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::core::failure::Failure;
use crate::workspace::{
    Author, Base, CommitId, Credentials, DiffStat, Error, Git, LinkTemplate, Patience, Protection, Remote, Store,
    TreeId, Worktree, probe,
};

/// A clone of a large repository may take this long.
const NETWORK: Duration = Duration::from_secs(30 * 60);

/// A repository, configured.
#[derive(Clone)]
pub struct Repo {
    /// Its key in devo.yaml, or one made of its address.
    pub key: String,
    /// Where it is.
    pub remote: Remote,
    /// The branch that work starts from, if configured.
    pub base: Option<String>,
    /// How many commits of each branch are cloned; all if `None`.
    pub depth: Option<u32>,
    /// Globs of branches that are never pushed to.
    pub protected: Vec<String>,
    /// Named commands.
    pub checks: Vec<(String, String)>,
    /// Who commits.
    pub author: Author,
    /// What opens the remote.
    pub credentials: Credentials,
    /// Links of a forge that is not known.
    pub links: Option<LinkTemplate>,
    /// The system's git.
    pub git: Git,
    /// The home.
    pub home: PathBuf,
}

impl Repo {
    /// The command of a check.
    pub fn check(&self, name: &str) -> Option<&str> {
        self.checks.iter().find(|(known, _)| known == name).map(|(_, command)| command.as_str())
    }

    /// The names of the checks.
    pub fn check_names(&self) -> Vec<String> {
        self.checks.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The bare clone, brought up to date.
    pub fn fetch(&self, cancelled: &dyn Fn() -> bool) -> Result<Store, Error> {
        let patience = Patience { timeout: NETWORK, cancelled };
        Store::open(&self.git, &self.home, &self.key, &self.remote, &self.credentials, self.depth, patience)
    }

    /// The bare clone as it is, or fetched where there is none.
    pub fn store(&self, cancelled: &dyn Fn() -> bool) -> Result<Store, Error> {
        match Store::open_existing(&self.home, &self.key, &self.remote)? {
            Some(store) => Ok(store),
            None => self.fetch(cancelled),
        }
    }

    /// The commit that a plan is made for, looked up now.
    pub fn resolve_base(&self, cancelled: &dyn Fn() -> bool) -> Result<Base, Error> {
        self.fetch(cancelled)?.resolve_base(self.base.as_deref())
    }

    /// Asks the remote for its branches and changes nothing: the branch that work would start from.
    pub fn reach(&self, limit: Duration) -> Result<String, Error> {
        probe(&self.git, &self.remote, self.base.as_deref(), &self.credentials, Patience::of(limit))
    }

    /// What is never pushed.
    pub fn protection(&self, store: &Store) -> Result<Protection, Error> {
        Protection::new(store.default_branch()?.as_deref(), self.protected.iter().map(String::as_str))
    }

    /// The workspace of a run.
    pub fn worktree(&self, run_dir: &Path, cancelled: &dyn Fn() -> bool) -> Result<Worktree, Error> {
        Worktree::open(run_dir, &self.store(cancelled)?)
    }
}

/// The size of a change as steps put it out.
pub fn change(stat: &DiffStat) -> Value {
    json!({"files": stat.files.len(), "insertions": stat.added, "deletions": stat.removed, "paths": stat.files})
}

impl Context {
    /// The run's repository.
    pub fn repo(&self) -> Result<Repo, Failure> {
        self.equipment.repo.clone().ok_or_else(|| {
            Failure::terminal("no_repo", format!("step `{}` needs a repository, and the task names none", self.step))
                .hint("give the task a `repo`")
        })
    }

    /// Runs git work on a thread where it may block; it ends early when the step is stopped.
    pub async fn git<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Repo, &dyn Fn() -> bool) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let repo = self.repo()?;
        let cancel: CancellationToken = self.cancel.clone();
        let masker = self.equipment.masker.clone();
        tokio::task::spawn_blocking(move || work(&repo, &|| cancel.is_cancelled()))
            .await
            .map_err(|error| Failure::terminal("bug", format!("git work failed: {error}")))?
            .map_err(|error| {
                let failure = error.to_failure();
                Failure { message: masker.mask(&failure.message), ..failure }
            })
    }

    /// An id out of an earlier step's output.
    pub fn commit_id(&self, kind: &str, key: &str) -> Result<CommitId, Failure> {
        self.object(kind, key)?.parse().map_err(|error: Error| error.to_failure())
    }

    /// A tree out of an earlier step's output.
    pub fn tree_id(&self, kind: &str, key: &str) -> Result<TreeId, Failure> {
        self.object(kind, key)?.parse().map_err(|error: Error| error.to_failure())
    }

    fn object(&self, kind: &str, key: &str) -> Result<&str, Failure> {
        self.output_of(kind).and_then(|output| output[key].as_str()).ok_or_else(|| {
            Failure::terminal("missing_step", format!("step `{}` needs a finished `{kind}` step before it", self.step))
                .hint(format!("put a step of type `{kind}` into its `needs`"))
        })
    }
}
