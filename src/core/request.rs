//! What someone wants of a run, and why it may be refused. Admission is a question over a snapshot: nothing changes here.

use serde::{Deserialize, Serialize};

use super::budget::Usd;
use super::event::{Ending, EventBody, QuestionKind, Who};
use super::graph::{Authority, Graph, OnFailure};
use super::id::StepId;
use super::state::{Phase, RunState};

/// How many revisions one plan may have before the planner is not asked again.
pub const REVISIONS_MAX: u32 = 50;
/// The longest feedback, answer or note, in bytes.
pub const TEXT_MAX: usize = 64 * 1024;

/// What someone wants of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// Approve the plan with this hash.
    Approve {
        /// The plan's hash, as shown.
        plan_hash: String,
        /// A remark.
        #[serde(default)]
        note: Option<String>,
    },
    /// Ask for another plan.
    Revise {
        /// The feedback.
        text: String,
    },
    /// Turn the plan down.
    Reject {
        /// A remark.
        #[serde(default)]
        note: Option<String>,
    },
    /// Answer a question.
    Answer {
        /// The answer.
        text: String,
    },
    /// End the run.
    Abort,
    /// Go on with a run that failed.
    Retry {
        /// From this step; otherwise from what failed.
        #[serde(default)]
        from: Option<StepId>,
    },
}

/// A signal and its sender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What.
    #[serde(flatten)]
    pub signal: Signal,
    /// Who and where.
    #[serde(flatten)]
    pub who: Who,
}

/// A request that came too late, twice, or about something that is not so; the run is untouched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// `superseded`, `not_waiting`, `finished`, `not_failed`, `unknown_step`, `too_long`, `not_an_amount`, `too_many`.
    pub code: String,
    /// What is true now.
    pub message: String,
}

fn refused<T>(code: &str, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code: code.to_owned(), message: message.into() })
}

impl RunState {
    /// What a request leads to, or why it is refused.
    pub fn admit(&self, graph: &Graph, request: Request) -> Result<EventBody, Refused> {
        let Request { signal, who } = request;
        let text = match &signal {
            Signal::Revise { text } | Signal::Answer { text } => Some(text),
            Signal::Approve { note, .. } | Signal::Reject { note } => note.as_ref(),
            Signal::Abort | Signal::Retry { .. } => None,
        };
        if text.is_some_and(|text| text.len() > TEXT_MAX) {
            return refused("too_long", format!("the text is longer than {} KiB", TEXT_MAX / 1024));
        }
        if let Signal::Retry { from } = signal {
            return self.admit_retry(graph, from, who);
        }
        if let Some((ending, _)) = self.ending() {
            return refused("finished", format!("the run has ended: {}", self.describe_ending(*ending)));
        }
        match signal {
            Signal::Abort if self.abort_requests() >= 2 => refused("finished", "the run is being aborted already"),
            Signal::Abort => Ok(EventBody::AbortRequested { who }),
            Signal::Approve { plan_hash, note } => {
                let step = self.asking(graph, QuestionKind::Approval)?;
                let Some(plan) = self.plan() else {
                    return refused("not_waiting", format!("step `{step}` asks, but there is no plan to approve"));
                };
                if plan.hash != plan_hash {
                    return refused(
                        "superseded",
                        format!(
                            "that plan is not the current one: revision {} has the hash {}",
                            plan.revision, plan.hash
                        ),
                    );
                }
                Ok(EventBody::Approved { step, plan_hash, revision: plan.revision, who, note })
            }
            Signal::Revise { text } if text.trim().is_empty() => {
                refused("too_long", "the feedback is empty: say what the plan should do differently")
            }
            Signal::Revise { text } => {
                let step = self.asking(graph, QuestionKind::Approval)?;
                if self.halting() {
                    return refused("not_waiting", "the run is being stopped: there will be no other plan");
                }
                let node = graph.node(graph.find(&step).expect("asking steps are steps"));
                if node.revise.is_none() {
                    return refused("not_waiting", format!("step `{step}` takes no revision in this pipeline"));
                }
                if self.plan().is_some_and(|plan| plan.revision >= REVISIONS_MAX) {
                    return refused("too_many", format!("a plan has at most {REVISIONS_MAX} revisions"));
                }
                Ok(EventBody::Revised { step, text, who })
            }
            Signal::Reject { note } => {
                let step = self.asking(graph, QuestionKind::Approval)?;
                Ok(EventBody::Rejected { step, who, note })
            }
            Signal::Answer { text } => {
                // The question that is shown first is the one that is answered.
                let first =
                    self.waiting().map(|(_, question)| question.kind).find(|kind| *kind != QuestionKind::Approval);
                let step = self.asking(graph, first.unwrap_or(QuestionKind::Answer))?;
                let (more_usd, more_tokens) = match first {
                    Some(QuestionKind::Budget) => match amount(&text) {
                        Some(more) => more,
                        None => {
                            return refused(
                                "not_an_amount",
                                "answer with what to add: dollars (`2` or `$2.50`) or tokens (`500000 tokens`)",
                            );
                        }
                    },
                    _ => (Usd(0), 0),
                };
                Ok(EventBody::Answered { step, text, more_usd, more_tokens, who })
            }
            Signal::Retry { .. } => unreachable!("admitted above"),
        }
    }

    fn asking(&self, graph: &Graph, kind: QuestionKind) -> Result<StepId, Refused> {
        match self.waiting().find(|(_, question)| question.kind == kind) {
            // While the run is being stopped only clean-up steps can wait, and they do need their answer.
            Some((at, _)) if !self.going_back() => Ok(graph.node(at).id.clone()),
            _ => refused("not_waiting", self.describe_now(graph, kind)),
        }
    }

    fn describe_now(&self, graph: &Graph, kind: QuestionKind) -> String {
        let wanted = match kind {
            QuestionKind::Approval => "no plan waits for approval",
            QuestionKind::Answer | QuestionKind::Budget => "no question waits for an answer",
        };
        let now = if self.halting() {
            "the run is being stopped".to_owned()
        } else if let Some(approval) = self.approval().filter(|_| kind == QuestionKind::Approval) {
            format!("revision {} was approved by {} ({})", approval.revision, approval.who.by, approval.who.channel)
        } else if let Some((at, question)) = self.waiting().next() {
            format!("step `{}` waits: {}", graph.node(at).id, question.text)
        } else {
            format!("the run is {}", self.status(graph).as_str())
        };
        format!("{wanted}: {now}")
    }

    fn describe_ending(&self, ending: Ending) -> &'static str {
        match ending {
            Ending::Completed => "it completed",
            Ending::Failed => "it failed; `devo retry` goes on from what failed",
            Ending::Aborted => "it was aborted or rejected",
        }
    }

    fn admit_retry(&self, graph: &Graph, from: Option<StepId>, who: Who) -> Result<EventBody, Refused> {
        match self.ending() {
            None => return refused("not_failed", "the run has not ended, so there is nothing to retry"),
            Some((Ending::Completed, _)) => {
                return refused("not_failed", "the run completed, so there is nothing to retry");
            }
            Some(_) if self.rejected() => {
                return refused("not_failed", "the plan was rejected: submit the task again for another one");
            }
            Some(_) => {}
        }
        if let Some(step) = &from {
            let Some(at) = graph.find(step) else {
                return refused("unknown_step", format!("the run has no step `{step}`"));
            };
            if graph
                .needs(at)
                .any(|need| !self.phase(need).counts_as_done(graph.node(need).on_failure == OnFailure::Continue))
            {
                return refused("unknown_step", format!("step `{step}` cannot start yet: what it needs is not done"));
            }
            // Going back before an approval would run approved steps under a plan that nobody saw again.
            if graph.node(at).authority == Authority::Approves && matches!(self.phase(at), Phase::Succeeded) {
                return refused("unknown_step", "an approval cannot be repeated: retry from the step that plans");
            }
        }
        Ok(EventBody::Retried { from, who })
    }
}

/// `2`, `$2.50`, `2.5 usd` or `500000 tokens`; `None` for anything else, nothing, or a nonsensical amount.
fn amount(text: &str) -> Option<(Usd, u64)> {
    let text = text.trim().to_ascii_lowercase();
    if let Some(tokens) = text.strip_suffix("tokens") {
        let tokens: u64 = tokens.trim().replace('_', "").parse().ok()?;
        return (1..=1_000_000_000).contains(&tokens).then_some((Usd(0), tokens));
    }
    let dollars = text.trim_start_matches('+').trim_start_matches('$').trim_end_matches("usd").trim();
    let dollars: f64 = dollars.parse().ok()?;
    (dollars > 0.0 && dollars <= 100_000.0).then(|| (Usd::from_dollars(dollars), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_dollars_or_tokens() {
        assert_eq!(amount("2"), Some((Usd::from_dollars(2.0), 0)));
        assert_eq!(amount(" $2.50 "), Some((Usd::from_dollars(2.5), 0)));
        assert_eq!(amount("+1 usd"), Some((Usd::from_dollars(1.0), 0)));
        assert_eq!(amount("500_000 tokens"), Some((Usd(0), 500_000)));
        for bad in ["", "yes", "-2", "0", "inf", "nan", "0 tokens", "1e99"] {
            assert_eq!(amount(bad), None, "{bad}");
        }
    }
}
