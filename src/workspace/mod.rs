//! Everything git: bare clones of the configured repositories, a run's workspace, snapshots of it, commits, the push.
//!
//! The workspace that a sandbox writes is plain files with no `.git`; the git dir stands beside it, holds nothing that the
//! sandbox could write, and is ours: its config is written here, its objects come through alternates from the bare clone.
//! `git2` reads and writes objects; the system's `git` speaks to remotes, with an environment and options of our own.
//! Every function blocks. Nothing here knows runs, steps, plans or prompts, reads the environment, or asks the wall clock.
//!
//! | file | is |
//! | --- | --- |
//! | `error` | what can go wrong, with hints |
//! | `git` | the one place that starts the system's `git` |
//! | `meaning`, `remedy` | what its words stand for, and what a person does about them |
//! | `remote` | a repository's address, taken apart; credentials kept out of sight |
//! | `listing` | what branches a remote has now |
//! | `store` | bare clones under `repos/`, and which commit a run starts from |
//! | `tree`, `cautions` | read-only view of a commit, for a planner; what its workspace will lack |
//! | `folder` | file access that never follows a link |
//! | `ignored` | `.gitignore` rules |
//! | `worktree` | a run's git dir and workspace; commits |
//! | `snapshot`, `restore` | workspace → tree, tree → workspace |
//! | `spare` | a checkout made ahead of the next run of a large repository |
//! | `entries` | what these two share: index, times, names |
//! | `diff`, `additions` | patch, diffstat, changed paths; the lines that came |
//! | `protect`, `slug` | names of branches, and which of them are never pushed |
//! | `push` | the push broker |
//! | `links` | pages on a forge, computed offline |

mod additions;
mod cautions;
mod diff;
mod entries;
mod error;
mod folder;
mod git;
mod ignored;
mod links;
mod listing;
mod lock;
mod meaning;
mod protect;
mod push;
mod remedy;
mod remote;
mod restore;
mod slug;
mod snapshot;
mod spare;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod worktree;

pub use diff::{Change, ChangedFile, DiffStat, Patch};
pub use error::{Error, Result};
pub use git::{Credentials, Git, MINIMUM_GIT, Patience};
pub use ignored::{IGNORE_TEXT_MAX, ignore_rules};
pub use links::{LinkTemplate, Links, links};
pub use lock::FileLock;
pub use protect::{BranchName, Protection};
pub use push::{PushOrder, Pushed, push};
pub use remote::Remote;
pub use slug::slug;
pub use snapshot::{LeftOut, Snapshot, Why};
pub use spare::Prepared;
pub use store::{Base, Store, probe, store_key};
pub use tree::{Content, FileKind, LogEntry, TreeFile, TreeView};
pub use worktree::{Author, NewCommit, Worktree};

use serde::{Deserialize, Serialize};

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub(in crate::workspace) git2::Oid);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            /// Takes 40 hex digits, nothing shorter.
            fn from_str(text: &str) -> Result<Self> {
                let whole = text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
                let id = if whole { git2::Oid::from_str(text).ok() } else { None };
                id.map(Self).ok_or_else(|| Error::BadId { text: text.chars().take(60).collect() })
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

object_id! {
    /// The id of a commit; its text form is 40 hex digits.
    CommitId
}
object_id! {
    /// The id of a tree, for instance of a snapshot; its text form is 40 hex digits.
    TreeId
}
