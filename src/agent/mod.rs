//! The tool loop that `plan`, `execute-loop` (and later `review`) share: tools, edits, transcript, limits.
//!
//! It knows files, providers and sandboxes by their traits; it does not know runs, the journal or pipelines.

pub mod digest;
pub mod edits;
pub mod files;
pub mod folder;
pub mod guard;
pub mod loops;
pub mod outline;
pub mod repo_map;
pub mod search;
pub mod tools;
pub mod truncate;
