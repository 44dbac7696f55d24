//! What rings: the few moments of a run for which a person is called. Everything else can be looked up.

use serde::{Deserialize, Serialize};

use super::event::{Ending, Event, EventBody, QuestionKind};

/// Why a person is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ring {
    /// A plan waits for its approval.
    PlanReady,
    /// A question waits for its answer, also one about money.
    Question,
    /// The run failed.
    Failed,
    /// The run completed.
    Done,
}

impl Ring {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlanReady => "plan_ready",
            Self::Question => "question",
            Self::Failed => "failed",
            Self::Done => "done",
        }
    }
}

/// Whether an event rings. An aborted run does not: a person ended it, and knows.
pub fn ring(event: &Event) -> Option<Ring> {
    match &event.body {
        EventBody::StepAsked { question, .. } => Some(match question.kind {
            QuestionKind::Approval => Ring::PlanReady,
            QuestionKind::Answer | QuestionKind::Budget => Ring::Question,
        }),
        EventBody::Finished { status: Ending::Failed, .. } => Some(Ring::Failed),
        EventBody::Finished { status: Ending::Completed, .. } => Some(Ring::Done),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{Question, Who};
    use crate::core::id::StepId;
    use crate::core::time::Timestamp;

    fn of(body: EventBody) -> Option<Ring> {
        ring(&Event { seq: 2, at: Timestamp(1), body })
    }

    #[test]
    fn only_what_needs_a_person_or_ends_the_work_rings() {
        let asked = |kind| {
            let question = Question { kind, text: "?".to_owned() };
            of(EventBody::StepAsked { step: StepId::new("a").unwrap(), question, carry: serde_json::Value::Null })
        };
        assert_eq!(asked(QuestionKind::Approval), Some(Ring::PlanReady));
        assert_eq!(asked(QuestionKind::Answer), Some(Ring::Question));
        assert_eq!(asked(QuestionKind::Budget), Some(Ring::Question));
        let finished = |status| of(EventBody::Finished { status, error: None });
        assert_eq!(finished(Ending::Completed), Some(Ring::Done));
        assert_eq!(finished(Ending::Failed), Some(Ring::Failed));
        assert_eq!(finished(Ending::Aborted), None);
        assert_eq!(of(EventBody::AbortRequested { who: Who { by: "a".into(), channel: "cli".into() } }), None);
    }
}
