//! The push broker: the one way by which anything of a run leaves this machine through git.
//!
//! It pushes one commit to one branch, the run's own, at the configured address, and only the commit whose tree was tested.
//! It never overwrites: where the branch stands at a commit that is not the run's own, it stops. It asks the remote before
//! and after, so that a repeated push does nothing.

use std::ffi::OsString;

use super::error::{Error, Result};
use super::git::{Call, Credentials, Git, Patience};
use super::listing::list;
use super::meaning::{clean, meaning};
use super::protect::{BranchName, Protection};
use super::remote::Remote;
use super::worktree::{Worktree, missing};
use super::{CommitId, TreeId};

/// What to push, where to, and what has to be true of it.
pub struct PushOrder<'a> {
    /// The run.
    pub worktree: &'a Worktree,
    /// From the configuration, never from a repository.
    pub remote: &'a Remote,
    /// As the step says it; refused unless it is the run's own branch.
    pub branch: &'a str,
    /// What to push.
    pub commit: CommitId,
    /// The tree that the tests passed on.
    pub tested: TreeId,
    /// What is never pushed.
    pub protection: &'a Protection,
    /// What opens the remote.
    pub credentials: &'a Credentials,
    /// How long it may take.
    pub patience: Patience<'a>,
}

/// A push that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The branch on the remote.
    pub branch: BranchName,
    /// What it is at.
    pub commit: CommitId,
    /// Whether it was so before.
    pub already: bool,
}

/// Pushes. Doing it again says `already`.
pub fn push(git: &Git, order: &PushOrder<'_>) -> Result<Pushed> {
    let PushOrder { worktree, remote, commit, credentials, patience, .. } = *order;
    let branch = order.protection.admit(order.branch)?;
    let refused = |why: String| Error::Protected { branch: branch.to_string(), why };
    if branch != *worktree.branch() {
        return Err(refused(format!("the branch of this run is `{}`", worktree.branch())));
    }
    let lock = worktree.lock()?;
    let repo = worktree.repository()?;
    let tree = repo.find_commit(commit.0).map_err(|_| missing("commit", commit.0))?.tree_id();
    if tree != order.tested.0 {
        return Err(Error::NotTheTestedCommit {
            commit: commit.to_string(),
            tree: tree.to_string(),
            tested: order.tested.to_string(),
        });
    }
    let own = worktree.own_commits(&repo, commit)?;
    if own.is_empty() {
        return Err(Error::NotTheTestedCommit {
            commit: commit.to_string(),
            tree: "that does not stand on the run's base".to_owned(),
            tested: order.tested.to_string(),
        });
    }

    let before = list(git, remote, Some(branch.as_str()), credentials, patience)?;
    if before.default.as_deref() == Some(branch.as_str()) {
        return Err(refused("it is the remote's default branch".to_owned()));
    }
    match before.heads.get(branch.as_str()) {
        Some(found) if *found == commit.0 => return Ok(Pushed { branch, commit, already: true }),
        // An earlier round of this run pushed there: this one goes on from it.
        Some(found) if own.contains(found) => {}
        Some(found) => {
            let (remote, found) = (remote.shown(), found.to_string());
            return Err(Error::RemoteMoved { remote, branch: branch.to_string(), found });
        }
        None => {}
    }

    let mut args: Vec<OsString> =
        ["push", "--porcelain", "--no-progress", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", "--"]
            .map(Into::into)
            .into();
    args.push(remote.for_git());
    args.push(format!("{commit}:{}", branch.full()).into());
    let git_dir = worktree.git_dir();
    let output = git.run(&Call {
        what: "push",
        git_dir: Some(&git_dir),
        remote,
        credentials,
        args: &args,
        hold: Some(&lock),
        patience,
    })?;
    if !output.ok {
        return Err(why_not(remote, credentials, &branch, &output.stdout, &output.stderr));
    }
    let after = list(git, remote, Some(branch.as_str()), credentials, patience)?;
    if after.heads.get(branch.as_str()) != Some(&commit.0) {
        return Err(Error::NotLanded {
            remote: remote.shown(),
            branch: branch.to_string(),
            commit: commit.to_string(),
        });
    }
    Ok(Pushed { branch, commit, already: false })
}

fn why_not(remote: &Remote, credentials: &Credentials, branch: &BranchName, stdout: &[u8], stderr: &[u8]) -> Error {
    let general = meaning("push", remote, credentials, stderr);
    if matches!(general, Error::DiskFull { .. }) {
        return general;
    }
    // `!<TAB>source:target<TAB>[remote rejected] (reason)`
    let stdout = String::from_utf8_lossy(stdout);
    let Some(reason) = stdout.lines().find_map(|line| line.strip_prefix("!\t")?.split('\t').nth(1)) else {
        return general;
    };
    if ["fetch first", "non-fast-forward", "stale info"].iter().any(|word| reason.contains(word)) {
        let found = "another commit".to_owned();
        return Error::RemoteMoved { remote: remote.shown(), branch: branch.to_string(), found };
    }
    let stderr = String::from_utf8_lossy(stderr);
    let words: Vec<&str> = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("remote:").map(str::trim))
        .filter(|line| !line.is_empty())
        .collect();
    let said = match words.is_empty() {
        true => clean(reason.as_bytes()),
        false => clean(format!("{reason}\n{}", words.join("\n")).as_bytes()),
    };
    Error::Rejected { remote: remote.shown(), said }
}
