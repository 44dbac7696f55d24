//! What an event that fits does to a state.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Approval, Halt, OpenCall, Phase, RunState, STOPPED, StepState, TURNS_MAX, WayBack};
use crate::core::budget::{Usage, Usd};
use crate::core::event::EventBody;
use crate::core::failure::Failure;
use crate::core::graph::{Authority, Graph, Node, OnFailure, StepIndex};
use crate::core::time::Timestamp;

impl RunState {
    pub(super) fn fold(&mut self, graph: &Graph, at: Timestamp, body: &EventBody) {
        use EventBody::*;
        let step = body.step().and_then(|id| graph.find(id));
        let index = || step.expect("checked");
        match body {
            Accepted(_) => {}
            Resumed {} => self.lose_open_calls(),
            StepStarted { .. } => self.start(graph, index(), at),
            StepContinued { carry, .. } => {
                self.steps[index()].take_turn(carry);
                self.pause(graph, index(), at, Phase::Ready);
            }
            StepAsked { question, carry, .. } => {
                self.steps[index()].take_turn(carry);
                self.pause(graph, index(), at, Phase::Waiting(question.clone()));
            }
            StepParked { reason, until, carry, .. } => {
                let state = &mut self.steps[index()];
                state.carry = carry.clone();
                state.reason = Some(reason.clone());
                state.parked = true;
                self.pause(graph, index(), at, Phase::Sleeping(*until));
            }
            StepInterrupted { .. } => {
                // The lost turn's time is lost with its work; the turns before it stand in the carry, and count.
                let state = &mut self.steps[index()];
                state.lost += 1;
                state.continues = false;
                state.tries -= 1;
                if self.stopped(graph, index()) {
                    self.end(graph, index(), at, Phase::Cancelled, Some(STOPPED.to_owned()));
                } else {
                    self.move_to(graph, index(), Phase::Ready);
                }
            }
            StepSucceeded { output, .. } => {
                if graph.node(index()).authority == Authority::Plans {
                    self.plan = serde_json::from_value(output.clone()).ok();
                    self.approval = None;
                }
                self.steps[index()].output = output.clone();
                self.end(graph, index(), at, Phase::Succeeded, None);
            }
            StepSkipped { reason, .. } => self.end(graph, index(), at, Phase::Skipped, Some(reason.clone())),
            StepCancelled { reason, .. } => self.end(graph, index(), at, Phase::Cancelled, Some(reason.clone())),
            StepFailed { error, .. } => self.fail(graph, index(), at, error),
            CallStarted { call, role, reserved, reserved_tokens, prompt, .. } => {
                self.calls = *call;
                self.steps[index()].prompt = Some(prompt.clone());
                let open = OpenCall { step: index(), role: role.clone(), usd: *reserved, tokens: *reserved_tokens };
                self.open_calls.insert(*call, open);
            }
            CallFinished { call, usage, usd, .. } => {
                if let Some(open) = self.open_calls.remove(call) {
                    self.settle_call(&open, *usage, *usd);
                }
            }
            Approved { plan_hash, revision, who, note, .. } => {
                self.approval = Some(Approval {
                    plan_hash: plan_hash.clone(),
                    revision: *revision,
                    who: who.clone(),
                    at,
                    note: note.clone(),
                });
                self.answer(graph, index(), "approved".to_owned());
            }
            Revised { text, .. } => {
                self.approval = None;
                let to = graph.node(index()).revise.as_ref().and_then(|id| graph.find(id)).expect("checked");
                self.back.push_back(WayBack { from: index(), to, feedback: text.clone(), revision: true });
            }
            Rejected { .. } => {
                self.end(graph, index(), at, Phase::Cancelled, Some("the plan was rejected".to_owned()));
                self.stop(graph, at, Halt::Rejected);
            }
            Answered { text, more_usd, more_tokens, .. } => {
                self.more_usd = self.more_usd + *more_usd;
                self.more_tokens = self.more_tokens.saturating_add(*more_tokens);
                self.answer(graph, index(), text.clone());
            }
            AbortRequested { .. } => {
                self.aborts += 1;
                self.stop(graph, at, Halt::Aborted);
            }
            WallLimitReached {} => self.stop(graph, at, Halt::WallLimit),
            Retried { from, .. } => self.retry(graph, from.as_ref().and_then(|id| graph.find(id))),
            Rewound { .. } => {
                let way = self.back.pop_front().expect("checked");
                self.go_back(graph, &way);
            }
            Finished { status, error } => {
                // A call of a step that was stopped may never have been settled.
                self.lose_open_calls();
                self.ending = Some((*status, error.clone()));
            }
        }
    }

    fn start(&mut self, graph: &Graph, index: StepIndex, at: Timestamp) {
        self.begun = true;
        let (attempt, _, turn) = self.next_start(index);
        self.move_to(graph, index, Phase::Running);
        let step = &mut self.steps[index];
        if !step.continues {
            step.tries += 1;
        }
        step.attempt = attempt;
        step.turn = turn;
        step.turn_at = at;
        step.parked = false;
        step.reason = None;
        step.error = None;
        step.started_at.get_or_insert(at);
        step.finished_at = None;
    }

    /// The running turn ends and the step does not.
    fn pause(&mut self, graph: &Graph, index: StepIndex, at: Timestamp, phase: Phase) {
        let step = &mut self.steps[index];
        step.last_turn_ms = at.since(step.turn_at);
        step.spent_ms += step.last_turn_ms;
        step.continues = true;
        if self.stopped(graph, index) {
            self.end(graph, index, at, Phase::Cancelled, Some(STOPPED.to_owned()));
        } else if self.steps[index].turn >= TURNS_MAX {
            let error = Failure::terminal("too_many_turns", format!("the step did not end within {TURNS_MAX} turns"))
                .hint("look at `devo logs RUN` for what it repeats, then `devo retry RUN`");
            self.fail(graph, index, at, &error);
        } else {
            self.move_to(graph, index, phase);
        }
    }

    fn answer(&mut self, graph: &Graph, index: StepIndex, text: String) {
        self.steps[index].answer = Some(text);
        self.move_to(graph, index, Phase::Ready);
    }

    fn fail(&mut self, graph: &Graph, index: StepIndex, at: Timestamp, error: &Failure) {
        let node = graph.node(index);
        let stopped = self.stopped(graph, index);
        let step = &mut self.steps[index];
        step.error = Some(error.clone());
        step.finished_at = Some(at);
        step.continues = false;
        step.spent_ms = 0;
        if error.retryable && step.tries < node.retry.attempts && !stopped {
            let until = at.plus_ms(node.retry.delay_before(step.tries + 1));
            step.carry = Value::Null;
            // The next try starts from nothing, so it must be told again why the run came back.
            step.feedback.clone_from(&step.brought);
            step.parked = false;
            self.move_to(graph, index, Phase::Sleeping(until));
            return;
        }
        if let OnFailure::Rewind { to, rounds } = &node.on_failure
            // A failure without feedback has nothing to teach the step that it would go back to.
            && let Some(feedback) = &error.feedback
            && step.rewinds < *rounds
            && self.halt.is_none()
        {
            step.rewinds += 1;
            let to = graph.find(to).expect("the graph was checked");
            self.back.push_back(WayBack { from: index, to, feedback: feedback.clone(), revision: false });
            self.move_to(graph, index, Phase::Failed);
            return;
        }
        if node.on_failure != OnFailure::Continue {
            self.unhandled.insert(index);
        }
        self.move_to(graph, index, Phase::Failed);
        self.settle(graph, index);
    }

    fn end(&mut self, graph: &Graph, index: StepIndex, at: Timestamp, phase: Phase, reason: Option<String>) {
        let step = &mut self.steps[index];
        step.finished_at = Some(at);
        step.reason = reason;
        step.continues = false;
        step.spent_ms = 0;
        step.answer = None;
        step.feedback = None;
        step.carry = Value::Null;
        step.brought = None;
        self.move_to(graph, index, phase);
        self.settle(graph, index);
    }

    /// Tells those that need the step; a chain of cancellations is followed without recursion.
    fn settle(&mut self, graph: &Graph, index: StepIndex) {
        let mut told = vec![index];
        while let Some(current) = told.pop() {
            if std::mem::replace(&mut self.steps[current].settled, true) {
                continue;
            }
            let done = self.done(graph, current);
            for dependent in graph.dependents(current).collect::<Vec<_>>() {
                let step = &mut self.steps[dependent];
                step.unmet -= 1;
                step.blocked += u32::from(!done);
                if step.unmet > 0 || step.phase != Phase::Pending {
                    continue;
                }
                if self.release(graph, dependent) {
                    told.push(dependent);
                }
            }
        }
    }

    /// A pending step without unmet needs becomes ready or cancelled; says whether it was cancelled.
    fn release(&mut self, graph: &Graph, index: StepIndex) -> bool {
        let node = graph.node(index);
        let stopped = self.stopped(graph, index);
        let blocked = self.steps[index].blocked > 0 && !node.always;
        if stopped || blocked {
            let why = if stopped { STOPPED } else { "a step that it needs did not succeed" };
            self.steps[index].reason = Some(why.to_owned());
            self.move_to(graph, index, Phase::Cancelled);
            return true;
        }
        self.move_to(graph, index, Phase::Ready);
        false
    }

    fn done(&self, graph: &Graph, index: StepIndex) -> bool {
        self.steps[index].phase.counts_as_done(graph.node(index).on_failure == OnFailure::Continue)
    }

    /// Whether the driver must not stop the step although the run is being stopped: clean-up, until a second abort.
    pub(in crate::core) fn survives_halt(&self, graph: &Graph, index: StepIndex) -> bool {
        graph.node(index).always && self.aborts < 2
    }

    /// Whether the run is being stopped and the step with it.
    fn stopped(&self, graph: &Graph, index: StepIndex) -> bool {
        self.halting() && !self.survives_halt(graph, index)
    }

    /// Ends everything that has not started; what runs is stopped by the driver.
    fn stop(&mut self, graph: &Graph, at: Timestamp, halt: Halt) {
        self.halt.get_or_insert(halt);
        // Failed steps that hoped for a way back are settled now: there is none any more.
        for way in std::mem::take(&mut self.back) {
            if self.steps[way.from].phase == Phase::Failed {
                self.unhandled.insert(way.from);
                self.settle(graph, way.from);
            }
        }
        for index in 0..self.steps.len() {
            let idle = matches!(self.steps[index].phase, Phase::Ready | Phase::Sleeping(_) | Phase::Waiting(_));
            if idle && self.stopped(graph, index) {
                self.end(graph, index, at, Phase::Cancelled, Some(STOPPED.to_owned()));
            }
        }
    }

    fn go_back(&mut self, graph: &Graph, way: &WayBack) {
        let mut members = graph.downstream(way.to);
        members.push(way.to);
        self.reset(graph, &members, !way.revision);
        self.steps[way.to].feedback = Some(way.feedback.clone());
        self.steps[way.to].brought = Some(way.feedback.clone());
        // Another way back from inside what was reset has lost its reason.
        self.back.retain(|other| !members.contains(&other.from));
    }

    fn retry(&mut self, graph: &Graph, from: Option<StepIndex>) {
        // Whatever failed would fail the run again, so it is tried again even if the retry names another step.
        let mut members: BTreeSet<StepIndex> = (0..graph.len())
            .filter(|at| self.steps[*at].phase == Phase::Cancelled || self.unhandled.contains(at))
            .chain(from)
            .collect();
        // What follows goes with it: also a clean-up step that has run.
        let after: Vec<StepIndex> = members.iter().flat_map(|at| graph.downstream(*at)).collect();
        members.extend(after);
        let members: Vec<StepIndex> = members.into_iter().collect();
        self.ending = None;
        self.halt = None;
        self.aborts = 0;
        self.reset(graph, &members, false);
        self.active_ms = 0;
    }

    /// Puts steps before their first try of a new round.
    fn reset(&mut self, graph: &Graph, members: &[StepIndex], keep_rewinds: bool) {
        if members.iter().any(|at| graph.node(*at).authority == Authority::Plans) {
            // There will be another plan: what was approved is no longer what will be done.
            self.approval = None;
        }
        for index in members {
            if self.steps[*index].phase.is_over() {
                self.open += 1;
            }
            self.leave(graph, *index);
            self.unhandled.remove(index);
            let old = &self.steps[*index];
            self.steps[*index] = StepState {
                attempt: old.attempt,
                round: old.round + 1,
                rewinds: if keep_rewinds { old.rewinds } else { 0 },
                previous: if old.output.is_null() { old.previous.clone() } else { old.output.clone() },
                ..StepState::new()
            };
        }
        for index in members {
            let (mut unmet, mut blocked) = (0, 0);
            for need in graph.needs(*index) {
                if !self.steps[need].settled {
                    unmet += 1;
                } else if !self.done(graph, need) {
                    blocked += 1;
                }
            }
            self.steps[*index].unmet = unmet;
            self.steps[*index].blocked = blocked;
        }
        for index in members {
            if self.steps[*index].unmet == 0
                && self.steps[*index].phase == Phase::Pending
                && self.release(graph, *index)
            {
                self.settle(graph, *index);
            }
        }
    }

    fn settle_call(&mut self, open: &OpenCall, usage: Usage, usd: Usd) {
        self.spending.add(usage, usd);
        self.by_role.entry(open.role.clone()).or_default().add(usage, usd);
        let step = &mut self.steps[open.step];
        step.usage += usage;
        step.usd = step.usd + usd;
        step.calls += 1;
    }

    /// A call that was under way when the engine died may have been billed: count what was reserved.
    fn lose_open_calls(&mut self) {
        for open in std::mem::take(&mut self.open_calls).into_values() {
            self.settle_call(&open, Usage { input: open.tokens, ..Usage::default() }, open.usd);
        }
    }

    // ---- sets that make `due` cheap ------------------------------------------------------------------------------

    fn leave(&mut self, graph: &Graph, index: StepIndex) {
        let node: &Node = graph.node(index);
        match &self.steps[index].phase {
            Phase::Ready => {
                self.ready_shared.remove(&index);
                self.ready_exclusive.remove(&index);
            }
            Phase::Sleeping(until) => {
                self.sleeping.remove(&(*until, index));
                self.dozing -= usize::from(!self.steps[index].parked);
            }
            Phase::Running => {
                self.running.remove(&index);
                self.timed.remove(&index);
                self.running_exclusive -= usize::from(node.exclusive);
            }
            Phase::Waiting(_) => {
                self.waiting.remove(&index);
            }
            Phase::Pending | Phase::Succeeded | Phase::Failed | Phase::Skipped | Phase::Cancelled => {}
        }
    }

    pub(super) fn move_to(&mut self, graph: &Graph, index: StepIndex, phase: Phase) {
        self.leave(graph, index);
        let node = graph.node(index);
        let was_over = self.steps[index].phase.is_over();
        match &phase {
            Phase::Ready if node.exclusive => {
                self.ready_exclusive.insert(index);
            }
            Phase::Ready => {
                self.ready_shared.insert(index);
            }
            Phase::Sleeping(until) => {
                self.sleeping.insert((*until, index));
                self.dozing += usize::from(!self.steps[index].parked);
            }
            Phase::Running => {
                self.running.insert(index);
                if node.timeout_ms.is_some() {
                    self.timed.insert(index);
                }
                self.running_exclusive += usize::from(node.exclusive);
            }
            Phase::Waiting(_) => {
                self.waiting.insert(index);
            }
            Phase::Pending | Phase::Succeeded | Phase::Failed | Phase::Skipped | Phase::Cancelled => {}
        }
        if phase.is_over() && !was_over {
            self.open -= 1;
        }
        self.steps[index].phase = phase;
    }
}
