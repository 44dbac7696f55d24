//! `notify`: says something to people or programs. Its output is the message: the channels read it in the journal, so that it
//! is told once however often the step or they are interrupted. It does not know how anything is sent.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Context, Kind, Outcome, Step, Turn};
use crate::core::failure::Failure;
use crate::core::graph::Authority;
use crate::core::rings::{Message, NOTIFY, Target};
use crate::secrets::printable;
use crate::templates::{Mode, render};

/// The longest message, in characters: what one chat message holds with room to spare.
const TEXT_MAX: usize = 3000;

/// `notify` in the list.
pub const KIND: Kind = Kind {
    name: NOTIFY,
    summary: "tells people or programs something",
    schema: || schemars::schema_for!(Notify),
    templates: &[("text", Mode::Text)],
    authority: Authority::Free,
    exclusive: false,
    build: |spec| {
        let step: Notify = serde_json::from_value(spec.clone()).map_err(|error| error.to_string())?;
        match step.to.iter().find(|target| Target::read(target).is_none()) {
            Some(target) => Err(format!(
                "`{}` is nobody: use `telegram:CHAT`, `mailto:ADDRESS` or `webhook`",
                target.escape_debug()
            )),
            None => Ok(Box::new(step)),
        }
    },
};

/// The step's own keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// What is said, as plain text; values stand in `{{ … }}`. Cut after 3000 characters.
    text: String,
    /// Who is told: `telegram:CHAT`, `mailto:ADDRESS`, `webhook`; without it, whoever is told of the run.
    #[serde(default)]
    to: Vec<String>,
}

#[async_trait]
impl Step for Notify {
    async fn run(&self, cx: &Context, _: Turn) -> Outcome {
        let text = match render(&self.text, &cx.template_context()) {
            Ok(text) => text,
            Err(error) => return Outcome::Fail(Failure::terminal("bad_template", format!("text: {error}"))),
        };
        let text = cx.equipment.masker.mask(&text);
        let text = text.trim().lines().map(printable).collect::<Vec<_>>().join("\n");
        if text.is_empty() {
            return Outcome::Skip("there is nothing to say".to_owned());
        }
        let text = match text.char_indices().nth(TEXT_MAX) {
            Some((cut, _)) => format!("{}…", text[..cut].trim_end()),
            None => text,
        };
        let to = if self.to.is_empty() { "whoever is told of the run".to_owned() } else { self.to.join(", ") };
        cx.note(format!("for {to}: {}", text.lines().next().unwrap_or_default()));
        let message = Message { to: self.to.clone(), text };
        Outcome::Done(serde_json::to_value(message).expect("a message is plain data"))
    }
}
