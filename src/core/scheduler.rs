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
        effects.extend(cancelled(graph, state).map(|at| Effect::Cancel(at, "the run was stopped")));
    } else if let Some(way) = state.back.front() {
        let in_the_way = state.in_the_way(graph);
        if in_the_way.is_empty() {
            return vec![Effect::Rewind { from: way.from, to: way.to }];
        }
        // Nothing new starts until the way back is free.
        effects.extend(in_the_way.iter().map(|at| Effect::Cancel(*at, "the run goes back to an earlier step")));
        return effects;
    }
    for at in timed(graph, state) {
        if deadline(graph, state, at).is_some_and(|deadline| deadline <= now) {
            effects.push(Effect::TimeOut(at));
        }
    }
    start(graph, state, now, &mut effects);
    if state.open == 0 && state.back.is_empty() {
        effects.push(finish(graph, state));
    }
    effects
}

/// Running steps that a stop of the run does not spare.
fn cancelled<'s>(graph: &'s Graph, state: &'s RunState) -> impl Iterator<Item = StepIndex> + 's {
    state.running.iter().copied().filter(|at| !state.survives_halt(graph, *at))
}

/// Running steps whose time limit matters: those that are not being cancelled anyway.
fn timed<'s>(graph: &'s Graph, state: &'s RunState) -> impl Iterator<Item = StepIndex> + 's {
    state.timed.iter().copied().filter(|at| state.halt.is_none() || state.survives_halt(graph, *at))
}

fn start(graph: &Graph, state: &RunState, now: Timestamp, effects: &mut Vec<Effect>) {
    let mut free = state.parallel().saturating_sub(state.running.len());
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
    let error = match (state.halt, state.unhandled.first()) {
        (Some(Halt::WallLimit), _) => {
            let limit = state.spec().limits.wall_ms.unwrap_or(0) / 1_000;
            let message = format!("the run worked for longer than its limit of {limit} s");
            let hint = "raise `limits.wall` in the pipeline, or `devo retry RUN` for as much time again";
            Some(Failure::terminal("wall_limit", message).hint(hint))
        }
        (None, Some(at)) => state.step(*at).error.clone().map(|error| {
            let step = &graph.node(*at).id;
            let next = format!("`devo logs RUN --step {step}` shows what it did; `devo retry RUN` goes on from there");
            Failure {
                message: format!("step `{step}`: {}", error.message),
                hint: Some(error.hint.unwrap_or(next)),
                // Of use to the step only, and possibly long.
                feedback: None,
                ..error
            }
        }),
        _ => None,
    };
    Effect::Finish(state.verdict(), error)
}

fn deadline(graph: &Graph, state: &RunState, at: StepIndex) -> Option<Timestamp> {
    let timeout = graph.node(at).timeout_ms?;
    Some(state.turn_at(at).plus_ms(timeout.saturating_sub(state.spent_before_turn(at))))
}

/// The first instant after the last event at which [`due`] answers differently if nothing happens until then.
pub fn wake_at(graph: &Graph, state: &RunState) -> Option<Timestamp> {
    wake_after(graph, state, state.updated_at())
}

/// The first instant after `now` at which [`due`] answers differently than at `now` if nothing happens until then: who
/// has just done what was due at `now` can sleep until this instant, also while steps take their time to stop.
pub fn wake_after(graph: &Graph, state: &RunState, now: Timestamp) -> Option<Timestamp> {
    if state.ending().is_some() {
        return None;
    }
    let wall = match state.spec().limits.wall_ms.filter(|_| state.halt.is_none()) {
        Some(limit) => {
            let used = state.active_ms(now);
            if used >= limit {
                return None;
            }
            // A clock that stands still has no such instant.
            (state.active_ms(now.plus_ms(1)) > used).then(|| now.plus_ms(limit - used))
        }
        None => None,
    };
    if state.going_back() {
        return wall;
    }
    let timed = timed(graph, state).filter_map(|at| deadline(graph, state, at)).filter(|at| *at > now).min();
    [wall, timed, next_awake(graph, state, now)].into_iter().flatten().min()
}

/// When the next sleeping step wakes for which there is room.
fn next_awake(graph: &Graph, state: &RunState, now: Timestamp) -> Option<Timestamp> {
    let mut free = state.parallel().saturating_sub(state.running.len());
    let mut exclusive_free = state.running_exclusive == 0;
    for (until, at) in &state.sleeping {
        if free == 0 {
            break;
        }
        let exclusive = graph.node(*at).exclusive;
        if exclusive && !exclusive_free {
            continue;
        }
        if *until > now {
            return Some(*until);
        }
        // Awake already: it takes its place before those that wake later.
        free -= 1;
        exclusive_free &= !exclusive;
    }
    None
}
