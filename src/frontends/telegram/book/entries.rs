//! What is kept of chats, runs, messages and buttons, and under which keys. Plain data.

use serde::{Deserialize, Serialize};

use super::super::html::Html;
use super::super::updates::Place;
use crate::config::Verbosity;
use crate::core::id::RunId;
use crate::core::time::Timestamp;
use crate::frontends::words::Lang;

/// How long whoever spoke is taken to be there, in milliseconds.
const AWAKE_MS: u64 = 30 * 60_000;

/// What a chat chose, and what was seen of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Chosen with /lang.
    pub lang: Option<String>,
    /// The language tag of whoever spoke last.
    pub seen: Option<String>,
    /// Chosen with /verbose.
    #[serde(default)]
    pub verbosity: Option<Verbosity>,
    /// When somebody last spoke here; not to the minute.
    #[serde(default)]
    pub spoke: Option<Timestamp>,
}

impl Choice {
    /// The language to speak, with the configured one.
    pub fn lang(&self, configured: Option<Lang>) -> Lang {
        let tag = |tag: &Option<String>| tag.as_deref().and_then(Lang::of_tag);
        tag(&self.lang).or(configured).or_else(|| tag(&self.seen)).unwrap_or_default()
    }

    /// How much is told, with what is configured.
    pub fn verbosity(&self, configured: Verbosity) -> Verbosity {
        self.verbosity.unwrap_or(configured)
    }

    /// Whether somebody spoke here a moment ago: then nobody is asleep.
    pub fn awake(&self, now: Timestamp) -> bool {
        self.spoke.is_some_and(|spoke| now.since(spoke) < AWAKE_MS)
    }
}

/// A place that is told of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Where.
    pub at: Place,
    /// Everything; otherwise only what needs a decision.
    pub all: bool,
}

/// What is kept of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who is told.
    pub told: Vec<Told>,
    /// The plan that was shown last, by its hash.
    pub plan: Option<String>,
    /// The question that was shown last, by its time.
    pub question: Option<String>,
    /// The end that was told last, by its time.
    pub end: Option<String>,
    /// Messages with a decision that is open: chat and number.
    pub open: Vec<(i64, i64)>,
    /// Chats that were given a message that follows the run.
    #[serde(default)]
    pub following: Vec<i64>,
    /// Topics that were made for it: chat and topic.
    #[serde(default)]
    pub topics: Vec<(i64, i64)>,
    /// Chats in which nothing of this run rings.
    #[serde(default)]
    pub muted: Vec<i64>,
}

/// When people are asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reminder {
    /// When.
    pub due: Timestamp,
    /// Reminders that were sent.
    pub sent: u32,
}

impl Record {
    /// Adds a place, or more for it to know.
    pub fn tell(&mut self, at: Place, all: bool) {
        match self.told.iter_mut().find(|told| told.at.chat == at.chat) {
            Some(told) => told.all |= all,
            None => self.told.push(Told { at, all }),
        }
    }

    /// Whether what rings is heard in this chat.
    pub fn is_heard(&self, chat: i64) -> bool {
        !self.muted.contains(&chat)
    }
}

/// What a message of the bot is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Where it is.
    pub at: Place,
    /// What it is.
    pub about: About,
    /// What stays when it is settled.
    pub body: Html,
    /// The tokens of its buttons.
    pub buttons: Vec<String>,
    /// When it was sent, in Telegram's seconds.
    #[serde(default)]
    pub date: i64,
}

/// What a message of the bot is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// A plan that was shown.
    Plan { run: RunId, hash: String, revision: u64 },
    /// A question that was asked.
    Question { run: RunId, since: String },
    /// Asks what a plan should do differently.
    Feedback { run: RunId, hash: String, revision: u64 },
    /// Follows a run.
    Progress { run: RunId },
    /// Anything else about a run: its end, a picker, a confirmation.
    Run { run: RunId },
    /// Asks for the text of a task that is being put together.
    Draft { draft: String },
    /// Nothing that a reply could mean.
    Other,
}

impl About {
    /// The run that it is about.
    pub fn run(&self) -> Option<RunId> {
        match self {
            Self::Plan { run, .. }
            | Self::Question { run, .. }
            | Self::Feedback { run, .. }
            | Self::Progress { run }
            | Self::Run { run } => Some(*run),
            Self::Draft { .. } | Self::Other => None,
        }
    }
}

/// What a button does; its token is all that Telegram sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Button {
    /// The chat that it was sent to.
    pub chat: i64,
    /// What it does.
    pub does: Action,
}

/// What a button does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Approves this plan.
    Approve { run: RunId, hash: String },
    /// Asks what should change.
    Revise { run: RunId, hash: String, revision: u64 },
    /// Turns this plan down.
    Reject { run: RunId, hash: String },
    /// Goes on with a failed run.
    Retry { run: RunId },
    /// Sends the log.
    Log { run: RunId },
    /// Sends the diff.
    Diff { run: RunId },
    /// Asks whether to abort.
    AskAbort { run: RunId },
    /// Aborts.
    Abort { run: RunId },
    /// Changes its mind.
    Leave,
    /// Chooses the repository of a draft.
    Repo { draft: String, repo: String },
    /// Chooses the run for a command.
    Plan { run: RunId },
    /// Chooses the run for a command.
    Status { run: RunId },
    /// Chooses the run for a command.
    Mute { run: RunId, mute: bool },
}

/// A task that is being put together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// Artifact of an inline pipeline; the usual pipeline without one.
    pub pipeline: Option<String>,
    /// Whether it needs a repository.
    pub wants_repo: bool,
    /// Whether it needs a text.
    pub wants_text: bool,
    /// The repository.
    pub repo: Option<String>,
    /// The text.
    pub text: Option<String>,
}

/// Something to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Where to.
    pub to: Place,
    /// What.
    pub what: What,
    /// Whether the phone makes a sound.
    #[serde(default)]
    pub rings: bool,
    /// Whether it goes with something that rings, and waits with it through quiet hours.
    #[serde(default)]
    pub waits: bool,
    /// Whether sending it was begun before, so that it may have arrived.
    #[serde(default)]
    pub tried: bool,
    /// The message that it answers.
    #[serde(default)]
    pub reply_to: Option<i64>,
    /// What the message will be about.
    pub about: About,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A message.
    Text { text: Html, body: Html, keys: Vec<Vec<Key>>, ask: bool },
    /// A message gets another text, and loses its buttons.
    Edit { message: i64, text: Html },
    /// A message loses its buttons.
    Bare { message: i64 },
    /// A file, made when it is sent.
    File { of: File },
    /// A link that signs this user in; made when it is sent, so that none is kept.
    Login { user: String },
}

/// A file that can be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum File {
    /// The plan with this hash.
    Plan { run: RunId, hash: String },
    /// What the steps said.
    Log { run: RunId },
    /// What changed.
    Diff { run: RunId },
}

/// A button as it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Its text.
    pub text: String,
    /// Its token, or an address.
    pub to: To,
}

/// Where a button leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// The bot.
    Token(String),
    /// A page.
    Url(String),
}

/// The key of what a chat chose.
pub fn chat_key(chat: i64) -> String {
    format!("chat/{chat}")
}

/// The key of what is kept of a run.
pub fn run_key(run: RunId) -> String {
    format!("run/{run}")
}

/// The key of the run that a topic was made for.
pub fn topic_key(at: Place) -> String {
    format!("topic/{}/{}", at.chat, at.thread.unwrap_or(0))
}

/// The key of a run's next reminder.
pub fn remind_key(run: RunId) -> String {
    format!("remind/{run}")
}

/// The key of the messages that follow a run.
pub fn live_key(run: RunId) -> String {
    format!("live/{run}")
}

/// The key of a message.
pub fn card_key(chat: i64, message: i64) -> String {
    format!("msg/{chat}/{message}")
}

/// The key of a button.
pub fn button_key(token: &str) -> String {
    format!("btn/{token}")
}

/// The key of a draft.
pub fn draft_key(draft: &str) -> String {
    format!("draft/{draft}")
}

/// What an update was about to do to a run, kept before it is done: a second try does that, or sees that it was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// The run.
    pub run: RunId,
    /// Its last event before.
    pub seq: u64,
    /// The plan that was to be approved.
    #[serde(default)]
    pub plan_hash: Option<String>,
}

/// The key of an update whose handling has begun.
pub fn begun_key(update: i64) -> String {
    format!("begun/{update}")
}

/// The key of the supergroup that a group has become.
pub fn moved_key(chat: i64) -> String {
    format!("moved/{chat}")
}
