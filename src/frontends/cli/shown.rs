//! Remembers, per run, the plan that this command line showed last: `approve` without `--hash` means that one.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::core::plan::PlanRecord;

/// What was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The plan's revision.
    pub revision: u32,
    /// Its hash.
    pub hash: String,
}

const NAME: &str = "shown.json";

/// Notes that the plan was shown. A home that cannot be written makes `approve` ask for `--hash`; it spoils nothing else.
pub fn remember(run_dir: &Path, plan: &PlanRecord) {
    let shown = Shown { revision: plan.revision, hash: plan.hash.clone() };
    if recall(run_dir).as_ref() == Some(&shown) {
        return;
    }
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(run_dir)?;
        let mut file = tempfile::NamedTempFile::new_in(run_dir)?;
        file.write_all(serde_json::to_string(&shown).expect("plain data").as_bytes())?;
        file.persist(run_dir.join(NAME))?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "cannot remember which plan was shown; `devo approve` will want --hash");
    }
}

/// What was shown last.
pub fn recall(run_dir: &Path) -> Option<Shown> {
    let text = std::fs::read_to_string(run_dir.join(NAME)).ok()?;
    serde_json::from_str(&text).ok()
}
