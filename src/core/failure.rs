//! A failure as data: stored in the journal, and readable a year later.

use serde::{Deserialize, Serialize};

/// Why a step (or a run) failed. Serialised as `error` in a run's document, `retryable` and `feedback` included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable identifier for programs, `snake_case`: `timeout`, `exit_code`, `no_key`, `budget`, …
    pub code: String,
    /// What happened and where, for a person; a lower-case fragment or a short paragraph.
    pub message: String,
    /// What to do next, with the command where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same step could succeed if it were tried again with nothing changed.
    #[serde(default)]
    pub retryable: bool,
    /// What a rewind carries back to the step it rewinds to (for instance the digest of failing tests).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
}

impl Failure {
    /// A failure that a retry may cure.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: None, retryable: true, feedback: None }
    }

    /// A failure that trying again cannot cure.
    pub fn terminal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: false, ..Self::retryable(code, message) }
    }

    /// Of a step that would act without an approval of the current plan.
    pub fn not_approved() -> Self {
        Self::terminal("not_approved", "the current plan has not been approved")
            .hint("only `devo approve RUN` lets this step start")
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what a rewind carries back.
    #[must_use]
    pub fn feedback(mut self, feedback: impl Into<String>) -> Self {
        self.feedback = Some(feedback.into());
        self
    }
}

/// An error and what is behind it, on one line; a cause that is named already is not named again.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
