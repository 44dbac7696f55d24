//! What Telegram sends, one update at a time: whatever is not understood is skipped by itself and never blocks the rest.
//! It does not know who may talk.

use serde_json::Value;

use super::html::line;

/// One update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Somebody wrote.
    Message(Message),
    /// Somebody pressed a button.
    Press(Press),
    /// Anything else.
    Other,
}

/// Who wrote or pressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Numeric id, which is what counts.
    pub id: i64,
    /// What the person calls himself or herself, cleaned and cut.
    pub name: String,
    /// The language tag of the person's Telegram.
    pub language: Option<String>,
}

/// A chat, and the topic within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// Numeric id; of a private chat the same as the person's.
    pub chat: i64,
    /// The topic, where the chat has topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<i64>,
}

impl Place {
    /// Whether one person talks to the bot alone: groups have negative ids.
    pub fn is_private(self) -> bool {
        self.chat > 0
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub at: Place,
    /// Its number in the chat.
    pub id: i64,
    /// When it was sent, in seconds.
    pub date: i64,
    /// Who; absent for channels.
    pub from: Option<Person>,
    /// Its text, or the caption of its document.
    pub text: String,
    /// The message that it answers.
    pub reply_to: Option<i64>,
    /// What is attached.
    pub document: Option<Document>,
    /// The supergroup that this group became.
    pub moved_to: Option<i64>,
    /// The group that this supergroup was.
    pub moved_from: Option<i64>,
}

/// An attached file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// For `getFile`.
    pub id: String,
    /// Its name, cleaned and cut.
    pub name: String,
    /// In bytes, as Telegram says.
    pub size: u64,
}

/// A pressed button.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Press {
    /// For the answer.
    pub id: String,
    /// Who.
    pub from: Person,
    /// Where the message is.
    pub at: Place,
    /// The message with the button.
    pub message: i64,
    /// What the button carries.
    pub data: String,
}

/// Reads an update: its number (without one it cannot be confirmed) and what it is.
pub fn read(value: &Value) -> (Option<i64>, Update) {
    let update = if let Some(found) = message(&value["message"]) {
        Update::Message(found)
    } else if let Some(found) = press(&value["callback_query"]) {
        Update::Press(found)
    } else {
        Update::Other
    };
    (value["update_id"].as_i64(), update)
}

fn message(value: &Value) -> Option<Message> {
    let text = value["text"].as_str().or(value["caption"].as_str()).unwrap_or_default();
    let document = &value["document"];
    let document = document["file_id"].as_str().map(|id| Document {
        id: id.to_owned(),
        name: line(document["file_name"].as_str().unwrap_or("document"), 80),
        size: document["file_size"].as_u64().unwrap_or(0),
    });
    Some(Message {
        at: place(value)?,
        id: value["message_id"].as_i64()?,
        date: value["date"].as_i64().unwrap_or(0),
        from: person(&value["from"]),
        text: text.to_owned(),
        reply_to: value["reply_to_message"]["message_id"].as_i64(),
        document,
        moved_to: value["migrate_to_chat_id"].as_i64(),
        moved_from: value["migrate_from_chat_id"].as_i64(),
    })
}

fn press(value: &Value) -> Option<Press> {
    Some(Press {
        id: value["id"].as_str()?.to_owned(),
        from: person(&value["from"])?,
        at: place(&value["message"])?,
        message: value["message"]["message_id"].as_i64()?,
        data: value["data"].as_str()?.to_owned(),
    })
}

fn place(message: &Value) -> Option<Place> {
    // Replies outside of topics carry a thread as well; it is not a place to send to.
    let topic = message["is_topic_message"].as_bool().unwrap_or(false);
    let thread = message["message_thread_id"].as_i64().filter(|_| topic);
    Some(Place { chat: message["chat"]["id"].as_i64()?, thread })
}

fn person(value: &Value) -> Option<Person> {
    let names = [value["first_name"].as_str(), value["last_name"].as_str()];
    let name = names.into_iter().flatten().collect::<Vec<_>>().join(" ");
    Some(Person {
        id: value["id"].as_i64()?,
        name: line(&name, 40),
        language: value["language_code"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_presses_and_the_unknown() {
        let (id, update) = read(&json!({"update_id": 7, "message": {
            "message_id": 3, "date": 1, "chat": {"id": -1001234567890i64, "type": "supergroup"}, "is_topic_message": true,
            "message_thread_id": 9, "from": {"id": 5_000_000_000i64, "first_name": "Ana\u{202e}", "language_code": "es"},
            "text": "/task x", "reply_to_message": {"message_id": 2, "chat": {"id": 1}}}}));
        let Update::Message(message) = update else { panic!("{update:?}") };
        assert_eq!(id, Some(7));
        assert_eq!(message.at, Place { chat: -1_001_234_567_890, thread: Some(9) });
        assert_eq!(
            message.from.unwrap(),
            Person { id: 5_000_000_000, name: "Ana".into(), language: Some("es".into()) }
        );
        assert_eq!(message.reply_to, Some(2));

        let (_, update) = read(&json!({"update_id": 8, "callback_query": {"id": "q", "data": "t", "from": {"id": 1},
            "message": {"message_id": 4, "date": 0, "chat": {"id": 1}}}}));
        assert!(matches!(update, Update::Press(press) if press.data == "t" && press.message == 4));

        for odd in [
            json!({"update_id": 9, "managed_galaxy": {"chat": "?"}}),
            json!({"update_id": 9, "message": {"chat": {"type": "new kind"}}}),
            json!({"update_id": 9, "message": 5}),
            json!({"update_id": 9, "callback_query": {"id": "q", "from": {"id": 1}, "inline_message_id": "x"}}),
        ] {
            assert_eq!(read(&odd), (Some(9), Update::Other), "{odd}");
        }
        assert_eq!(read(&json!("nonsense")), (None, Update::Other));
    }
}
