//! How runs stand, kept while people look at them: many viewers of one run share what was read of it, and an event costs each
//! of them that event, not the whole history. The journal stays the record: nothing is shown that was not read from it.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::core::event::{Event, EventBody};
use crate::core::graph::Graph;
use crate::core::id::RunId;
use crate::core::plan::PlanRecord;
use crate::core::report;
use crate::core::state::{IllegalEvent, RunState};
use crate::engine::EngineError;
use crate::error::Error;
use crate::journal::Journal;

/// Runs that are kept: those that were looked at last.
const KEPT: usize = 16;

/// How a run stands.
#[derive(Clone)]
pub struct Stand {
    /// Its graph.
    pub graph: Arc<Graph>,
    /// Its state.
    pub state: RunState,
    /// Every revision of its plan, oldest first.
    pub plans: Vec<PlanRecord>,
}

impl Stand {
    fn begin(first: &Event) -> Result<Self, IllegalEvent> {
        let (graph, state) = RunState::accept(first)?;
        Ok(Self { graph: Arc::new(graph), state, plans: Vec::new() })
    }

    fn go_on(&mut self, events: &[Event]) -> Result<(), IllegalEvent> {
        for event in events {
            self.state.apply(&self.graph, event)?;
            if let EventBody::StepSucceeded { output, .. } = &event.body
                && output.get("hash").is_some()
                && let Ok(plan) = serde_json::from_value::<PlanRecord>(output.clone())
            {
                self.plans.push(plan);
            }
        }
        Ok(())
    }

    /// The contract's document.
    pub fn document(&self) -> Value {
        report::document(&self.graph, &self.state)
    }
}

/// The runs that were looked at last, the last one first.
#[derive(Default)]
pub struct Stands {
    kept: Mutex<Vec<(RunId, Arc<Stand>)>>,
}

impl Stands {
    /// How a run stands now; `None` where the journal has no such run.
    ///
    /// # Errors
    /// The journal's.
    pub async fn of(&self, journal: &dyn Journal, run: RunId) -> Result<Option<Arc<Stand>>, Error> {
        let known = self.kept().iter().find(|(known, _)| *known == run).map(|(_, stand)| stand.clone());
        let more = journal.events(run, known.as_ref().map_or(0, |stand| stand.state.seq())).await?;
        let stand = match (known, more.split_first()) {
            (Some(known), None) => known,
            (None, None) => return Ok(None),
            (known, Some((first, rest))) => {
                let went_on = match known {
                    Some(known) => {
                        let mut stand = known.as_ref().clone();
                        stand.go_on(&more).map(|()| stand)
                    }
                    None => Stand::begin(first).and_then(|mut stand| stand.go_on(rest).map(|()| stand)),
                };
                Arc::new(went_on.map_err(|source| EngineError::Illegal { run, source })?)
            }
        };
        let mut kept = self.kept();
        // Another one may have read further meanwhile.
        let at = kept.iter().position(|(known, _)| *known == run);
        let stand = match at.map(|at| kept.remove(at).1) {
            Some(other) if other.state.seq() > stand.state.seq() => other,
            _ => stand,
        };
        kept.insert(0, (run, stand.clone()));
        kept.truncate(KEPT);
        Ok(Some(stand))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<(RunId, Arc<Stand>)>> {
        self.kept.lock().expect("no holder of this lock can panic")
    }
}
