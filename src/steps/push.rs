//! `push`: sends the run's branch, and nothing else, to the configured remote; links come back. Twice is once.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::core::event::{Question, QuestionKind};
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

/// A push that makes no end holds a run this long, per try; being asked for its branches a remote has less time.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15 * 60);
/// Waits between tries while a remote is not there, a little over 15 minutes in all; then the person is asked.
const WAITS_MS: [u64; 6] = [5_000, 15_000, 60_000, 180_000, 300_000, 360_000];
/// The carry of a step that asked.
const ASKED: &str = "asked";
/// Answers that end the waiting.
const STOP: [&str; 6] = ["stop", "no", "n", "fail", "give up", "parar"];

/// The step has no keys of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Push {}

#[async_trait]
impl Step for Push {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        let asked = turn.carry == ASKED;
        match send(cx, asked && wants_to_stop(turn.answer.as_deref())).await {
            Ok(outcome) => outcome,
            Err(failure) if cx.cancel.is_cancelled() => Outcome::Fail(failure),
            Err(failure) => after(failure, if asked { 0 } else { turn.carry.as_u64().unwrap_or(0) }),
        }
    }
}

fn wants_to_stop(answer: Option<&str>) -> bool {
    answer.is_some_and(|answer| STOP.contains(&answer.trim().to_lowercase().as_str()))
}

/// What becomes of a try that failed after so many others: what may pass by itself is waited for, then asked about; all else
/// fails. Nothing is lost either way: the commit stays, and a push looks before it acts.
fn after(failure: Failure, tried: u64) -> Outcome {
    if !failure.retryable {
        return Outcome::Fail(failure);
    }
    match usize::try_from(tried).ok().and_then(|tried| WAITS_MS.get(tried)) {
        Some(wait) => Outcome::Park { reason: failure.message, for_ms: *wait, carry: json!(tried + 1) },
        None => {
            let minutes = WAITS_MS.iter().sum::<u64>() / 60_000;
            let text = format!(
                "the branch could not be pushed for {minutes} minutes: {}. The commit is kept. Answer `again` to go on \
                 trying, or `stop` to end the run; `devo retry RUN` pushes it later without doing the work again",
                failure.message
            );
            Outcome::Ask(Question { kind: QuestionKind::Answer, text }, json!(ASKED))
        }
    }
}

async fn send(cx: &Context, stop: bool) -> Result<Outcome, Failure> {
    if stop {
        return Err(Failure::terminal("push_given_up", "the remote could not be reached, and the answer was to stop")
            .hint("when it is there again, push without doing the work again: devo retry RUN --from push"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_that_is_away_is_waited_for_then_asked_about() {
        let away = || Failure::retryable("unreachable", "nobody is there");
        let mut waited = 0;
        let mut carry = json!(null);
        let question = loop {
            match after(away(), carry.as_u64().unwrap_or(0)) {
                Outcome::Park { for_ms, carry: next, reason } => {
                    assert_eq!(reason, "nobody is there");
                    (waited, carry) = (waited + for_ms, next);
                }
                Outcome::Ask(question, next) => {
                    assert_eq!(next, ASKED);
                    break question;
                }
                other => panic!("{other:?}"),
            }
        };
        assert!((15 * 60_000..17 * 60_000).contains(&waited), "{waited}");
        assert!(question.kind == QuestionKind::Answer && question.text.contains("nobody is there"), "{question:?}");
        assert!(wants_to_stop(Some(" STOP ")) && !wants_to_stop(Some("again")) && !wants_to_stop(None));
        let refused = Failure::terminal("push_rejected", "no");
        assert_eq!(after(refused.clone(), 0), Outcome::Fail(refused));
    }
}
