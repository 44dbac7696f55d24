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
mod remind;
mod sheets;
mod talk;
mod tell;
mod updates;
mod words;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;

use self::api::{Api, ApiError};
use self::book::{Book, Choice, Page, Reminder, chat_key};
use self::updates::Person;
use crate::app::{App, BotAccess, Desk};
use crate::config::{self, Verbosity};
use crate::core::event::Who;
use crate::core::id::RunId;
use crate::error::Error;
use crate::frontends::Channel;
use crate::frontends::words::Lang;

/// The channel's word in records.
const NAME: &str = "telegram";
/// How long a look at the bot may take.
const PROBE: Duration = Duration::from_secs(10);
/// Before a refused token is tried again; each later wait is twice as long.
const REFUSED: Duration = Duration::from_secs(5);
/// The longest of these waits: a bot whose token was made anew is back within it.
const REFUSED_MAX: Duration = Duration::from_secs(600);

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

/// How a bot was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// It answers, under this name.
    Ready(String),
    /// It answers, and its updates go to a webhook.
    Webhook(String),
    /// Its token is refused.
    Refused(String),
    /// Nobody answers.
    Unknown(String),
}

/// Looks at a bot without taking an update from whoever listens to it; for `devo doctor`.
pub async fn probe(access: &BotAccess) -> Probed {
    let look = async {
        let api = Api::new(access).map_err(|error| ApiError::Unsent(error.message))?;
        let me = api.call("getMe", &serde_json::json!({})).await?;
        let webhook = api.call("getWebhookInfo", &serde_json::json!({})).await?;
        let set = webhook["url"].as_str().is_some_and(|url| !url.is_empty());
        Ok::<_, ApiError>((html::line(me["username"].as_str().unwrap_or_default(), 64), set))
    };
    match tokio::time::timeout(PROBE, look).await {
        Ok(Ok((name, false))) => Probed::Ready(name),
        Ok(Ok((name, true))) => Probed::Webhook(name),
        Ok(Err(error)) if error.is_final() => Probed::Refused(error.to_string()),
        Ok(Err(error)) => Probed::Unknown(error.to_string()),
        Err(_) => Probed::Unknown("Telegram does not answer".to_owned()),
    }
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
        let (mut access, mut wait) = (self.access.clone(), REFUSED);
        loop {
            let begun = Instant::now();
            let Some(refused) = listen_and_tell(&access, &desk).await? else { return Ok(()) };
            if begun.elapsed() > REFUSED_MAX {
                wait = REFUSED;
            }
            tracing::error!(
                channel = NAME,
                error = %refused,
                "the token is not accepted; put the one that @BotFather shows where TELEGRAM_BOT_TOKEN_FILE or systemd's \
                 credential is, or into TELEGRAM_BOT_TOKEN and start `devo serve` again; trying again in {} s",
                wait.as_secs()
            );
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(REFUSED_MAX);
            match desk.app.telegram() {
                Ok(Some(new)) => access = new,
                Ok(None) => {}
                Err(error) => tracing::warn!(channel = NAME, error = %error.message, "there is no new token"),
            }
        }
    }
}

/// Everything that a bot does, until the stop; ends early with the refusal of its token.
async fn listen_and_tell(access: &BotAccess, desk: &Arc<Desk>) -> Result<Option<ApiError>, Error> {
    let stop = desk.stopping();
    let api = Api::new(access)?;
    let id = access.token.expose_secret().split(':').next().unwrap_or_default().to_owned();
    let bot = Bot {
        api,
        book: Book::open(desk.app.journal.clone(), &id).await?,
        desk: desk.clone(),
        id,
        touched: Mutex::default(),
        looked: Mutex::default(),
        again: Notify::new(),
        reminders: Mutex::default(),
        lines: Mutex::default(),
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
    Ok(heard.and(sent).err())
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
    /// When people are asked again, by run; the book has the same.
    reminders: Mutex<BTreeMap<RunId, Reminder>>,
    /// The last words of the steps of runs that are followed so closely.
    lines: Mutex<HashMap<RunId, VecDeque<String>>>,
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

    /// How much a chat is told.
    async fn verbosity(&self, page: &Page<'_>, chat: i64) -> Result<Verbosity, Error> {
        let choice: Choice = page.get(&chat_key(chat)).await?.unwrap_or_default();
        Ok(choice.verbosity(self.settings().verbosity))
    }

    /// Whether a chat is told only what rings.
    async fn quiet(&self, page: &Page<'_>, chat: i64) -> Result<bool, Error> {
        Ok(self.verbosity(page, chat).await? == Verbosity::Quiet)
    }

    /// Whether nothing may ring in a chat now: the hours are quiet, and nobody spoke there a moment ago.
    async fn asleep(&self, page: &Page<'_>, chat: i64) -> Result<bool, Error> {
        let (config, now) = (self.desk.app.config(), self.desk.app.clock.now());
        if config.notify.quiet_hours.as_ref().and_then(|hours| hours.until(now)).is_none() {
            return Ok(false);
        }
        let choice: Choice = page.get(&chat_key(chat)).await?.unwrap_or_default();
        Ok(!choice.awake(now))
    }
}

/// A person for the record: the id is what Telegram vouches for, the name is only kind.
fn who(person: &Person) -> Who {
    let by = if person.name.is_empty() { person.id.to_string() } else { format!("{} ({})", person.name, person.id) };
    Who { by, channel: NAME.to_owned() }
}
