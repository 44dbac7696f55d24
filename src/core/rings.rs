//! What rings: the few moments of a run for which a person is called, and who can be. Everything else can be looked up.

use serde::{Deserialize, Serialize};

use super::event::{Ending, Event, EventBody, QuestionKind};
use super::graph::Graph;
use super::state::RunState;

/// The step type whose output is a message.
pub const NOTIFY: &str = "notify";
/// The longest address of a mail, in bytes (RFC 5321: a path without its brackets).
const ADDRESS_MAX: usize = 254;

/// Somebody who can be told, as `notify` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The program of devo.yaml.
    Webhook,
    /// A chat of the Telegram bot, by its number.
    Telegram(i64),
    /// An address.
    Mail(String),
}

impl Target {
    /// Reads `webhook`, `telegram:CHAT` or `mailto:ADDRESS` (`email:` is taken as well).
    pub fn read(text: &str) -> Option<Self> {
        if text == "webhook" {
            return Some(Self::Webhook);
        }
        match text.split_once(':')? {
            ("telegram", chat) => chat.parse().ok().map(Self::Telegram),
            ("mailto" | "email", address) => Self::is_address(address).then(|| Self::Mail(address.to_owned())),
            _ => None,
        }
    }

    /// Whether a text is one plain address: nothing in it can end a header or a command, or name a second one.
    pub fn is_address(text: &str) -> bool {
        let Some((user, domain)) = text.rsplit_once('@') else { return false };
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let word = |word: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
            !word.is_empty() && word.bytes().all(plain)
        };
        text.len() <= ADDRESS_MAX && user.len() <= 64 && user.split('.').all(word) && domain.split('.').all(label)
    }
}

/// What a `notify` step says: its output, and so a part of the journal before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Whom; whoever is told of the run, if empty.
    #[serde(default)]
    pub to: Vec<String>,
    /// What.
    pub text: String,
}

/// What a `notify` step said with this event. Another step's output may look the same, and tells nobody.
pub fn message(event: &Event, graph: &Graph) -> Option<Message> {
    let EventBody::StepSucceeded { step, output } = &event.body else { return None };
    let found = graph.find(step)?;
    if graph.node(found).kind != NOTIFY {
        return None;
    }
    serde_json::from_value(output.clone()).ok()
}

/// Whether an event could be what [`message`] reads; it costs nothing to ask.
pub fn may_be_message(event: &Event) -> bool {
    matches!(&event.body, EventBody::StepSucceeded { output, .. } if output["text"].is_string() && output["to"].is_array())
}

/// Whether what rang still is so: `later` are the events that followed, `state` is what they made of the run. A decision that
/// was made and an end that was taken back are nobody's news any more.
pub fn stands(event: &Event, graph: &Graph, state: &RunState, later: &[Event]) -> bool {
    match &event.body {
        EventBody::StepAsked { step, .. } => {
            let waits = state.waiting().any(|(at, _)| graph.node(at).id == *step);
            let anew = later
                .iter()
                .any(|event| matches!(&event.body, EventBody::StepAsked { step: other, .. } if other == step));
            waits && !anew
        }
        EventBody::Finished { .. } => !later.iter().any(|event| matches!(event.body, EventBody::Retried { .. })),
        _ => true,
    }
}

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
    /// A `notify` step has something to say. It is told, and does not ring.
    Message,
}

impl Ring {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlanReady => "plan_ready",
            Self::Question => "question",
            Self::Failed => "failed",
            Self::Done => "done",
            Self::Message => "message",
        }
    }

    /// Whether somebody has to answer.
    pub fn asks(self) -> bool {
        matches!(self, Self::PlanReady | Self::Question)
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

    #[test]
    fn targets_are_read_strictly() {
        assert_eq!(Target::read("webhook"), Some(Target::Webhook));
        assert_eq!(Target::read("telegram:-100123"), Some(Target::Telegram(-100_123)));
        assert_eq!(Target::read("mailto:a.b+c@example.org"), Some(Target::Mail("a.b+c@example.org".to_owned())));
        assert_eq!(Target::read("email:a@b"), Some(Target::Mail("a@b".to_owned())));
        for bad in [
            "",
            "webhook:x",
            "telegram:",
            "telegram:ana",
            "mailto:",
            "mailto:a",
            "mailto:@b",
            "mailto:a@",
            "mailto:a b@c",
            "mailto:a@b>",
            "mailto:<a@b>",
            "mailto:a@b,c@d",
            "mailto:a@b\r\nRCPT TO:<c@d>",
            "mailto:a..b@c",
            "mailto:ä@b",
            "mailto:a@b..c",
            "mailto:a@-b",
            "mailto:a@b?cc=c@d",
            "MAILTO:a@b",
        ] {
            assert_eq!(Target::read(bad), None, "{bad}");
        }
        assert!(!Target::is_address(&format!("{}@b", "a".repeat(65))));
    }

    #[test]
    fn what_was_decided_or_taken_back_does_not_stand() {
        use crate::core::graph::Node;
        use crate::core::properties::world::{accepted, id, side_by_side};
        let first = accepted(vec![Node::new(id("a"), "ask"), Node::new(id("say"), NOTIFY)], side_by_side(4));
        let (graph, mut state) = RunState::accept(&first).unwrap();
        let mut events = vec![first];
        let mut happen = |body: EventBody, state: &mut RunState| {
            let event = Event { seq: state.seq() + 1, at: Timestamp(2_000_000_000_000), body };
            state.apply(&graph, &event).unwrap();
            events.push(event.clone());
            event
        };
        let start = |step: &str| EventBody::StepStarted { step: id(step), attempt: 1, round: 1, turn: 1 };
        happen(start("a"), &mut state);
        let question = Question { kind: QuestionKind::Answer, text: "?".to_owned() };
        let asked =
            happen(EventBody::StepAsked { step: id("a"), question, carry: serde_json::Value::Null }, &mut state);
        assert!(stands(&asked, &graph, &state, &[]));
        let who = Who { by: "a".into(), channel: "cli".into() };
        let answered = EventBody::Answered {
            step: id("a"),
            text: "x".into(),
            more_usd: crate::core::budget::Usd(0),
            more_tokens: 0,
            who,
        };
        let answered = happen(answered, &mut state);
        assert!(!stands(&asked, &graph, &state, std::slice::from_ref(&answered)));
        happen(start("say"), &mut state);
        let output = serde_json::json!({"to": ["webhook"], "text": "hello"});
        let said = happen(EventBody::StepSucceeded { step: id("say"), output: output.clone() }, &mut state);
        assert!(may_be_message(&said));
        assert_eq!(message(&said, &graph), Some(Message { to: vec!["webhook".into()], text: "hello".into() }));
        let forged = Event { body: EventBody::StepSucceeded { step: id("a"), output }, ..said };
        assert_eq!(message(&forged, &graph), None, "a step of another type tells nobody");
    }
}
