//! `branch`: makes the run's workspace from the plan's base commit, on a branch of its own. Twice leaves one.

use std::path::Path;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::core::failure::Failure;
use crate::core::graph::Authority;
use crate::workspace::{BranchName, CommitId, Error, Store, Worktree};

/// The priority of work that nobody waits for.
const LAST: i32 = 19;

/// `branch` in the list.
pub const KIND: Kind = Kind {
    name: "branch",
    summary: "makes the run's workspace, on a branch of its own from the plan's base commit",
    schema: || schemars::schema_for!(Branch),
    templates: &[],
    authority: Authority::Acts,
    exclusive: true,
    build: build::<Branch>,
};

/// The step has no keys of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Branch {}

#[async_trait]
impl Step for Branch {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        match make(cx, &turn).await {
            Ok(outcome) => outcome,
            Err(failure) => Outcome::Fail(failure),
        }
    }
}

async fn make(cx: &Context, turn: &Turn) -> Result<Outcome, Failure> {
    let Some(plan) = &cx.plan else {
        return Err(Failure::terminal("no_plan", "there is no plan to make a branch for"));
    };
    let commit: CommitId = plan.base_commit.parse().map_err(|error: Error| error.to_failure())?;
    let short = cx.spec.task_id.short();
    let name = BranchName::task(&short, &plan.plan.title).map_err(|error| error.to_failure())?;
    let run_dir = cx.run_dir.clone();
    let round = turn.round.to_string();
    let (keep_free, cancel) = (cx.equipment.limits.disk_free_bytes, cx.cancel.clone());
    let (worktree, base, said) = cx
        .git(move |repo, cancelled| {
            let store = repo.store(cancelled)?;
            let protection = repo.protection(&store)?;
            let name = protection.admit(name.as_str())?;
            // A round of an approved revision starts anew: what an earlier one left belongs to a plan that was given up.
            // The mark is written last, so a crash on the way removes and makes again.
            let mark = run_dir.join("branch-round");
            if std::fs::read_to_string(&mark).is_ok_and(|made| made != round) {
                Worktree::remove(&run_dir)?;
            }
            let worktree = Worktree::create(&run_dir, &store, commit, &name)?;
            prepare_next(&store, commit, &run_dir, keep_free, cancel);
            std::fs::write(&mark, &round).map_err(|source| Error::Io {
                doing: "writing",
                path: mark.clone(),
                source,
            })?;
            match store.resolve_base(repo.base.as_deref()) {
                Ok(base) => Ok((worktree, base.branch, base.said)),
                // It went after the plan was made; the commit is what counts, and it is kept.
                Err(Error::BaseMissing { .. } | Error::NoBase { .. }) => {
                    let base = repo.base.clone().unwrap_or_default();
                    Ok((
                        worktree,
                        base,
                        Some("the branch that the work starts from is gone from the remote".to_owned()),
                    ))
                }
                Err(error) => Err(error),
            }
        })
        .await?;
    if let Some(said) = said {
        cx.note(said);
    }
    cx.note(format!(
        "branch {} from {base} at {}",
        worktree.branch(),
        &plan.base_commit[..12.min(plan.base_commit.len())]
    ));
    Ok(Outcome::Done(json!({
        "branch": worktree.branch().as_str(), "base": base, "base_commit": plan.base_commit,
    })))
}

/// Makes a spare workspace for the next run, where the repository is large. On a thread that nobody waits for and that ends
/// with the process: it is on the way to nothing, and what it leaves half made is removed by the next one.
fn prepare_next(store: &Store, commit: CommitId, run_dir: &Path, keep_free: u64, cancel: CancellationToken) {
    let (store, run_dir) = (store.clone(), run_dir.to_owned());
    let work = move || {
        // Best effort, and for this thread alone.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LAST);
        match store.prepare_spare(commit, &run_dir, keep_free, &|| cancel.is_cancelled()) {
            Ok(prepared) => tracing::debug!(?prepared, "a spare workspace"),
            Err(error) => tracing::debug!(%error, "no spare workspace"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("spare".to_owned()).spawn(work) {
        tracing::debug!(%error, "no spare workspace");
    }
}
