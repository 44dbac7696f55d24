//! Which events fit a state: the rules that no program, old or new, can get around.

use serde_json::Value;

use super::{Phase, RunState};
use crate::core::event::{Ending, Event, EventBody, QuestionKind};
use crate::core::graph::{Authority, Graph, StepIndex};
use crate::core::plan::PlanRecord;

impl RunState {
    pub(super) fn check(&self, graph: &Graph, event: &Event) -> Result<(), String> {
        use EventBody::*;
        if event.seq != self.seq + 1 {
            return Err(format!("its number should be {}", self.seq + 1));
        }
        if event.at < self.last_at {
            return Err("it is earlier than the event before it".to_owned());
        }
        let step = match event.body.step() {
            Some(id) => Some(graph.find(id).ok_or_else(|| format!("there is no step `{id}`"))?),
            None => None,
        };
        let phase = step.map(|at| &self.steps[at].phase);
        let ended = self.ending.is_some();
        if ended && !matches!(event.body, Retried { .. }) {
            return Err("the run has ended".to_owned());
        }
        let ok = match &event.body {
            Accepted(_) => return Err("a run is accepted once".to_owned()),
            Resumed {} | AbortRequested { .. } => true,
            StepStarted { attempt, round, turn, .. } => {
                let at = step.expect("has a step");
                let startable = match phase {
                    Some(Phase::Ready) => true,
                    Some(Phase::Sleeping(until)) => *until <= event.at,
                    _ => false,
                };
                startable
                    && (*attempt, *round, *turn) == self.next_start(at)
                    && self.may_act(graph, at)
                    && self.back.is_empty()
                    && self.running.len() < self.parallel()
                    && !(graph.node(at).exclusive && self.running_exclusive > 0)
            }
            StepAsked { question, .. } => {
                let approves = graph.node(step.expect("has a step")).authority == Authority::Approves;
                phase == Some(&Phase::Running) && (approves || question.kind != QuestionKind::Approval)
            }
            StepContinued { .. } | StepSkipped { .. } | StepInterrupted { .. } | StepParked { .. } => {
                phase == Some(&Phase::Running)
            }
            StepSucceeded { output, .. } => {
                let at = step.expect("has a step");
                if phase == Some(&Phase::Running) && graph.node(at).authority == Authority::Plans {
                    self.check_plan(output)?;
                }
                phase == Some(&Phase::Running)
            }
            StepFailed { .. } => {
                let at = step.expect("has a step");
                let could_start = matches!(phase, Some(Phase::Ready | Phase::Sleeping(_)));
                phase == Some(&Phase::Running) || (could_start && !self.may_act(graph, at))
            }
            StepCancelled { .. } => {
                phase == Some(&Phase::Running)
                    && (self.halting() || self.in_the_way(graph).contains(&step.expect("has a step")))
            }
            CallStarted { call, .. } => phase == Some(&Phase::Running) && *call == self.next_call(),
            CallFinished { call, .. } => self.open_calls.get(call).is_some_and(|open| Some(open.step) == step),
            Approved { plan_hash, revision, .. } => {
                self.asks(step, QuestionKind::Approval)
                    && self.plan.as_ref().is_some_and(|plan| plan.hash == *plan_hash && plan.revision == *revision)
            }
            Revised { .. } => {
                self.asks(step, QuestionKind::Approval)
                    && graph.node(step.expect("has a step")).revise.is_some()
                    && !self.halting()
            }
            Rejected { .. } => self.asks(step, QuestionKind::Approval),
            Answered { .. } => self.asks(step, QuestionKind::Answer) || self.asks(step, QuestionKind::Budget),
            Retried { from, .. } => {
                let known = from.as_ref().is_none_or(|from| graph.find(from).is_some());
                known
                    && !self.rejected()
                    && self.ending.as_ref().is_some_and(|(ending, _)| *ending != Ending::Completed)
            }
            Rewound { from, to } => {
                let way = self.back.front().ok_or("no way back was asked for")?;
                graph.find(from) == Some(way.from)
                    && graph.find(to) == Some(way.to)
                    && self.in_the_way(graph).is_empty()
            }
            WallLimitReached {} => {
                self.halt.is_none() && self.spec.limits.wall_ms.is_some_and(|limit| self.active_ms(event.at) >= limit)
            }
            Finished { status, .. } => self.open == 0 && self.back.is_empty() && *status == self.verdict(),
        };
        if ok {
            Ok(())
        } else {
            let now = phase.map_or_else(String::new, |phase| format!(" while the step is {}", phase.as_str()));
            let name =
                serde_json::to_value(&event.body).ok().and_then(|body| body["event"].as_str().map(str::to_owned));
            Err(format!("`{}` cannot happen{now}", name.unwrap_or_default()))
        }
    }

    fn check_plan(&self, output: &Value) -> Result<(), String> {
        let plan: PlanRecord =
            serde_json::from_value(output.clone()).map_err(|error| format!("the output is not a plan: {error}"))?;
        let wanted = self.plan.as_ref().map_or(1, |plan| plan.revision + 1);
        if plan.revision != wanted {
            return Err(format!("the plan's revision should be {wanted}"));
        }
        if !plan.hash_holds(&self.spec.pipeline_hash) {
            return Err("the plan's hash is not the plan's".to_owned());
        }
        Ok(())
    }

    fn asks(&self, step: Option<StepIndex>, kind: QuestionKind) -> bool {
        self.back.is_empty()
            && step.is_some_and(|at| matches!(&self.steps[at].phase, Phase::Waiting(question) if question.kind == kind))
    }

    /// Steps side by side.
    pub(in crate::core) fn parallel(&self) -> usize {
        self.spec.limits.parallel.max(1)
    }

    /// Running steps that the next way back would reset: they have to stop first.
    pub(in crate::core) fn in_the_way(&self, graph: &Graph) -> Vec<StepIndex> {
        let Some(way) = self.back.front() else { return Vec::new() };
        let behind = graph.downstream(way.to);
        self.running.iter().copied().filter(|at| *at == way.to || behind.contains(at)).collect()
    }

    /// Attempt, round and turn of a step's next start.
    pub fn next_start(&self, at: StepIndex) -> (u32, u32, u32) {
        let step = &self.steps[at];
        if step.continues { (step.attempt, step.round, step.turn + 1) } else { (step.attempt + 1, step.round, 1) }
    }

    /// Whether the step's authority lets it start now.
    pub fn may_act(&self, graph: &Graph, at: StepIndex) -> bool {
        graph.node(at).authority != Authority::Acts || self.approved()
    }
}
