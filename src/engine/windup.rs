//! The end of a run that is being stopped while its equipment is missing: its repository was taken out of the settings, say.
//! Nothing is performed. Steps that had to run all the same fail, with what is missing.

use super::driver::Stopped;
use super::{Engine, EngineError, fold};
use crate::core::event::EventBody;
use crate::core::failure::Failure;
use crate::core::graph::{Graph, StepIndex};
use crate::core::id::RunId;
use crate::core::scheduler::{Effect, due};
use crate::core::state::RunState;

/// Ends the run, or says what is missing where it cannot end yet.
pub(super) async fn wind_up(
    engine: &Engine,
    run: RunId,
    graph: &Graph,
    mut state: RunState,
    missing: Failure,
) -> Result<Stopped, EngineError> {
    let at = engine.clock.now().max(state.updated_at());
    let failure = Failure { retryable: false, ..missing.clone() };
    let mut events = Vec::new();
    let mut bodies = vec![EventBody::Resumed {}];
    bodies.extend(state.running().map(|step| state.interrupted(graph, step, None)));
    while state.ending().is_none() {
        if bodies.is_empty() {
            return Err(EngineError::Outfit(missing));
        }
        for body in bodies.drain(..) {
            events.push(fold(run, graph, &mut state, at, body)?);
        }
        let effects = due(graph, &state, at);
        bodies = effects.into_iter().flat_map(|effect| recorded(graph, &state, effect, &failure)).collect();
    }
    engine.record(run, graph, &state, events).await?;
    Ok(Stopped::Ended)
}

/// What is recorded of an effect that nothing performs.
fn recorded(graph: &Graph, state: &RunState, effect: Effect, failure: &Failure) -> Vec<EventBody> {
    let step = |at: StepIndex| graph.node(at).id.clone();
    match effect {
        Effect::Start(at) => {
            let (attempt, round, turn) = state.next_start(at);
            let started = EventBody::StepStarted { step: step(at), attempt, round, turn };
            vec![started, EventBody::StepFailed { step: step(at), error: failure.clone() }]
        }
        Effect::Forbid(at) => vec![EventBody::StepFailed { step: step(at), error: Failure::not_approved() }],
        Effect::Finish(status, error) => vec![EventBody::Finished { status, error }],
        // Nothing runs, and a run that is being stopped neither goes back nor works.
        Effect::Cancel(..) | Effect::TimeOut(_) | Effect::Rewind { .. } | Effect::WallLimit => vec![],
    }
}
