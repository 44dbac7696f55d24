//! Names of runs and steps, with strict alphabets, so that an id can be a path component, a ref or a key as it is.

use serde::{Deserialize, Serialize};

/// A run's id: a UUIDv7, made elsewhere. Its text form is lower-case and hyphenated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub uuid::Uuid);

impl RunId {
    /// The last 8 hex digits: the random part, so that runs of one moment differ.
    pub fn short(&self) -> String {
        let text = self.0.simple().to_string();
        text[text.len() - 8..].to_owned()
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl std::str::FromStr for RunId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The longest id of a step, in bytes.
pub const STEP_ID_MAX: usize = 64;

/// A step's id: `[A-Za-z_][A-Za-z0-9_-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StepId(std::sync::Arc<str>);

/// A text that cannot be a step's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot name a step: use a letter or _, then letters, digits, - or _, {STEP_ID_MAX} at most")]
pub struct BadStepId(pub String);

impl StepId {
    /// Checks the alphabet.
    pub fn new(text: &str) -> Result<Self, BadStepId> {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if first && rest && text.len() <= STEP_ID_MAX {
            Ok(Self(text.into()))
        } else {
            Err(BadStepId(text.chars().take(STEP_ID_MAX).collect()))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for StepId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for StepId {
    type Error = BadStepId;
    fn try_from(text: String) -> Result<Self, BadStepId> {
        Self::new(&text)
    }
}

impl From<StepId> for String {
    fn from(id: StepId) -> Self {
        id.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_strict() {
        for good in ["a", "_x", "build-2", &"a".repeat(64)] {
            assert!(StepId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "2a", "-a", "a b", "a/b", "é", "..", &"a".repeat(65)] {
            assert!(StepId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_short_id_is_the_end() {
        let id: RunId = "0193b2c0-7e1f-7abc-8def-0123456789ab".parse().unwrap();
        assert_eq!(id.short(), "456789ab");
    }
}
