//! What the bot must not forget: how far it read, whom it told, what each message and button means, what is still to be sent.
//!
//! A [`Page`] is one look at the book and one transaction: while it is open nobody else writes. It does not know Telegram.

mod entries;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::error::Error;
use crate::journal::Journal;

pub use entries::{
    About, Action, Begun, Button, Card, Choice, Draft, File, Key, Record, Reminder, Row, To, Told, What, begun_key,
    button_key, card_key, chat_key, draft_key, live_key, moved_key, remind_key, run_key, topic_key,
};

/// Where getUpdates goes on.
pub const OFFSET: &str = "offset";
/// The position in the journal up to which people were told.
pub const CURSOR: &str = "cursor";

/// How long an answer waits until the message that it may answer is written down.
const REST: Duration = Duration::from_secs(5);

/// The book of one bot.
pub struct Book {
    journal: Arc<dyn Journal>,
    scope: String,
    inner: Mutex<Inner>,
    /// Something is to be sent.
    pub wake: Notify,
    /// What is to be sent has changed.
    changed: Notify,
}

struct Inner {
    rows: BTreeMap<u64, Row>,
    next: u64,
}

/// A look at the book and a transaction.
pub struct Page<'b> {
    book: &'b Book,
    inner: MutexGuard<'b, Inner>,
    changes: BTreeMap<String, Option<Value>>,
    rows: BTreeMap<u64, Option<Row>>,
}

fn row_key(number: u64) -> String {
    format!("out/{number:020}")
}

/// 128 random bits as 22 letters.
pub fn token() -> Result<String, Error> {
    let mut bits = [0u8; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bits).map_err(|_| Error::refused("random", "the system gives no random numbers"))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits))
}

impl Book {
    /// Opens the book of a bot.
    ///
    /// # Errors
    /// The journal fails.
    pub async fn open(journal: Arc<dyn Journal>, bot: &str) -> Result<Self, Error> {
        let scope = format!("telegram/{bot}");
        let mut rows = BTreeMap::new();
        for (key, value) in journal.kept_with(&scope, "out/").await? {
            let number = key.strip_prefix("out/").and_then(|number| number.parse().ok());
            match (number, serde_json::from_value(value)) {
                (Some(number), Ok(row)) => drop(rows.insert(number, row)),
                _ => tracing::warn!(key, "a message that was to be sent cannot be read"),
            }
        }
        let next = rows.last_key_value().map_or(0, |(number, _)| number + 1);
        Ok(Self {
            journal,
            scope,
            inner: Mutex::new(Inner { rows, next }),
            wake: Notify::new(),
            changed: Notify::new(),
        })
    }

    /// Opens a page; it waits for the one that is open.
    pub async fn page(&self) -> Page<'_> {
        let inner = self.inner.lock().await;
        Page { book: self, inner, changes: BTreeMap::new(), rows: BTreeMap::new() }
    }

    /// Waits until nothing is on its way to a chat, so that whoever answers a message finds it written down; not for long.
    pub async fn at_rest(&self, chat: i64) {
        let rest = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !self.inner.lock().await.rows.values().any(|row| row.tried && row.to.chat == chat) {
                    return;
                }
                changed.await;
            }
        };
        // Longer than a request takes; after an outage there is nobody to wait for.
        let _ = tokio::time::timeout(REST, rest).await;
    }

    /// Everything under a prefix.
    ///
    /// # Errors
    /// The journal fails.
    pub async fn all<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, T)>, Error> {
        let found = self.journal.kept_with(&self.scope, prefix).await?;
        Ok(found.into_iter().filter_map(|(key, value)| Some((key, serde_json::from_value(value).ok()?))).collect())
    }
}

impl Page<'_> {
    /// A value, as this page would leave it.
    ///
    /// # Errors
    /// The journal fails.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let value = match self.changes.get(key) {
            Some(changed) => changed.clone(),
            None => self.book.journal.kept(&self.book.scope, key).await?,
        };
        Ok(value.and_then(|value| match serde_json::from_value(value) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(key, %error, "what was kept cannot be read");
                None
            }
        }))
    }

    /// Changes a value.
    pub fn put<T: Serialize>(&mut self, key: String, value: &T) {
        self.changes.insert(key, Some(serde_json::to_value(value).expect("kept values are plain data")));
    }

    /// Drops a value.
    pub fn drop(&mut self, key: String) {
        self.changes.insert(key, None);
    }

    /// Adds something to be sent; the answer is its number.
    pub fn send(&mut self, row: Row) -> u64 {
        let number = self.inner.next;
        self.inner.next += 1;
        self.set_row(number, Some(row));
        number
    }

    /// Changes or drops something that is to be sent.
    pub fn set_row(&mut self, number: u64, row: Option<Row>) {
        self.changes.insert(
            row_key(number),
            row.as_ref().map(|row| serde_json::to_value(row).expect("kept values are plain data")),
        );
        self.rows.insert(number, row);
    }

    /// What is to be sent, oldest first.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &Row)> {
        self.inner.rows.iter().map(|(number, row)| (*number, row))
    }

    /// Makes a button: its row, and its face.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn button(&mut self, chat: i64, text: &str, does: Action) -> Result<Key, Error> {
        let token = token()?;
        self.put(button_key(&token), &Button { chat, does });
        Ok(Key { text: text.to_owned(), to: To::Token(token) })
    }

    /// Writes everything that was changed, in one transaction; the page stays open.
    ///
    /// # Errors
    /// The journal fails; then nothing was written, and the page may try again.
    pub async fn commit(&mut self) -> Result<(), Error> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let changes = self.changes.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        self.book.journal.keep(&self.book.scope, changes).await?;
        self.changes.clear();
        let woken = !self.rows.is_empty();
        for (number, row) in std::mem::take(&mut self.rows) {
            match row {
                Some(row) => drop(self.inner.rows.insert(number, row)),
                None => drop(self.inner.rows.remove(&number)),
            }
        }
        if woken {
            self.book.wake.notify_one();
            self.book.changed.notify_waiters();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::html::Html;
    use super::super::updates::Place;
    use super::*;
    use crate::journal::MemoryJournal;

    fn row(text: &str) -> Row {
        let what = What::Text { text: Html::of(text), body: Html::default(), keys: Vec::new(), ask: false };
        let to = Place { chat: 1, thread: None };
        Row { to, what, rings: false, waits: false, tried: false, reply_to: None, about: About::Other }
    }

    #[tokio::test]
    async fn a_page_is_written_whole_and_rows_survive() {
        let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::default());
        let book = Book::open(journal.clone(), "7").await.unwrap();
        let mut page = book.page().await;
        page.put(OFFSET.to_owned(), &5);
        let number = page.send(row("a"));
        page.send(row("b"));
        assert_eq!(page.get::<i64>(OFFSET).await.unwrap(), Some(5), "a page sees what it wrote");
        drop(page);
        assert_eq!(book.page().await.get::<i64>(OFFSET).await.unwrap(), None, "a page that is dropped wrote nothing");
        let mut page = book.page().await;
        let first = page.send(row("a"));
        assert!(first > number, "numbers are not given twice");
        page.send(row("b"));
        page.commit().await.unwrap();
        page.set_row(first, None);
        page.commit().await.unwrap();
        drop(page);
        let again = Book::open(journal, "7").await.unwrap();
        let page = again.page().await;
        let rows: Vec<_> = page.rows().map(|(_, row)| row.clone()).collect();
        assert_eq!(rows, [row("b")]);
    }

    #[tokio::test]
    async fn whoever_answers_waits_for_what_is_on_its_way() {
        let book = Book::open(Arc::new(MemoryJournal::default()), "7").await.unwrap();
        let mut page = book.page().await;
        let number = page.send(Row { tried: true, ..row("a") });
        page.commit().await.unwrap();
        drop(page);
        let mut answer = std::pin::pin!(book.at_rest(1));
        assert!(futures_util::poll!(answer.as_mut()).is_pending());
        book.at_rest(2).await;
        let mut page = book.page().await;
        page.set_row(number, None);
        page.commit().await.unwrap();
        drop(page);
        assert!(futures_util::poll!(answer.as_mut()).is_ready());
    }

    #[test]
    fn tokens_fit_a_button_and_differ() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert_eq!(one.len(), 22);
        assert_ne!(one, two);
    }
}
