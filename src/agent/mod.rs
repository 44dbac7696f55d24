//! The tool loop that `plan`, `execute-loop` (and later `review`) share: tools, edits, transcript, limits.
//!
//! It knows files, providers and sandboxes by their traits; it does not know runs, the journal or pipelines.

pub mod digest;
pub mod edits;
pub mod execute_loop;
pub mod files;
pub mod folder;
pub mod guard;
pub mod loops;
pub mod outline;
pub mod plan_check;
pub mod plan_loop;
pub mod repo_map;
pub mod search;
pub mod talk;
pub mod tools;
pub mod truncate;
