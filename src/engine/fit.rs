//! What a step said, in a size that the journal keeps.

use crate::core::event::EventBody;
use crate::core::failure::Failure;
use crate::journal::EVENT_MAX;

/// An event of a step above this would not fit the journal, with room for the event's own words.
const STEP_EVENT_MAX: usize = EVENT_MAX - 4 * 1024;
/// A failure's message, hint and feedback are cut to this, each.
const FAILURE_MAX: usize = 64 * 1024;

/// The event as the journal can keep it: what a step said may have any size, and an event that cannot be written would stop the
/// run for good, without a word.
pub(super) fn fitting(body: EventBody) -> EventBody {
    let cut = |mut text: String| {
        if text.len() > FAILURE_MAX {
            text.truncate(text.floor_char_boundary(FAILURE_MAX - '…'.len_utf8()));
            text.push('…');
        }
        text
    };
    let body = match body {
        EventBody::StepFailed { step, error } => {
            let error = Failure {
                message: cut(error.message),
                hint: error.hint.map(cut),
                feedback: error.feedback.map(cut),
                ..error
            };
            EventBody::StepFailed { step, error }
        }
        EventBody::StepSkipped { step, reason } => EventBody::StepSkipped { step, reason: cut(reason) },
        EventBody::StepInterrupted { step, reason } => EventBody::StepInterrupted { step, reason: reason.map(cut) },
        EventBody::StepParked { step, reason, until, carry } => {
            EventBody::StepParked { step, reason: cut(reason), until, carry }
        }
        body => body,
    };
    let size = serde_json::to_vec(&body).map_or(usize::MAX, |text| text.len());
    match body {
        EventBody::StepContinued { step, .. }
        | EventBody::StepAsked { step, .. }
        | EventBody::StepParked { step, .. }
            if size > STEP_EVENT_MAX =>
        {
            let message = format!("the step has {size} bytes to carry to its next turn; {STEP_EVENT_MAX} can be kept");
            let error = Failure::terminal("carry_too_large", message).hint(
                "`devo logs RUN` shows what it did; make the task or the step's `limits` smaller, then `devo retry RUN`",
            );
            EventBody::StepFailed { step, error }
        }
        body => body,
    }
}
