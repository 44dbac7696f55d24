//! What is due now, and when the answer changes next: pure questions over a snapshot.

use super::event::Ending;
use super::failure::Failure;
use super::graph::{Graph, StepIndex};
use super::state::{Halt, RunState};
use super::time::Timestamp;

/// Something that must be done now. It stops being due once the event that records its start is applied.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Record `step_started` and perform the step.
    Start(StepIndex),
    /// Record `step_failed`: the step would act without an approval of the current plan.
    Forbid(StepIndex),
    /// Stop the running step, then record `step_cancelled`.
    Cancel(StepIndex, &'static str),
    /// Stop the running step, then record `step_failed` with the code `timeout`.
    TimeOut(StepIndex),
    /// Record `rewound`.
    Rewind {
        /// Whose failure or revision caused it.
        from: StepIndex,
        /// Where to.
        to: StepIndex,
    },
    /// Record `wall_limit_reached`.
    WallLimit,
    /// Record `finished`.
    Finish(Ending, Option<Failure>),
}

/// What is due at `now`. Ask twice, get the same answer. Its cost does not grow with the size of the graph, only with
/// what is ready (up to the parallel limit) and running.
pub fn due(graph: &Graph, state: &RunState, now: Timestamp) -> Vec<Effect> {
    let mut effects = Vec::new();
    if state.ending().is_some() {
        return effects;
    }
    if state.halt.is_none() && state.spec().limits.wall_ms.is_some_and(|limit| state.active_ms(now) >= limit) {
        return vec![Effect::WallLimit];
    }
    if state.halt.is_some() {
        for at in &state.running {
            if !state.survives_halt(graph, *at) {
                effects.push(Effect::Cancel(*at, "the run was stopped"));
            }
        }
    } else if let Some(way) = state.back.front() {
        let mut behind = graph.downstream(way.to);
        behind.push(way.to);
        let in_the_way = state.running.iter().filter(|at| behind.contains(at));
        effects.extend(in_the_way.map(|at| Effect::Cancel(*at, "the run goes back to an earlier step")));
        if effects.is_empty() {
            return vec![Effect::Rewind { from: way.from, to: way.to }];
        }
        // Nothing new starts until the way back is free.
        return effects;
    }
    for at in &state.timed {
        if deadline(graph, state, *at).is_some_and(|deadline| deadline <= now) {
            effects.push(Effect::TimeOut(*at));
        }
    }
    start(graph, state, now, &mut effects);
    if state.open == 0 && state.back.is_empty() {
        effects.push(finish(graph, state));
    }
    effects
}

fn start(graph: &Graph, state: &RunState, now: Timestamp, effects: &mut Vec<Effect>) {
    let mut free = state.spec().limits.parallel.max(1).saturating_sub(state.running.len());
    let mut exclusive_free = state.running_exclusive == 0;
    let awake = state.sleeping.iter().take_while(|(until, _)| *until <= now).map(|(_, at)| *at);
    // The three sources are each in file order; what slept has waited longest.
    let candidates =
        awake.chain(state.ready_exclusive.iter().copied().take(1)).chain(state.ready_shared.iter().copied());
    for at in candidates {
        if free == 0 {
            break;
        }
        let node = graph.node(at);
        if node.exclusive && !std::mem::replace(&mut exclusive_free, false) {
            continue;
        }
        free -= 1;
        if state.may_act(graph, at) {
            effects.push(Effect::Start(at));
        } else {
            effects.push(Effect::Forbid(at));
        }
    }
}

fn finish(graph: &Graph, state: &RunState) -> Effect {
    match state.halt {
        Some(Halt::Aborted | Halt::Rejected) => Effect::Finish(Ending::Aborted, None),
        Some(Halt::WallLimit) => {
            let limit = state.spec().limits.wall_ms.unwrap_or(0) / 1_000;
            let error =
                Failure::terminal("wall_limit", format!("the run worked for longer than its limit of {limit} s"))
                    .hint("raise `limits.wall` in the pipeline, or `devo retry RUN` for as much time again");
            Effect::Finish(Ending::Failed, Some(error))
        }
        None => match state.unhandled.iter().next() {
            None => Effect::Finish(Ending::Completed, None),
            Some(at) => {
                let error = state.step(*at).error.clone().map(|error| Failure {
                    message: format!("step `{}`: {}", graph.node(*at).id, error.message),
                    ..error
                });
                Effect::Finish(Ending::Failed, error)
            }
        },
    }
}

fn deadline(graph: &Graph, state: &RunState, at: StepIndex) -> Option<Timestamp> {
    let timeout = graph.node(at).timeout_ms?;
    Some(state.turn_at(at).plus_ms(timeout.saturating_sub(state.spent_before_turn(at))))
}

/// The first instant after the last event at which [`due`] answers differently if nothing happens until then.
pub fn wake_at(graph: &Graph, state: &RunState) -> Option<Timestamp> {
    if state.ending().is_some() {
        return None;
    }
    let slept = state.sleeping.first().map(|(until, _)| *until).filter(|_| !state.going_back());
    let timed = state.timed.iter().filter_map(|at| deadline(graph, state, *at)).min().filter(|_| !state.going_back());
    let wall = state.spec().limits.wall_ms.filter(|_| state.halt.is_none()).and_then(|limit| {
        let used = state.active_ms(state.updated_at());
        let moving = state.active_ms(state.updated_at().plus_ms(1)) > used;
        moving.then(|| state.updated_at().plus_ms(limit.saturating_sub(used)))
    });
    [slept, timed, wall].into_iter().flatten().min()
}
