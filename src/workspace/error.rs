//! What can go wrong with git, for programs (`code`), for people (`hint`) and for retries (`retryable`).
//!
//! Texts from a remote are cleaned and bounded before they get here; no variant holds a credential.

use std::path::{Path, PathBuf};

use crate::core::failure::Failure;

/// The result of everything in this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something with git did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No `git` on PATH.
    #[error("git is not installed")]
    GitMissing,
    /// A `git` that lacks what is needed.
    #[error("git {found} is too old: {needed} is needed")]
    GitOld {
        /// What is there.
        found: String,
        /// What is needed, and for what.
        needed: String,
    },
    /// An address that is no repository's.
    #[error("`{url}` is no address of a repository: {why}")]
    BadUrl {
        /// Without credentials.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A key that cannot name a bare clone.
    #[error("`{key}` cannot name a repository")]
    BadKey {
        /// As given, shortened.
        key: String,
    },
    /// Not an object id.
    #[error("`{text}` is not a commit or tree id of 40 hex digits")]
    BadId {
        /// As given, shortened.
        text: String,
    },
    /// A text that is no branch's name here.
    #[error("`{name}` cannot name a branch: {why}")]
    BadBranch {
        /// As given, shortened.
        name: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// A pattern of protected branches that is not a glob.
    #[error("`{pattern}` is no pattern of branches: {why}")]
    BadPattern {
        /// As given.
        pattern: String,
        /// What the glob reader says.
        why: String,
    },
    /// There is no repository.
    #[error("there is no repository at {remote}{}", after(said))]
    NotFound {
        /// Without credentials.
        remote: String,
        /// What git said.
        said: String,
    },
    /// The remote wants other credentials.
    #[error("{remote} refused access{}", after(said))]
    Auth {
        /// Without credentials.
        remote: String,
        /// What git said.
        said: String,
        /// What a person does about it.
        remedy: String,
    },
    /// The host of an ssh remote is unknown or changed.
    #[error("the ssh host key of {remote} is not known{}", after(said))]
    HostKey {
        /// Without credentials.
        remote: String,
        /// What ssh said.
        said: String,
        /// What a person does about it.
        remedy: String,
    },
    /// The network or the remote is down.
    #[error("{remote} cannot be reached{}", after(said))]
    Unreachable {
        /// Without credentials.
        remote: String,
        /// What git said.
        said: String,
    },
    /// The remote answers with a redirect, which credentials do not follow.
    #[error("{remote} redirects elsewhere, and credentials do not follow{}", after(said))]
    Redirected {
        /// Without credentials.
        remote: String,
        /// What git said.
        said: String,
    },
    /// A local repository that belongs to someone else.
    #[error("{remote} belongs to another user, so git does not open it")]
    Ownership {
        /// A path.
        remote: String,
    },
    /// A repository without any commit.
    #[error("{remote} is empty: it has no branch with a commit")]
    Empty {
        /// Without credentials.
        remote: String,
    },
    /// Not a repository that this program can read.
    #[error("{remote} uses {what}, which is not supported")]
    Unsupported {
        /// Without credentials.
        remote: String,
        /// The format.
        what: &'static str,
    },
    /// It took too long and was stopped.
    #[error("{what} took longer than {seconds} s and was stopped")]
    Timeout {
        /// `fetch`, `push`, …
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// The run was stopped.
    #[error("{what} was stopped")]
    Cancelled {
        /// `fetch`, `push`, …
        what: &'static str,
    },
    /// Another process works on the same folder.
    #[error("{} is in use by another process", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// Git failed in a way that has no name here.
    #[error("git {what} failed{}", after(said))]
    Git {
        /// `fetch`, `push`, …
        what: &'static str,
        /// What it said.
        said: String,
    },
    /// The configured base branch is not there.
    #[error("{remote} has no branch `{base}`")]
    BaseMissing {
        /// Without credentials.
        remote: String,
        /// As configured.
        base: String,
        /// Branches with similar names, else a few that exist.
        near: Vec<String>,
    },
    /// No base is configured and the remote names no default branch.
    #[error("{remote} has no branch `development` and names no default branch")]
    NoBase {
        /// Without credentials.
        remote: String,
        /// A few that exist.
        branches: Vec<String>,
    },
    /// An object that should be there is not.
    #[error("{kind} {id} is not in the repository")]
    MissingObject {
        /// `commit` or `tree`.
        kind: &'static str,
        /// 40 hex digits.
        id: String,
    },
    /// A path that is not in the commit.
    #[error("there is no `{path}` in the commit")]
    NoSuchPath {
        /// Relative to the repository's root.
        path: String,
    },
    /// A path of a repository that must never be written to a disk.
    #[error("the repository holds a path that is never written: `{path}`")]
    HostilePath {
        /// Relative to the repository's root, shortened.
        path: String,
    },
    /// More than this program handles.
    #[error("{what} is over the limit of {limit}")]
    TooLarge {
        /// What was measured.
        what: String,
        /// The limit with its unit.
        limit: String,
    },
    /// A run's folder holds the workspace of another base or branch.
    #[error("{} was made for {found}, not for {wanted}", path.display())]
    OtherWorkspace {
        /// The run's folder.
        path: PathBuf,
        /// Base and branch that it has.
        found: String,
        /// Base and branch that were asked for.
        wanted: String,
    },
    /// A run's folder without a whole workspace.
    #[error("there is no workspace in {}", path.display())]
    NoWorkspace {
        /// The run's folder.
        path: PathBuf,
    },
    /// Nothing to commit.
    #[error("nothing changed: the tree is the one of commit {parent}")]
    NothingToCommit {
        /// 40 hex digits.
        parent: String,
    },
    /// The run's branch is neither at the parent nor at the new commit.
    #[error("branch `{branch}` is at {found}, not at {expected}")]
    BranchMoved {
        /// The run's branch.
        branch: String,
        /// Where it is.
        found: String,
        /// Where it should be.
        expected: String,
    },
    /// A message that cannot be a commit's.
    #[error("the commit cannot be written: {why}")]
    BadCommit {
        /// What is wrong.
        why: String,
    },
    /// The branch is never pushed by this program.
    #[error("`{branch}` is never pushed: {why}")]
    Protected {
        /// As asked.
        branch: String,
        /// Which rule refuses it.
        why: String,
    },
    /// The remote has the branch at a commit that is not ours.
    #[error("{remote} already has `{branch}` at {found}, which is not a commit of this run")]
    RemoteMoved {
        /// Without credentials.
        remote: String,
        /// The run's branch.
        branch: String,
        /// Where it is.
        found: String,
    },
    /// The remote refused the push.
    #[error("{remote} refused the push{}", after(said))]
    Rejected {
        /// Without credentials.
        remote: String,
        /// What it said, without control codes.
        said: String,
    },
    /// The push was reported as done, but the remote does not have the commit.
    #[error("{remote} does not show `{branch}` at {commit} after the push")]
    NotLanded {
        /// Without credentials.
        remote: String,
        /// The run's branch.
        branch: String,
        /// What should be there.
        commit: String,
    },
    /// The commit does not hold the tree that was tested.
    #[error("commit {commit} holds tree {tree}, but tree {tested} was tested")]
    NotTheTestedCommit {
        /// What was to be pushed.
        commit: String,
        /// Its tree.
        tree: String,
        /// The tree that was tested.
        tested: String,
    },
    /// The disk is full.
    #[error("no space left while {doing}{}", at(path))]
    DiskFull {
        /// `writing`, `reading`, …
        doing: &'static str,
        /// Where; empty where git itself says so.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{doing}{} failed: {source}", at(path))]
    Io {
        /// `writing`, `reading`, …
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// libgit2 failed.
    #[error("{doing} failed: {}", source.message())]
    Objects {
        /// What was being done.
        doing: &'static str,
        /// libgit2's reason.
        source: git2::Error,
    },
}

fn after(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

fn at(path: &Path) -> String {
    if path.as_os_str().is_empty() { String::new() } else { format!(" {}", path.display()) }
}

impl Error {
    /// What to do next, where a person can do something.
    pub fn hint(&self) -> Option<String> {
        let fixed = match self {
            Self::GitMissing => "install it: apt install git",
            Self::GitOld { .. } => "install a newer git; `devo doctor` shows which one is found",
            Self::BadUrl { .. } => {
                "use https://host/path, ssh://git@host/path, git@host:path or a path, as `git clone` does"
            }
            Self::BadKey { .. } => "use letters, digits, `.`, `_` and `-` in the repository's key, 64 at most",
            Self::BadPattern { .. } => "write `protected` in devo.yaml as globs, for instance \"release/*\"",
            Self::NotFound { .. } => "check `url` in devo.yaml, and that this account may read the repository",
            Self::Auth { remedy, .. } | Self::HostKey { remedy, .. } => return Some(remedy.clone()),
            Self::Unreachable { .. } => "check the network and that host, then `devo retry RUN`",
            Self::Redirected { .. } => "put the new address into `url` in devo.yaml",
            Self::Ownership { .. } => "run as the owner of the repository, or give a copy of your own as `url`",
            Self::Empty { .. } => "push a first commit to it, then run the task again",
            Self::Unsupported { .. } => "use a repository with sha1 objects",
            Self::Timeout { .. } | Self::NotLanded { .. } => "find out why it does not answer, then `devo retry RUN`",
            Self::Busy { .. } => "wait for the other process, or stop it",
            Self::MissingObject { .. } => "the home's repos/ or runs/ folder lost files; start the task again",
            Self::OtherWorkspace { .. } | Self::NoWorkspace { .. } => "start the task again",
            Self::NothingToCommit { .. } => "the task may be done already; look at the plan and at `devo diff RUN`",
            Self::BranchMoved { .. } => {
                "something else than this run moved its branch; make the change anew: devo retry RUN --from branch"
            }
            Self::Protected { .. } => "only the run's own task branch is pushed; look at `protected` in devo.yaml",
            Self::RemoteMoved { .. } => "delete or rename that branch on the remote, then: devo retry RUN --from push",
            Self::Rejected { .. } => {
                "look at the remote's rules for branches and commits, then: devo retry RUN --from push"
            }
            Self::NotTheTestedCommit { .. } => "run the tests again: devo retry RUN --from test",
            Self::DiskFull { .. } => "free some space (`devo gc` helps), then: devo resume RUN",
            Self::HostilePath { .. } => "look at that path in the repository: git refuses it as well",
            Self::BaseMissing { near, .. } if near.is_empty() => "set `base` in devo.yaml to a branch that exists",
            Self::BaseMissing { near, .. } => {
                return Some(format!("set `base` in devo.yaml; there is {}", listed(near)));
            }
            Self::NoBase { branches, .. } => {
                return Some(format!("set `base` in devo.yaml; there is {}", listed(branches)));
            }
            Self::Io { source, path, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                return Some(format!("look at owner and mode of {}", path.display()));
            }
            _ => return None,
        };
        Some(fixed.to_owned())
    }

    /// A stable identifier, `snake_case`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::GitMissing => "git_missing",
            Self::GitOld { .. } => "git_old",
            Self::BadUrl { .. } => "bad_url",
            Self::BadKey { .. } => "bad_key",
            Self::BadId { .. } => "bad_id",
            Self::BadBranch { .. } => "bad_branch",
            Self::BadPattern { .. } => "bad_pattern",
            Self::NotFound { .. } => "repo_not_found",
            Self::Auth { .. } => "repo_auth",
            Self::HostKey { .. } => "host_key",
            Self::Unreachable { .. } => "unreachable",
            Self::Redirected { .. } => "redirected",
            Self::Ownership { .. } => "repo_ownership",
            Self::Empty { .. } => "repo_empty",
            Self::Unsupported { .. } => "repo_unsupported",
            Self::Timeout { .. } => "timeout",
            Self::Cancelled { .. } => "cancelled",
            Self::Busy { .. } => "busy",
            Self::Git { .. } => "git_failed",
            Self::BaseMissing { .. } => "base_missing",
            Self::NoBase { .. } => "no_base",
            Self::MissingObject { .. } => "missing_object",
            Self::NoSuchPath { .. } => "no_such_path",
            Self::HostilePath { .. } => "hostile_path",
            Self::TooLarge { .. } => "too_large",
            Self::OtherWorkspace { .. } => "other_workspace",
            Self::NoWorkspace { .. } => "no_workspace",
            Self::NothingToCommit { .. } => "nothing_to_commit",
            Self::BranchMoved { .. } => "branch_moved",
            Self::BadCommit { .. } => "bad_commit",
            Self::Protected { .. } => "protected_branch",
            Self::RemoteMoved { .. } => "remote_moved",
            Self::Rejected { .. } => "push_rejected",
            Self::NotLanded { .. } => "push_not_landed",
            Self::NotTheTestedCommit { .. } => "not_the_tested_commit",
            Self::DiskFull { .. } => "disk_full",
            Self::Io { .. } => "io",
            Self::Objects { .. } => "git_objects",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::Busy { .. }
                | Self::NotLanded { .. }
                | Self::DiskFull { .. }
        )
    }

    /// The form that is stored.
    pub fn to_failure(&self) -> Failure {
        let failure = if self.retryable() {
            Failure::retryable(self.code(), self.to_string())
        } else {
            Failure::terminal(self.code(), self.to_string())
        };
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// From an error of the system, with what was being done where.
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull { doing, path },
            _ => Self::Io { doing, path, source },
        }
    }

    /// As [`Error::io`], from rustix.
    pub(super) fn errno(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let wrap = Self::io(doing, path);
        move |source| wrap(source.into())
    }

    /// From an error of libgit2.
    pub(super) fn objects(doing: &'static str) -> impl FnOnce(git2::Error) -> Self {
        move |source| match source.message().contains("No space left") {
            true => Self::DiskFull { doing, path: PathBuf::new() },
            false => Self::Objects { doing, source },
        }
    }
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
