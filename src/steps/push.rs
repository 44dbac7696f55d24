//! `push`: sends the run's branch, and nothing else, to the configured remote; links come back. Twice is once.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::core::failure::Failure;
use crate::core::graph::Authority;
use crate::workspace::{Patience, PushOrder, links, push};

/// `push` in the list.
pub const KIND: Kind = Kind {
    name: "push",
    summary: "pushes the run's branch, never by force and never to a protected one, and yields the links",
    schema: || schemars::schema_for!(Push),
    templates: &[],
    authority: Authority::Acts,
    exclusive: true,
    build: build::<Push>,
};

/// A remote that does not answer holds a run this long, per try.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5 * 60);
/// Waits between tries while a remote does not answer; then the step fails and can be retried.
const WAITS_MS: [u64; 5] = [5_000, 15_000, 60_000, 240_000, 600_000];

/// The step has no keys of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Push {}

#[async_trait]
impl Step for Push {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        match send(cx).await {
            Ok(outcome) => outcome,
            Err(failure) if failure.retryable && !cx.cancel.is_cancelled() => {
                let tried = turn.carry.as_u64().unwrap_or(0);
                match WAITS_MS.get(usize::try_from(tried).unwrap_or(usize::MAX)) {
                    Some(wait) => Outcome::Park { reason: failure.message, for_ms: *wait, carry: json!(tried + 1) },
                    None => Outcome::Fail(failure),
                }
            }
            Err(failure) => Outcome::Fail(failure),
        }
    }
}

async fn send(cx: &Context) -> Result<Outcome, Failure> {
    let commit = cx.commit_id("commit", "commit")?;
    let tested = cx.tree_id("test", "tree")?;
    let field =
        |key: &str| cx.output_of("branch").and_then(|output| output[key].as_str()).unwrap_or_default().to_owned();
    let (branch, base) = (field("branch"), field("base"));
    let run_dir = cx.run_dir.clone();
    let (pushed, links, shown) = cx
        .git(move |repo, cancelled| {
            let store = repo.store(cancelled)?;
            let worktree = repo.worktree(&run_dir, cancelled)?;
            let pushed = push(
                &repo.git,
                &PushOrder {
                    worktree: &worktree,
                    remote: &repo.remote,
                    branch: &branch,
                    commit,
                    tested,
                    protection: &repo.protection(&store)?,
                    credentials: &repo.credentials,
                    patience: Patience { timeout: TIMEOUT, cancelled },
                },
            )?;
            let links = links(&repo.remote, repo.links.as_ref(), &base, pushed.branch.as_str());
            Ok((pushed, links, repo.remote.shown()))
        })
        .await?;
    cx.note(format!("{} → {shown}{}", pushed.branch, if pushed.already { " (it was there)" } else { "" }));
    Ok(Outcome::Done(json!({
        "branch": pushed.branch.as_str(), "commit": pushed.commit.to_string(), "remote": shown, "links": links,
    })))
}
