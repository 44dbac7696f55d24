//! The last look at what a step puts out before it is recorded: no known secret goes into the journal, whichever step type
//! let it through.

use serde_json::Value;

use crate::core::failure::Failure;
use crate::secrets::Masker;
use crate::steps::Outcome;

/// The outcome without secrets.
pub(super) fn masked(masker: &Masker, outcome: Outcome) -> Outcome {
    let text = |text: String| if masker.found_in(&text) { masker.mask(&text) } else { text };
    let value = |mut value: Value| {
        mask_value(masker, &mut value);
        value
    };
    match outcome {
        Outcome::Done(output) => Outcome::Done(value(output)),
        Outcome::Skip(reason) => Outcome::Skip(text(reason)),
        Outcome::Again(carry) => Outcome::Again(value(carry)),
        Outcome::Ask(mut question, carry) => {
            question.text = text(question.text);
            Outcome::Ask(question, value(carry))
        }
        Outcome::Park { reason, for_ms, carry } => Outcome::Park { reason: text(reason), for_ms, carry: value(carry) },
        Outcome::Fail(failure) => Outcome::Fail(Failure {
            message: text(failure.message),
            hint: failure.hint.map(text),
            feedback: failure.feedback.map(text),
            ..failure
        }),
    }
}

fn mask_value(masker: &Masker, value: &mut Value) {
    match value {
        Value::String(text) if masker.found_in(text) => *text = masker.mask(text),
        Value::Array(items) => items.iter_mut().for_each(|item| mask_value(masker, item)),
        Value::Object(fields) => {
            if fields.keys().any(|key| masker.found_in(key)) {
                *fields = std::mem::take(fields).into_iter().map(|(key, value)| (masker.mask(&key), value)).collect();
            }
            fields.values_mut().for_each(|field| mask_value(masker, field));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_that_a_step_says_holds_a_secret() {
        let masker = Masker::default();
        masker.add(&"tok-0123456789".to_owned().into());
        let failure =
            Failure::terminal("x", "said tok-0123456789").hint("try tok-0123456789").feedback("tok-0123456789");
        let failed = masked(&masker, Outcome::Fail(failure));
        assert!(!format!("{failed:?}").contains("0123456789"));
        let output = json!({"tok-0123456789": ["a", {"b": "x\ntok-012345\n6789"}], "n": 1, "plain": "p"});
        let Outcome::Done(output) = masked(&masker, Outcome::Done(output)) else { panic!("it was done") };
        assert_eq!(output, json!({"***": ["a", {"b": "x\n***"}], "n": 1, "plain": "p"}));
    }
}
