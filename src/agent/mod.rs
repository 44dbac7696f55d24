//! The tool loop that `plan`, `execute-loop` (and later `review`) share: tools, edits, transcript, limits.
//!
//! It knows files, providers and sandboxes by their traits; it does not know runs, the journal or pipelines.

pub mod execute_loop;
pub mod plan_check;
pub mod plan_loop;
pub mod talk;
