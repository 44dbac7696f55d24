//! A second opinion on a run: it sees the same events as the state, keeps its own books, and asserts the promises. It
//! knows nothing of how the state is kept; of the state it reads only what anyone may ask.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::world::BIRTH;
use crate::core::budget::{Usage, Usd};
use crate::core::event::{Ending, Event, EventBody, QuestionKind};
use crate::core::graph::{Authority, Graph, OnFailure, StepIndex};
use crate::core::plan::{PlanRecord, plan_hash};
use crate::core::scheduler::{Effect, due, wake_after};
use crate::core::state::{LOST_MAX, Phase, RunState, Status};
use crate::core::time::Timestamp;

/// What a turn is given.
#[derive(Debug, Clone, Default, PartialEq)]
struct Given {
    carry: Value,
    answer: Option<String>,
    feedback: Option<String>,
}

#[derive(Debug, Clone)]
struct Track {
    round: u32,
    attempt: u32,
    turn: u32,
    /// The next start is a new try.
    fresh: bool,
    /// Tries of this round that were not lost.
    tries: u32,
    lost: u32,
    rewinds: u32,
    /// Nothing more may happen to it in this round.
    over: bool,
    given: Given,
    brought: Option<String>,
    running_since: Option<Timestamp>,
    spent: u64,
    parked: bool,
    revision: Option<String>,
    /// It failed and may send the run back.
    goes_back: bool,
}

impl Track {
    fn new() -> Self {
        Self {
            round: 1,
            attempt: 0,
            turn: 0,
            fresh: true,
            tries: 0,
            lost: 0,
            rewinds: 0,
            over: false,
            given: Given::default(),
            brought: None,
            running_since: None,
            spent: 0,
            parked: false,
            revision: None,
            goes_back: false,
        }
    }
}

/// The books.
#[derive(Debug, Clone)]
pub struct Oracle {
    tracks: Vec<Track>,
    plan: Option<String>,
    pub superseded: BTreeSet<String>,
    approved: Option<String>,
    stops: u32,
    aborts: u32,
    person_stopped: bool,
    active: u64,
    last: Timestamp,
    held: BTreeMap<u32, (StepIndex, Usd, u64)>,
    spent: (u64, u64),
    added: (u64, u64),
    /// How much calls cost beyond what was reserved for them.
    overrun: (u64, u64),
    calls: u32,
}

impl Oracle {
    pub fn new(graph: &Graph) -> Self {
        Self {
            tracks: vec![Track::new(); graph.len()],
            plan: None,
            superseded: BTreeSet::new(),
            approved: None,
            stops: 0,
            aborts: 0,
            person_stopped: false,
            active: 0,
            last: BIRTH,
            held: BTreeMap::new(),
            spent: (0, 0),
            added: (0, 0),
            overrun: (0, 0),
            calls: 0,
        }
    }

    fn running(&self) -> impl Iterator<Item = StepIndex> {
        (0..self.tracks.len()).filter(|at| self.tracks[*at].running_since.is_some())
    }

    fn stopped(&self, graph: &Graph, at: StepIndex) -> bool {
        self.stops > 0 && !(graph.node(at).always && self.aborts < 2)
    }

    /// Money and tokens that are spent or reserved.
    pub fn committed(&self) -> (u64, u64) {
        let held = self.held.values().fold((0, 0), |(usd, tokens), (_, u, t)| (usd + u.0, tokens + t));
        (self.spent.0 + held.0, self.spent.1 + held.1)
    }

    fn affords(&self, state: &RunState, usd: Usd, tokens: u64) -> bool {
        let limits = &state.spec().limits;
        let (used, used_tokens) = self.committed();
        limits.usd.is_none_or(|limit| used + usd.0 <= limit.0 + self.added.0)
            && limits.tokens.is_none_or(|limit| used_tokens + tokens <= limit + self.added.1)
    }

    /// Follows one event that the door accepted.
    pub fn see(&mut self, graph: &Graph, before: &RunState, event: &Event, after: &RunState) {
        use EventBody::*;
        let at = event.at;
        assert_eq!(event.seq, before.seq() + 1, "no gaps");
        assert!(at >= self.last, "time goes forward");
        if !matches!(event.body, Resumed {}) {
            self.active = self.active_at(before, at);
        }
        self.last = at;
        let index = event.body.step().and_then(|id| graph.find(id));
        let step = || index.expect("the event is about a step");
        assert!(before.ending().is_none() || matches!(event.body, Retried { .. }), "nothing happens after the end");
        match &event.body {
            Accepted(_) => panic!("a run is accepted once"),
            Resumed {} => {
                self.lose_calls();
            }
            StepStarted { attempt, round, turn, .. } => {
                self.started(graph, before, step(), (*attempt, *round, *turn), at)
            }
            StepContinued { carry, .. } | StepAsked { carry, .. } => {
                self.paused(graph, step(), at);
                self.tracks[step()].given = Given { carry: carry.clone(), ..Given::default() };
            }
            StepParked { carry, .. } => {
                self.paused(graph, step(), at);
                self.tracks[step()].given.carry = carry.clone();
                self.tracks[step()].parked = true;
            }
            StepInterrupted { .. } => {
                let stopped = self.stopped(graph, step());
                let track = &mut self.tracks[step()];
                assert!(track.running_since.take().is_some());
                track.fresh = true;
                track.lost += 1;
                track.tries -= 1;
                track.over = stopped;
            }
            StepSucceeded { output, .. } => {
                if graph.node(step()).authority == Authority::Plans {
                    self.superseded.extend(self.plan.take());
                    let plan: PlanRecord = serde_json::from_value(output.clone()).expect("a plan is a plan");
                    let last = before.plan().map_or(0, |plan| plan.revision);
                    assert_eq!(plan.revision, last + 1, "revisions count up");
                    let hash = plan_hash(&plan.plan, &plan.base_commit, &before.spec().pipeline_hash);
                    assert_eq!(plan.hash, hash, "a plan's hash is its own");
                    self.plan = Some(hash);
                    self.approved = None;
                }
                assert_eq!(after.step(step()).output, *output);
                self.over(step(), after, &Phase::Succeeded);
            }
            StepSkipped { .. } => self.over(step(), after, &Phase::Skipped),
            StepCancelled { .. } => {
                assert!(self.stops > 0 || before.going_back(), "nothing is cancelled without a cause");
                self.over(step(), after, &Phase::Cancelled);
            }
            StepFailed { error, .. } => {
                if self.tracks[step()].running_since.is_none() {
                    assert!(self.forbidden(graph, step()), "only a forbidden step fails before it runs");
                }
                self.failed(graph, step(), at, error, after);
            }
            CallStarted { call, reserved, reserved_tokens, .. } => {
                assert!(self.tracks[step()].running_since.is_some());
                self.calls += 1;
                assert_eq!(*call, self.calls);
                self.held.insert(*call, (step(), *reserved, *reserved_tokens));
            }
            CallFinished { call, usage, usd, .. } => {
                let (owner, held, held_tokens) = self.held.remove(call).expect("only an open call is finished");
                assert_eq!(owner, step(), "who began a call ends it");
                self.spent = (self.spent.0 + usd.0, self.spent.1 + usage.total());
                self.overrun.0 += usd.0.saturating_sub(held.0);
                self.overrun.1 += usage.total().saturating_sub(held_tokens);
            }
            Approved { plan_hash, .. } => {
                assert_eq!(Some(plan_hash), self.plan.as_ref(), "only the current plan is approved");
                assert!(!before.going_back(), "a plan that is being revised is not approved");
                assert_eq!(graph.node(step()).authority, Authority::Approves);
                self.approved = Some(plan_hash.clone());
                self.tracks[step()].given.answer = Some("approved".to_owned());
            }
            Revised { text, .. } => {
                self.approved = None;
                assert!(after.going_back() && !before.going_back() && !before.halting());
                self.tracks[step()].revision = Some(text.clone());
            }
            Rejected { .. } => {
                assert_eq!(*after.phase(step()), Phase::Cancelled);
                self.stops += 1;
                self.person_stopped |= self.stops == 1;
            }
            Answered { text, more_usd, more_tokens, .. } => {
                self.added = (self.added.0 + more_usd.0, self.added.1 + more_tokens);
                self.tracks[step()].given.answer = Some(text.clone());
            }
            AbortRequested { .. } => {
                self.stops += 1;
                self.aborts += 1;
                self.person_stopped |= self.stops == 1;
            }
            WallLimitReached {} => {
                assert!(self.active >= before.spec().limits.wall_ms.unwrap());
                self.stops += 1;
            }
            Retried { from, .. } => {
                assert!(!before.rejected(), "a rejected plan is not tried again");
                let lost = |at: &StepIndex| match before.phase(*at) {
                    Phase::Cancelled => true,
                    Phase::Failed => graph.node(*at).on_failure != OnFailure::Continue,
                    _ => false,
                };
                let from = from.as_ref().and_then(|id| graph.find(id));
                let roots: Vec<StepIndex> = (0..graph.len()).filter(lost).chain(from).collect();
                self.reset(graph, &roots, before, after, true);
                (self.stops, self.aborts, self.person_stopped, self.active) = (0, 0, false, 0);
            }
            Rewound { from, to } => {
                let (from, to) = (graph.find(from).unwrap(), graph.find(to).unwrap());
                let revision = self.tracks[from].revision.take();
                let by_person = revision.is_some();
                assert!(by_person || self.tracks[from].goes_back, "a way back has a cause");
                let feedback = revision.or_else(|| before.step(from).error.clone()?.feedback);
                self.reset(graph, &[to], before, after, by_person);
                if !by_person {
                    let OnFailure::Rewind { to: target, rounds } = &graph.node(from).on_failure else {
                        panic!("only a rewinding step goes back")
                    };
                    assert_eq!(graph.find(target), Some(to));
                    assert!(self.tracks[from].rewinds <= *rounds, "rewinds are bounded");
                }
                self.tracks[to].given.feedback.clone_from(&feedback);
                self.tracks[to].brought = feedback;
            }
            Finished { status, .. } => {
                self.lose_calls();
                self.finished(graph, *status, after);
            }
        }
        for (at, track) in self.tracks.iter_mut().enumerate() {
            track.over |= after.phase(at).is_over() && !after.going_back();
        }
        self.agree(graph, after);
    }

    fn started(&mut self, graph: &Graph, before: &RunState, step: StepIndex, number: (u32, u32, u32), at: Timestamp) {
        let node = graph.node(step);
        assert!(!before.going_back(), "nothing starts while the run goes back");
        assert!(!self.stopped(graph, step), "nothing but clean-up starts once the run is stopped");
        for need in graph.needs(step) {
            let handled = graph.node(need).on_failure == OnFailure::Continue;
            assert!(before.phase(need).is_over(), "needs are met before a start");
            assert!(node.always || before.phase(need).counts_as_done(handled), "needs count as done before a start");
        }
        let running: Vec<StepIndex> = self.running().collect();
        assert!(running.len() < before.spec().limits.parallel.max(1), "never more than the limit");
        let alone = !node.exclusive || running.iter().all(|other| !graph.node(*other).exclusive);
        assert!(alone, "exclusive steps never run side by side");
        if node.authority == Authority::Acts {
            assert!(self.plan.is_some() && self.approved == self.plan, "nothing acts without an approval of this plan");
        }
        if let Phase::Sleeping(until) = before.phase(step) {
            assert!(*until <= at, "a sleeping step sleeps on");
        }
        let track = &mut self.tracks[step];
        assert!(!track.over, "what is over does not start again in that round");
        if std::mem::take(&mut track.fresh) {
            (track.attempt, track.turn, track.tries) = (track.attempt + 1, 1, track.tries + 1);
        } else {
            track.turn += 1;
        }
        assert_eq!(number, (track.attempt, track.round, track.turn));
        assert!(track.tries <= node.retry.attempts && track.lost <= LOST_MAX, "tries are bounded");
        let state = before.step(step);
        let given =
            Given { carry: state.carry.clone(), answer: state.answer.clone(), feedback: state.feedback.clone() };
        assert_eq!(given, track.given, "a turn is given what is meant for it, again if it was lost");
        track.running_since = Some(at);
        track.parked = false;
    }

    fn paused(&mut self, graph: &Graph, step: StepIndex, at: Timestamp) {
        let stopped = self.stopped(graph, step);
        let track = &mut self.tracks[step];
        track.spent += at.since(track.running_since.take().expect("only a running step pauses"));
        track.over = stopped;
    }

    fn over(&mut self, step: StepIndex, after: &RunState, phase: &Phase) {
        assert_eq!(after.phase(step), phase);
        let track = &mut self.tracks[step];
        assert!(track.running_since.take().is_some(), "only a running step ends");
        track.over = true;
    }

    fn failed(
        &mut self,
        graph: &Graph,
        step: StepIndex,
        at: Timestamp,
        error: &crate::core::failure::Failure,
        after: &RunState,
    ) {
        let node = graph.node(step);
        let stopped = self.stopped(graph, step);
        let track = &mut self.tracks[step];
        track.running_since = None;
        track.spent = 0;
        track.fresh = true;
        assert_eq!(after.step(step).error.as_ref(), Some(error));
        let rewinds = match &node.on_failure {
            OnFailure::Rewind { rounds, .. } => error.feedback.is_some() && track.rewinds < *rounds && self.stops == 0,
            _ => false,
        };
        if error.retryable && track.tries < node.retry.attempts && !stopped {
            let delay = (node.retry.delay_ms << track.tries.saturating_sub(1)).min(node.retry.max_delay_ms);
            assert_eq!(*after.phase(step), Phase::Sleeping(at.plus_ms(delay)), "a retry waits for its delay");
            // What was given to the turn that failed stays; the rest of the try is gone.
            track.given.carry = Value::Null;
            track.given.feedback.clone_from(&track.brought);
            track.parked = false;
        } else {
            assert_eq!(*after.phase(step), Phase::Failed, "tries are used up");
            assert!(!rewinds || after.going_back(), "a failure with feedback goes back while it may");
            track.rewinds += u32::from(rewinds);
            track.goes_back = rewinds;
            track.over = true;
        }
    }

    /// A way back or a retry: exactly `roots` and what follows them begin a new round.
    fn reset(&mut self, graph: &Graph, roots: &[StepIndex], before: &RunState, after: &RunState, by_person: bool) {
        let members = closure(graph, roots);
        for at in 0..graph.len() {
            if !members.contains(&at) {
                assert_eq!(before.phase(at), after.phase(at), "finished steps are kept");
                assert_eq!(before.step(at).round, after.step(at).round);
                continue;
            }
            assert!(!before.running().any(|running| running == at), "nothing is reset while it runs");
            let track = &mut self.tracks[at];
            *track = Track {
                round: track.round + 1,
                attempt: track.attempt,
                rewinds: if by_person { 0 } else { track.rewinds },
                ..Track::new()
            };
            if graph.node(at).authority == Authority::Plans {
                self.approved = None;
            }
        }
    }

    fn finished(&self, graph: &Graph, status: Ending, after: &RunState) {
        let phases = || (0..graph.len()).map(|at| (at, after.phase(at)));
        assert!(phases().all(|(_, phase)| phase.is_over()), "nothing is left behind");
        let unhandled =
            |at: StepIndex| *after.phase(at) == Phase::Failed && graph.node(at).on_failure != OnFailure::Continue;
        match status {
            Ending::Completed => {
                assert_eq!(self.stops, 0);
                for (at, phase) in phases() {
                    assert!(!unhandled(at) && *phase != Phase::Cancelled, "a failed run never completes");
                }
            }
            Ending::Failed => {
                assert!(self.stops > 0 || (0..graph.len()).any(unhandled), "a run fails for a reason");
                assert!(!self.person_stopped, "what a person stopped is not failed");
            }
            Ending::Aborted => assert!(self.person_stopped, "only a person aborts"),
        }
    }

    fn lose_calls(&mut self) {
        self.spent = self.committed();
        self.held.clear();
    }

    fn active_at(&self, state: &RunState, now: Timestamp) -> u64 {
        let dozing =
            (0..self.tracks.len()).any(|at| matches!(state.phase(at), Phase::Sleeping(_)) && !self.tracks[at].parked);
        let working = self.running().next().is_some() || dozing;
        self.active + if working { now.since(self.last) } else { 0 }
    }

    fn forbidden(&self, graph: &Graph, step: StepIndex) -> bool {
        graph.node(step).authority == Authority::Acts && (self.plan.is_none() || self.approved != self.plan)
    }

    /// What holds after every event.
    fn agree(&self, graph: &Graph, state: &RunState) {
        assert_eq!(state.running().collect::<Vec<_>>(), self.running().collect::<Vec<_>>());
        assert_eq!(state.active_ms(self.last), self.active);
        assert_eq!(state.plan().map(|plan| &plan.hash), self.plan.as_ref());
        assert_eq!(state.approval().map(|approval| &approval.plan_hash), self.approved.as_ref());
        assert_eq!(state.approved(), self.plan.is_some() && self.approved == self.plan);
        assert_eq!(state.status(graph), self.status(graph, state));
        let spending = state.spending();
        assert_eq!((spending.usd.0, spending.usage.total()), self.spent, "every call is counted once");
        let by_role = state.by_role().values().fold((0, 0), |(u, t), s| (u + s.usd.0, t + s.usage.total()));
        assert_eq!(by_role, self.spent);
        let affordable = [(0, 0), (1, 1), (10, 0), (0, 10), (40, 60), (400, 600)];
        for (usd, tokens) in affordable {
            assert_eq!(state.affords(Usd(usd), tokens), self.affords(state, Usd(usd), tokens));
        }
        for at in 0..graph.len() {
            let (node, step) = (graph.node(at), state.step(at));
            assert_eq!((step.round, step.attempt), (self.tracks[at].round, self.tracks[at].attempt));
            assert_eq!(matches!(step.phase, Phase::Running), self.tracks[at].running_since.is_some());
            if self.stopped(graph, at) {
                let idle = matches!(step.phase, Phase::Ready | Phase::Sleeping(_) | Phase::Waiting(_));
                assert!(!idle, "what a stop does not spare is not left idle");
            }
            if state.going_back() {
                continue;
            }
            let settled = graph.needs(at).all(|need| state.phase(need).is_over());
            let counts =
                |need: StepIndex| state.phase(need).counts_as_done(graph.node(need).on_failure == OnFailure::Continue);
            if step.phase == Phase::Pending {
                assert!(!settled, "a step whose needs are settled is not left pending");
            } else if settled && !node.always && !graph.needs(at).all(counts) {
                assert_eq!(step.phase, Phase::Cancelled, "what needs a failed step is cancelled");
            } else if step.phase == Phase::Cancelled {
                assert!(self.stops > 0, "nothing is cancelled without a cause");
            }
        }
    }

    /// The words of the contract's section 6.
    fn status(&self, graph: &Graph, state: &RunState) -> Status {
        match state.ending() {
            Some((Ending::Completed, _)) => return Status::Completed,
            Some((Ending::Failed, _)) => return Status::Failed,
            Some((Ending::Aborted, _)) => return Status::Aborted,
            None => {}
        }
        if (0..graph.len()).all(|at| state.step(at).attempt == 0) {
            return Status::Queued;
        }
        let asks = state.waiting().any(|(_, question)| question.kind == QuestionKind::Approval);
        let has = |wanted| graph.nodes().any(|node| node.authority == wanted);
        if asks && !state.going_back() {
            Status::Planned
        } else if !has(Authority::Plans)
            || (self.plan.is_some() && self.approved == self.plan)
            || (self.plan.is_some() && !has(Authority::Approves))
        {
            Status::Executing
        } else {
            Status::Planning
        }
    }

    /// What holds at any instant, `now` not before the last event.
    pub fn check_due(&self, graph: &Graph, state: &RunState, now: Timestamp) {
        let effects = due(graph, state, now);
        assert_eq!(effects, due(graph, state, now), "`due` twice is the same");
        if state.ending().is_some() {
            assert!(effects.is_empty() && wake_after(graph, state, now).is_none());
            return;
        }
        let wake = wake_after(graph, state, now);
        let going = !effects.is_empty() || state.running().next().is_some();
        assert!(going || state.waiting().next().is_some() || wake.is_some(), "a run is never stuck");
        self.check_wake(graph, state, now, wake);
        let wall = state.spec().limits.wall_ms.filter(|_| self.stops == 0);
        let over = wall.is_some_and(|limit| self.active_at(state, now) >= limit);
        assert_eq!(over, effects == [Effect::WallLimit], "the run's time limit is due when it has passed");
        if over {
            return;
        }
        for effect in &effects {
            if let Effect::Finish(Ending::Failed, error) = effect {
                let error = error.as_ref().expect("a failure has a reason");
                let named = (0..graph.len()).any(|at| error.message.contains(&format!("`{}`", graph.node(at).id)));
                assert!(named || error.code == "wall_limit", "a failure names its step");
                assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("devo ")), "and the next command");
            }
        }
        for at in self.running() {
            let track = &self.tracks[at];
            let spent = track.spent + now.since(track.running_since.expect("it runs"));
            let cancelled = effects.iter().any(|effect| matches!(effect, Effect::Cancel(step, _) if *step == at));
            if self.stops > 0 {
                assert_eq!(cancelled, self.stopped(graph, at), "a stop ends what it does not spare");
            }
            if !state.going_back() {
                let late = graph.node(at).timeout_ms.is_some_and(|limit| spent >= limit) && !cancelled;
                assert_eq!(late, effects.contains(&Effect::TimeOut(at)), "a step times out when its time is over");
            }
        }
        // Work that could start is started.
        let starts: BTreeSet<StepIndex> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Start(at) | Effect::Forbid(at) => Some(*at),
                _ => None,
            })
            .collect();
        let busy: BTreeSet<StepIndex> = starts.iter().copied().chain(self.running()).collect();
        assert!(busy.len() <= state.spec().limits.parallel.max(1), "`due` keeps to the limit");
        assert!(busy.iter().filter(|at| graph.node(**at).exclusive).count() <= 1, "and keeps exclusive steps apart");
        if !state.going_back() && busy.len() < state.spec().limits.parallel.max(1) {
            for at in (0..graph.len()).filter(|at| !starts.contains(at)) {
                let free = !graph.node(at).exclusive || busy.iter().all(|other| !graph.node(*other).exclusive);
                let waits = match state.phase(at) {
                    Phase::Ready => true,
                    Phase::Sleeping(until) => *until <= now,
                    _ => false,
                };
                assert!(!(free && waits), "a step waits although there is room");
            }
        }
        for effect in &effects {
            match effect {
                Effect::Start(at) => assert!(!self.forbidden(graph, *at)),
                Effect::Forbid(at) => assert!(self.forbidden(graph, *at)),
                _ => {}
            }
        }
    }

    /// `wake` is the first instant after `now` at which `due` changes.
    fn check_wake(&self, graph: &Graph, state: &RunState, now: Timestamp, wake: Option<Timestamp>) {
        let answer = due(graph, state, now);
        let same = |at: Timestamp| due(graph, state, at) == answer;
        // Every instant at which something may change, and its neighbours.
        let mut instants: BTreeSet<Timestamp> = BTreeSet::from([now, now.plus_ms(1_000_000)]);
        for (at, track) in self.tracks.iter().enumerate() {
            if let Phase::Sleeping(until) = state.phase(at) {
                instants.insert(*until);
            }
            if let (Some(limit), Some(since)) = (graph.node(at).timeout_ms, track.running_since) {
                instants.insert(since.plus_ms(limit.saturating_sub(track.spent)));
            }
        }
        if let Some(limit) = state.spec().limits.wall_ms {
            instants.insert(self.last.plus_ms(limit.saturating_sub(self.active)));
        }
        let near: Vec<Timestamp> = instants.iter().flat_map(|at| [Timestamp(at.0 - 1), at.plus_ms(1)]).collect();
        instants.extend(near);
        let first = instants.into_iter().filter(|at| *at > now).find(|at| !same(*at));
        assert_eq!(wake, first, "the wake-up is the first instant at which the answer changes");
    }

    /// How far the ledger is beyond the limits, given what calls cost more than was reserved for them.
    pub fn check_ledger(&self, state: &RunState) {
        let (usd, tokens) = self.committed();
        let limits = &state.spec().limits;
        assert!(limits.usd.is_none_or(|limit| usd <= limit.0 + self.added.0 + self.overrun.0));
        assert!(limits.tokens.is_none_or(|limit| tokens <= limit + self.added.1 + self.overrun.1));
    }
}

fn closure(graph: &Graph, roots: &[StepIndex]) -> BTreeSet<StepIndex> {
    roots.iter().copied().chain(roots.iter().flat_map(|at| graph.downstream(*at))).collect()
}

/// A usage of so many tokens.
pub fn tokens(input: u64) -> Usage {
    Usage { input, ..Usage::default() }
}
