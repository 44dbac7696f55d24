//! The Telegram bot: tasks, plans, approvals and results in a chat. It calls the desk like every other channel and knows what a
//! run is only from its document.
//!
//! Three loops share the book: `listen` (what people send), `tell` (what happens to runs) and `outbox` (what goes out).

mod api;
mod book;
mod cards;
mod commands;
mod drafts;
mod files;
mod follow;
mod html;
mod listen;
mod outbox;
mod pace;
mod press;
mod sheets;
mod talk;
mod tell;
mod updates;
mod words;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;

use self::api::{Api, ApiError};
use self::book::{Book, Choice, Page, chat_key};
use self::updates::Person;
use crate::app::{App, BotAccess, Desk};
use crate::config;
use crate::core::event::Who;
use crate::core::id::RunId;
use crate::error::Error;
use crate::frontends::Channel;
use crate::frontends::words::Lang;

/// The channel's word in records.
const NAME: &str = "telegram";

/// The channel, as configured.
struct Telegram {
    access: BotAccess,
}

/// Makes the channel from a home's configuration.
///
/// # Errors
/// It is configured and has no usable token.
pub fn open(app: &App) -> Result<Option<Box<dyn Channel>>, Error> {
    Ok(app.telegram()?.map(|access| Box::new(Telegram { access }) as Box<dyn Channel>))
}

#[async_trait]
impl Channel for Telegram {
    fn name(&self) -> &'static str {
        NAME
    }

    fn says(&self) -> Option<String> {
        let settings = &self.access.settings;
        let people = settings.allow.len();
        if people == 0 {
            return Some("chat.telegram.allow is empty, so nobody may talk to the bot".to_owned());
        }
        let approvers = settings.allow.iter().filter(|user| settings.approves(**user)).count();
        Some(format!("{people} may talk to the bot, {approvers} may approve"))
    }

    async fn serve(&self, desk: Arc<Desk>) -> Result<(), Error> {
        let stop = desk.stopping();
        let api = Api::new(&self.access)?;
        let bot = self.access.token.expose_secret().split(':').next().unwrap_or_default().to_owned();
        let book = Book::open(desk.app.journal.clone(), &bot).await?;
        let bot = Bot {
            api,
            book,
            desk,
            id: bot,
            touched: Mutex::default(),
            looked: Mutex::default(),
            again: Notify::new(),
            strangers: AtomicU64::new(0),
        };
        let ours = stop.child_token();
        let listening = async {
            let ended = bot.listen_all(&ours).await;
            ours.cancel();
            ended
        };
        let sending = async {
            let ended = bot.send_all(&ours).await;
            ours.cancel();
            ended
        };
        let (heard, sent, ()) = tokio::join!(listening, sending, bot.tell_all(&ours));
        let strangers = bot.strangers.load(Ordering::Relaxed);
        if strangers > 0 {
            tracing::info!(channel = NAME, strangers, "updates of people who are not allowed were dropped");
        }
        if let Err(refused) = heard.and(sent) {
            give_up(&refused);
            // Nothing that this process could do again would help.
            stop.cancelled().await;
        }
        Ok(())
    }
}

fn give_up(refused: &ApiError) {
    tracing::error!(
        channel = NAME,
        error = %refused,
        "the token is not accepted, so this channel is closed; put the one that @BotFather shows into TELEGRAM_BOT_TOKEN and \
         start `devo serve` again"
    );
}

/// What the loops share.
struct Bot {
    api: Api,
    book: Book,
    desk: Arc<Desk>,
    /// The bot's own numeric id: the beginning of its token.
    id: String,
    /// Runs whose messages that follow them are out of date.
    touched: Mutex<HashSet<RunId>>,
    /// Runs to be looked at although nothing happened to them.
    looked: Mutex<HashSet<RunId>>,
    /// Wakes whoever tells.
    again: Notify,
    /// Updates of people who are not allowed: all that is known of them.
    strangers: AtomicU64,
}

impl Bot {
    /// Who may do what, as devo.yaml says now.
    fn settings(&self) -> config::Telegram {
        self.desk.app.config().chat.telegram.clone().unwrap_or_default()
    }

    /// The keys of the configured repositories.
    fn repos(&self) -> Vec<String> {
        self.desk.app.config().repos.keys().cloned().collect()
    }

    /// What follows this run is out of date.
    fn touch(&self, run: RunId) {
        self.touched.lock().expect("no holder of this lock can panic").insert(run);
        self.book.wake.notify_one();
    }

    /// Who is told of this run may have to be told more.
    fn look_again(&self, run: RunId) {
        self.looked.lock().expect("no holder of this lock can panic").insert(run);
        self.again.notify_one();
    }

    /// Takes what one of the two sets holds.
    fn take(&self, set: &Mutex<HashSet<RunId>>) -> Vec<RunId> {
        set.lock().expect("no holder of this lock can panic").drain().collect()
    }

    /// What a chat is spoken to in.
    async fn lang(&self, page: &Page<'_>, chat: i64) -> Result<Lang, Error> {
        let choice: Choice = page.get(&chat_key(chat)).await?.unwrap_or_default();
        let configured = self.settings().language.map(|language| match language {
            config::Language::En => Lang::En,
            config::Language::Es => Lang::Es,
        });
        Ok(choice.lang(configured))
    }

    async fn lang_of(&self, chat: i64) -> Result<Lang, Error> {
        let page = self.book.page().await;
        self.lang(&page, chat).await
    }

    /// Whether a chat is told only what rings.
    async fn quiet(&self, page: &Page<'_>, chat: i64) -> Result<bool, Error> {
        let choice: Choice = page.get(&chat_key(chat)).await?.unwrap_or_default();
        Ok(choice.quiet(self.settings().verbosity))
    }
}

/// A person for the record: the id is what Telegram vouches for, the name is only kind.
fn who(person: &Person) -> Who {
    let by = if person.name.is_empty() { person.id.to_string() } else { format!("{} ({})", person.name, person.id) };
    Who { by, channel: NAME.to_owned() }
}
