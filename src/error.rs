//! What a person (or a program) sees of an error: message, cause chain, hint, exit code. It does not know who failed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::core::failure::Failure;
use crate::core::request::Refused;
use crate::engine::{EngineError, LockError};
use crate::journal::JournalError;
use crate::secrets::printable;

/// How the program ends; the numbers are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done; the run completed.
    Completed = 0,
    /// The run failed.
    Failed = 1,
    /// Usage, an invalid file, or a refusal.
    Refused = 2,
    /// The run waits for a person.
    Waiting = 3,
    /// The run was aborted or its plan rejected.
    Aborted = 4,
    /// Our bug.
    Bug = 70,
    /// Interrupted; the run can be resumed.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// An error as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// A stable word for programs, `snake_case`.
    pub code: String,
    /// What happened, a lower-case fragment.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do, with the command where there is one.
    pub hint: Option<String>,
    /// How the program ends.
    pub exit: Exit,
}

impl Error {
    /// An error that ends the program with 2: usage, an invalid file, a refusal.
    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), causes: Vec::new(), hint: None, exit: Exit::Refused }
    }

    /// What a command line that makes no sense leads to.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::refused("usage", message)
    }

    /// A failure of the machine: a file that cannot be read, a disk that is full.
    pub fn machine(code: &str, message: impl Into<String>, source: &(dyn std::error::Error + 'static)) -> Self {
        Self { exit: Exit::Failed, ..Self::refused(code, message) }.caused_by(source)
    }

    /// Something that cannot happen.
    pub fn bug(message: impl Into<String>) -> Self {
        let error = Self { exit: Exit::Bug, ..Self::refused("bug", message) };
        error.hint("this is a bug of devo: please report it with the output of `devo doctor --json`")
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets how the program ends.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Adds an error and everything behind it to the causes.
    #[must_use]
    pub fn caused_by(mut self, source: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(source);
        while let Some(error) = next {
            let text = error.to_string();
            // A transparent wrapper says the same twice.
            if text != self.message && self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// An error of ours with its chain and without a remedy.
    pub fn from_chain(code: &str, exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        let this = Self { exit, ..Self::refused(code, error.to_string()) };
        match error.source() {
            Some(source) => this.caused_by(source),
            None => this,
        }
    }

    /// `error:`, `cause:` and `hint:` lines, free of control characters, each ended.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let causes = self.causes.iter().map(|cause| ("cause", cause));
        let parts = [("error", &self.message)].into_iter().chain(causes).chain(self.hint.iter().map(|h| ("hint", h)));
        for (word, part) in parts {
            let mut lines = part.lines().map(printable);
            let _ = writeln!(text, "{word}: {}", lines.next().unwrap_or_default());
            for line in lines {
                let _ = writeln!(text, "       {line}");
            }
        }
        text
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({"error": {"code": self.code, "message": self.message, "causes": self.causes, "hint": self.hint}})
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        let exit = match &error {
            JournalError::Newer { .. }
            | JournalError::Foreign { .. }
            | JournalError::Damaged { .. }
            | JournalError::Gone { .. }
            | JournalError::Busy { .. }
            | JournalError::TooLarge { .. }
            | JournalError::Conflict { .. } => Exit::Refused,
            JournalError::Full { .. } | JournalError::NoArtifact(_) | JournalError::Other { .. } => Exit::Failed,
        };
        let hint = error.hint();
        // What is too large is so by whoever asked; all else is the machine's, and can be asked again.
        let code = if matches!(error, JournalError::TooLarge { .. }) { "too_large" } else { "journal" };
        Self { hint, ..Self::from_chain(code, exit, &error) }
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Journal(error) => error.into(),
            EngineError::Outfit(failure) => failure.into(),
            EngineError::Unknown(_) => {
                Self::from_chain("unknown_run", Exit::Refused, &error).hint("`devo status` lists the runs of this home")
            }
            EngineError::Driven(_) => Self::from_chain("driven", Exit::Refused, &error),
            EngineError::Folder { .. } => Self::from_chain("folder", Exit::Failed, &error)
                .hint("make room or mend its permissions; `devo doctor` looks at both"),
            EngineError::Illegal { .. } => Self::from_chain("illegal", Exit::Bug, &error)
                .hint("keep a copy of state.db, and please report this bug of devo"),
        }
    }
}

impl From<LockError> for Error {
    fn from(error: LockError) -> Self {
        match &error {
            LockError::Held { .. } => Self::from_chain("home_held", Exit::Refused, &error)
                .hint("wait until it is done, or leave the task for later with `devo submit`"),
            LockError::Io { .. } => Self::from_chain("lock", Exit::Failed, &error),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self { hint: failure.hint, ..Self::refused(&failure.code, failure.message) }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::refused(&refused.code, refused.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_told_once_and_cannot_steer_the_terminal() {
        let source = std::io::Error::other("disk\u{1b}[31m on fire");
        let error = EngineError::Folder { path: "/x".into(), source };
        let text = Error::from(error).to_text();
        assert_eq!(
            text,
            "error: cannot make the folder /x of the run\ncause: disk on fire\n\
             hint: make room or mend its permissions; `devo doctor` looks at both\n"
        );
    }

    #[test]
    fn exit_codes_are_the_contracts() {
        let held = Error::from(LockError::Held { holder: "devo serve (process 7)".to_owned() });
        assert_eq!((held.exit.code(), held.code.as_str()), (2, "home_held"));
        assert!(held.message.contains("devo serve (process 7)"));
        let full = JournalError::Full { path: "state.db".into(), why: "no room".into() };
        assert_eq!(Error::from(EngineError::Journal(full)).exit.code(), 1);
        assert_eq!(Error::from(Failure::terminal("no_key", "no key").hint("set it")).exit.code(), 2);
        assert_eq!(Error::bug("x").exit.code(), 70);
        let codes = [Exit::Completed, Exit::Failed, Exit::Refused, Exit::Waiting, Exit::Aborted, Exit::Interrupted];
        assert_eq!(codes.map(Exit::code), [0, 1, 2, 3, 4, 130]);
    }

    #[test]
    fn programs_get_code_message_and_hint() {
        let value = Error::usage("no task").hint("add --task").to_json();
        assert_eq!(value["error"]["code"], "usage");
        assert_eq!(value["error"]["hint"], "add --task");
    }
}
