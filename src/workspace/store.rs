//! Bare clones of the configured repositories, and which commit a run starts from.
//!
//! A clone mirrors the remote's branches under `refs/heads`, appears under its name only when it is whole, and never loses
//! an object: runs borrow from it. One lock per clone keeps two processes from fetching into it at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use git2::{Oid, Repository};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::git::{Call, Credentials, Git, Patience, make_private};
use super::listing::list;
use super::lock::lock_file;
use super::remote::Remote;
use super::slug::slug;
use super::tree::TreeView;
use super::worktree::{clear_stale_locks, missing, open_bare, remove_dir, sync_dir, write_bare, write_synced};
use super::{CommitId, TreeId};

/// Where work starts if nothing is configured and the remote has it.
const USUAL_BASE: &str = "development";
/// What HEAD names where the remote's HEAD names nothing.
const NO_DEFAULT: &str = "devo/none";
/// Of the branches that an error names.
const NEAR_MAX: usize = 5;

/// A bare clone that is whole. Cheap to clone; every call opens what it needs.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    shown: String,
}

/// Where a run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// A branch of the remote.
    pub branch: String,
    /// The commit that it is at.
    pub commit: CommitId,
    /// A sentence for the person, where the choice was not theirs.
    pub said: Option<String>,
}

/// A key for a repository that a task names by path or URL: readable, and different for different addresses.
pub fn store_key(remote: &Remote) -> String {
    let shown = remote.shown();
    let name =
        shown.trim_end_matches(['/', '.']).trim_end_matches(".git").rsplit(['/', ':']).next().unwrap_or_default();
    let digest = Sha256::digest(shown.as_bytes());
    let name = slug(name);
    let name = if name.is_empty() { "repo".to_owned() } else { name };
    format!("{name}-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
}

impl Store {
    /// Clones a repository into `<home>/repos/<key>.git`, or brings that clone up to date: branches that the remote has
    /// lost are lost here as well, their commits stay. A clone that is not whole is made anew. With a `depth` only so many
    /// commits of each branch are fetched; a clone that has more keeps them, and without a depth the rest is fetched.
    pub fn open(
        git: &Git,
        home: &Path,
        key: &str,
        remote: &Remote,
        credentials: &Credentials,
        depth: Option<u32>,
        patience: Patience<'_>,
    ) -> Result<Self> {
        let this = Self { path: place(home, key)?, shown: remote.shown() };
        let repos = home.join("repos");
        make_private(&repos)?;
        let beside = |end: &str| repos.join(format!("{key}.git{end}"));
        let lock = lock_file(&beside(".lock"), patience, "waiting for the clone")?;

        let listing = list(git, remote, None, credentials, patience)?;
        if listing.heads.is_empty() {
            return Err(Error::Empty { remote: this.shown });
        }
        let fresh = beside(".new");
        remove_dir(&fresh)?;
        let whole = is_whole(&this.path);
        let target = if whole { &this.path } else { &fresh };
        if whole {
            clear_stale_locks(target)?;
        } else {
            write_bare(target, NO_DEFAULT, None, false)?;
        }
        let ends = shallow_ends(target)?;
        let shallow = !ends.is_empty();
        if heads(&open_bare(target)?)? != listing.heads || (shallow && depth.is_none()) {
            let mut args: Vec<OsString> =
                ["fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"]
                    .map(Into::into)
                    .into();
            match depth {
                // A whole history is never cut: runs may stand anywhere in it.
                Some(depth) if shallow || !whole => args.push(format!("--depth={depth}").into()),
                None if shallow => args.push("--unshallow".into()),
                _ => {}
            }
            args.push("--".into());
            args.push(remote.for_git());
            args.push("+refs/heads/*:refs/heads/*".into());
            let call = Call {
                what: "fetch",
                git_dir: Some(target),
                remote,
                credentials,
                args: &args,
                hold: Some(&lock),
                patience,
            };
            git.run_ok(&call)?;
            keep_ends(target, ends)?;
        }
        // A name that git would not take cannot be a branch that the fetch brought.
        let default = listing.default.filter(|name| git2::Reference::is_valid_name(&format!("refs/heads/{name}")));
        let head = format!("ref: refs/heads/{}\n", default.as_deref().unwrap_or(NO_DEFAULT));
        if std::fs::read(target.join("HEAD")).ok().as_deref() != Some(head.as_bytes()) {
            write_synced(&target.join("HEAD"), head.as_bytes())?;
        }
        if !whole {
            write_synced(&target.join("devo-whole"), b"")?;
            remove_dir(&this.path)?;
            std::fs::rename(&fresh, &this.path).map_err(Error::io("making", &this.path))?;
            sync_dir(&repos)?;
        }
        drop(lock);
        Ok(this)
    }

    /// The clone as it is, without asking the remote; `None` if there is none that is whole.
    pub fn open_existing(home: &Path, key: &str, remote: &Remote) -> Result<Option<Self>> {
        let this = Self { path: place(home, key)?, shown: remote.shown() };
        Ok(is_whole(&this.path).then_some(this))
    }

    /// The bare git dir, which no sandbox may write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The remote's default branch, as of the last time it was asked.
    pub fn default_branch(&self) -> Result<Option<String>> {
        let repo = self.repository()?;
        let head = repo.find_reference("HEAD").map_err(Error::objects("reading HEAD"))?;
        let target = head.symbolic_target().ok().flatten().and_then(|target| target.strip_prefix("refs/heads/"));
        Ok(target.filter(|name| *name != NO_DEFAULT).map(str::to_owned))
    }

    /// Every branch of the remote with its commit, as of the last time it was asked.
    pub fn branches(&self) -> Result<Vec<(String, CommitId)>> {
        Ok(heads(&self.repository()?)?.into_iter().map(|(name, id)| (name, CommitId(id))).collect())
    }

    /// Where a run starts: the configured branch, which has to exist; else `development`; else the remote's default branch.
    pub fn resolve_base(&self, configured: Option<&str>) -> Result<Base> {
        choose_base(&heads(&self.repository()?)?, self.default_branch()?.as_deref(), configured, &self.shown)
    }

    /// A read-only view of a commit.
    pub fn view(&self, commit: CommitId) -> Result<TreeView> {
        let repo = self.repository()?;
        let tree = repo.find_commit(commit.0).map_err(|_| missing("commit", commit.0))?.tree_id();
        TreeView::new(repo, TreeId(tree), Some(commit))
    }

    pub(super) fn repository(&self) -> Result<Repository> {
        open_bare(&self.path)
    }
}

fn place(home: &Path, key: &str) -> Result<PathBuf> {
    let sound = !key.is_empty()
        && key.len() <= 64
        && !key.starts_with(['.', '-'])
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !sound {
        return Err(Error::BadKey { key: key.chars().take(64).collect() });
    }
    Ok(home.join("repos").join(format!("{key}.git")))
}

/// Asks a remote for its branches, without a clone; the answer is the branch that work would start from.
pub fn probe(
    git: &Git,
    remote: &Remote,
    base: Option<&str>,
    credentials: &Credentials,
    patience: Patience<'_>,
) -> Result<String> {
    let listing = list(git, remote, None, credentials, patience)?;
    if listing.heads.is_empty() {
        return Err(Error::Empty { remote: remote.shown() });
    }
    Ok(choose_base(&listing.heads, listing.default.as_deref(), base, &remote.shown())?.branch)
}

fn choose_base(
    heads: &BTreeMap<String, Oid>,
    default: Option<&str>,
    configured: Option<&str>,
    shown: &str,
) -> Result<Base> {
    let names = || heads.keys().take(NEAR_MAX).cloned().collect::<Vec<_>>();
    let base = |branch: &str, said| {
        heads.get(branch).map(|id| Base { branch: branch.to_owned(), commit: CommitId(*id), said })
    };
    if let Some(wanted) = configured {
        return base(wanted, None).ok_or_else(|| {
            let near = near(wanted, heads.keys());
            let near = if near.is_empty() { names() } else { near };
            Error::BaseMissing { remote: shown.to_owned(), base: wanted.chars().take(200).collect(), near }
        });
    }
    if let Some(base) = base(USUAL_BASE, None) {
        return Ok(base);
    }
    let found = default.and_then(|name| {
        let said = format!(
            "no `base` is configured and the repository has no branch `{USUAL_BASE}`: \
             the work starts from its default branch `{name}`"
        );
        base(name, Some(said))
    });
    found.ok_or_else(|| Error::NoBase { remote: shown.to_owned(), branches: names() })
}

/// A clone is whole if its making came to the end, and libgit2 can open it.
fn is_whole(path: &Path) -> bool {
    path.join("devo-whole").exists() && open_bare(path).is_ok_and(|repo| repo.find_reference("HEAD").is_ok())
}

/// The commits at which the history of a shallow clone ends; none in a whole one.
pub(super) fn shallow_ends(git_dir: &Path) -> Result<Vec<Oid>> {
    let path = git_dir.join("shallow");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| Oid::from_str(line).ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("reading", path)(error)),
    }
}

/// Git forgets an end that no branch leads to any more, but a run may still stand there.
fn keep_ends(git_dir: &Path, before: Vec<Oid>) -> Result<()> {
    let now = shallow_ends(git_dir)?;
    let repo = open_bare(git_dir)?;
    let odb = repo.odb().map_err(Error::objects("opening the objects"))?;
    let lacks_parents =
        |id: &Oid| repo.find_commit(*id).is_ok_and(|commit| commit.parent_ids().any(|parent| !odb.exists(parent)));
    let kept: Vec<Oid> = before.into_iter().filter(|id| !now.contains(id) && lacks_parents(id)).collect();
    if kept.is_empty() {
        return Ok(());
    }
    let text: String = now.iter().chain(&kept).map(|id| format!("{id}\n")).collect();
    write_synced(&git_dir.join("shallow"), text.as_bytes())
}

fn heads(repo: &Repository) -> Result<BTreeMap<String, Oid>> {
    let mut heads = BTreeMap::new();
    for found in repo.references_glob("refs/heads/*").map_err(Error::objects("reading the branches"))? {
        let found = found.map_err(Error::objects("reading the branches"))?;
        // A name that is not UTF-8 cannot be named in a configuration.
        let name = found.name().ok().and_then(|name| name.strip_prefix("refs/heads/"));
        if let (Some(name), Some(id)) = (name, found.target()) {
            heads.insert(name.to_owned(), id);
        }
    }
    Ok(heads)
}

fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut scored: Vec<(f64, &String)> = names
        .map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), name))
        .filter(|(score, _)| *score > 0.75)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(NEAR_MAX).map(|(_, name)| name.clone()).collect()
}
