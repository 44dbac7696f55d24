//! The journal on disk: SQLite in WAL mode, one writing thread, forward-only migrations.
//!
//! Appends that wait together share one transaction. `synchronous=FULL` makes a returned append survive a power cut.

mod formats;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use serde_json::Value;
use tokio::sync::oneshot;

use super::memory::{encode, encode_kept};
use super::{
    ARTIFACT_MAX, Acceptance, Census, Journal, JournalError, Notices, Posted, RunRow, Summary, Verdict, Wanted,
};
use crate::core::event::{Event, EventBody};
use crate::core::id::RunId;
use crate::core::plan::sha256;
use crate::core::request::Request;
use crate::core::time::Timestamp;

/// Longer than any checkpoint or backup of ours takes.
const BUSY: Duration = Duration::from_secs(10);
/// The most appends of one transaction: bounds how long the first of them waits.
const GROUP_MAX: usize = 256;

/// How long a returned append lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It survives a power cut.
    #[default]
    Full,
    /// It survives the death of the process; a power cut may take the last moments.
    Normal,
}

/// Works inside a transaction, or learns that there is none; says what went wrong.
type Job = Box<dyn FnOnce(Result<&Transaction<'_>, JournalError>) -> (Finish, Option<JournalError>) + Send>;
/// Sends the answer once it is known whether the transaction was committed.
type Finish = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// A journal in a file.
pub struct SqliteJournal {
    path: PathBuf,
    writer: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    reader: Arc<Mutex<Connection>>,
}

impl SqliteJournal {
    /// Opens the journal, making it where the home never had one. `check` also looks for damage (it reads the file).
    pub fn open(path: &Path, durability: Durability, check: bool) -> Result<Self, JournalError> {
        let marker = path.with_file_name(".journal");
        if !path.exists() && marker.exists() {
            return Err(JournalError::Gone { path: path.display().to_string() });
        }
        let since = Instant::now();
        let connection = loop {
            match prepared(path, durability, check) {
                // SQLite's own patience does not cover two that make a journal at once, or one that mends it.
                Err(JournalError::Busy { .. }) if since.elapsed() < BUSY => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                done => break done?,
            }
        };
        let failed = |error: rusqlite::Error| translate(path, error);
        if !marker.exists() {
            std::fs::write(&marker, "this home has a journal: state.db\n")
                .map_err(|error| JournalError::Other { path: marker.display().to_string(), why: error.to_string() })?;
        }
        let reader = Connection::open(path).map_err(failed)?;
        reader.busy_timeout(BUSY).map_err(failed)?;
        reader.pragma_update(None, "query_only", true).map_err(failed)?;
        let (sender, receiver) = mpsc::channel();
        let writer_path = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_loop(&writer_path, connection, &receiver))
            .map_err(|error| JournalError::Other { path: path.display().to_string(), why: error.to_string() })?;
        Ok(Self {
            path: path.to_owned(),
            writer: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            reader: Arc::new(Mutex::new(reader)),
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (sender, receiver) = oneshot::channel();
        let path = self.path.clone();
        let job: Job = Box::new(move |transaction| {
            let result = transaction.and_then(|transaction| {
                savepoint(transaction, work).map_err(|error| match error {
                    WriteError::Journal(error) => error,
                    WriteError::Sqlite(error) => translate(&path, error),
                })
            });
            let failed = result.as_ref().err().cloned();
            let finish: Finish = Box::new(move |committed| {
                // The asker may be gone; the write stands.
                let _ = sender.send(committed.and(result));
            });
            (finish, failed)
        });
        let gone =
            || JournalError::Other { path: self.path.display().to_string(), why: "its writer is gone".to_owned() };
        let writer = self.writer.lock().expect("no holder of this lock can panic").clone();
        writer.ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let reader = self.reader.clone();
        let path = self.path.clone();
        let result = tokio::task::spawn_blocking(move || {
            let connection = reader.lock().expect("no holder of this lock can panic");
            work(&connection).map_err(|error| match error {
                WriteError::Journal(error) => error,
                WriteError::Sqlite(error) => translate(&path, error),
            })
        });
        result
            .await
            .map_err(|error| JournalError::Other { path: self.path.display().to_string(), why: error.to_string() })?
    }
}

impl SqliteJournal {
    /// Rows of the table of runs, chosen by a clause of ours.
    async fn rows(&self, clause: impl Into<String>, parameters: Vec<Sql>) -> Result<Vec<RunRow>, JournalError> {
        let select = format!("SELECT id, created_at, updated_at, summary FROM runs {}", clause.into());
        self.read(move |connection| {
            let mut select = connection.prepare_cached(&select)?;
            let rows = select.query_map(rusqlite::params_from_iter(parameters), |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?))
            })?;
            rows.map(|row| {
                let (id, created, updated, summary) = row?;
                let (created_at, updated_at) = (Timestamp(created), Timestamp(updated));
                Ok(RunRow { id: run_id(&id)?, created_at, updated_at, summary: decode(&summary)? })
            })
            .collect()
        })
        .await
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        drop(self.writer.get_mut().ok().and_then(Option::take));
        if let Some(thread) = self.thread.get_mut().ok().and_then(Option::take) {
            // Waits for what is queued; a panic of the writer was reported to whoever asked.
            let _ = thread.join();
        }
    }
}

/// The clause that chooses what is wanted, and its parameters. Each shape of a wish is one statement, which is kept.
fn clause(wanted: Wanted) -> (String, Vec<Sql>) {
    let (mut parts, mut parameters): (Vec<&str>, Vec<Sql>) = (vec!["1"], Vec::new());
    let mut index = "";
    match wanted.status {
        // There may be many failed runs, and few that failed of late.
        Some(status) if status == "FAILED" && wanted.since.is_some() => {
            parts.push("status = 'FAILED'");
            index = "INDEXED BY runs_failed ";
        }
        Some(status) => {
            parts.push("status = ?");
            parameters.push(status.into());
        }
        None => {}
    }
    if let Some(repo) = wanted.repo {
        parts.push("repo = ?");
        parameters.push(repo.into());
    }
    parts.extend(wanted.waiting.map(|yes| if yes { "waiting_for IS NOT NULL" } else { "waiting_for IS NULL" }));
    parts.extend(wanted.ended.map(|yes| if yes { "ended = 1" } else { "ended = 0" }));
    if let Some(since) = wanted.since {
        parts.push("updated_at >= ?");
        parameters.push(since.0.into());
    }
    if let Some(behind) = wanted.behind {
        parts.push("(created_at, id) < (SELECT created_at, id FROM runs WHERE id = ?)");
        parameters.push(behind.to_string().into());
    }
    (format!("{index}WHERE {}", parts.join(" AND ")), parameters)
}

enum WriteError {
    Journal(JournalError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<JournalError> for WriteError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// Does the work whole or not at all. SQLite itself may give up more than the work, for instance where the disk is full:
/// the transaction is over then, and the work's own error says why.
fn savepoint<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, WriteError>,
) -> Result<T, WriteError> {
    transaction.execute_batch("SAVEPOINT job")?;
    let result = work(transaction).and_then(|value| {
        transaction.execute_batch("RELEASE job")?;
        Ok(value)
    });
    let over = transaction.is_autocommit();
    if result.is_err() && !over && transaction.execute_batch("ROLLBACK TO job; RELEASE job").is_err() {
        // A part of it must not be committed with the rest: then nothing is.
        let _ = transaction.execute_batch("ROLLBACK");
    }
    result
}

fn write_loop(path: &Path, mut connection: Connection, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let more = jobs.try_iter().take(GROUP_MAX - 1);
        let group: Vec<Job> = std::iter::once(first).chain(more).collect();
        let (finishes, committed) = write_group(path, &mut connection, group);
        for finish in finishes {
            finish(committed.clone());
        }
    }
}

/// Does the jobs in one transaction: all that did not fail by themselves are committed, or none.
fn write_group(path: &Path, connection: &mut Connection, group: Vec<Job>) -> (Vec<Finish>, Result<(), JournalError>) {
    let begun = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
    let transaction = begun.map_err(|error| translate(path, error));
    // Why there is no transaction, or no more.
    let mut gone = transaction.as_ref().err().cloned();
    let mut finishes = Vec::with_capacity(group.len());
    for job in group {
        let (finish, failed) = job(match (&transaction, &gone) {
            (Ok(transaction), None) => Ok(transaction),
            (Err(error), _) | (Ok(_), Some(error)) => Err(error.clone()),
        });
        finishes.push(finish);
        if gone.is_none() && transaction.as_ref().is_ok_and(|transaction| transaction.is_autocommit()) {
            // What the jobs before it wrote went with it, and what those behind it wrote would be committed one by one.
            let why =
                || JournalError::Other { path: path.display().to_string(), why: "a transaction ended early".into() };
            gone = Some(failed.unwrap_or_else(why));
        }
    }
    let committed = match (gone, transaction) {
        (Some(error), _) | (None, Err(error)) => Err(error),
        (None, Ok(transaction)) => transaction.commit().map_err(|error| translate(path, error)),
    };
    (finishes, committed)
}

/// The journal holds task texts and outputs: nobody else reads it.
fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(%error, path = %path.display(), "cannot make the journal private");
    }
}

/// A connection that may write, in the present format.
fn prepared(path: &Path, durability: Durability, check: bool) -> Result<Connection, JournalError> {
    let failed = |error: rusqlite::Error| translate(path, error);
    let mut connection = Connection::open(path).map_err(failed)?;
    private(path);
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024).map_err(failed)?;
    formats::migrate(path, &mut connection)?;
    if check {
        let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if found != "ok" {
            return Err(JournalError::Damaged { path: path.display().to_string(), why: found });
        }
    }
    Ok(connection)
}

fn translate(path: &Path, error: rusqlite::Error) -> JournalError {
    let path = path.display().to_string();
    let why = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => JournalError::Busy { path },
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure) => {
            JournalError::Full { path, why }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => JournalError::Damaged { path, why },
        _ => JournalError::Other { path, why },
    }
}

fn decode<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, WriteError> {
    serde_json::from_str(text).map_err(|error| {
        WriteError::Journal(JournalError::Damaged {
            path: "state.db".to_owned(),
            why: format!("a record cannot be read ({error}); a newer devo may have written it"),
        })
    })
}

fn run_id(text: &str) -> Result<RunId, WriteError> {
    text.parse().map_err(|_| {
        WriteError::Journal(JournalError::Damaged {
            path: "state.db".to_owned(),
            why: format!("`{text}` is not a run's id"),
        })
    })
}

fn insert_events(transaction: &Transaction<'_>, run: &str, rows: &[(u64, String)]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT INTO events (run, seq, body) VALUES (?1, ?2, ?3)")?;
    for (seq, body) in rows {
        insert.execute(params![run, *seq as i64, body])?;
    }
    Ok(())
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn accept(&self, first: Event, summary: Summary) -> Result<Acceptance, JournalError> {
        let body = encode(&first)?;
        let EventBody::Accepted(spec) = first.body else {
            let why = "not an acceptance".to_owned();
            return Err(JournalError::Other { path: self.path.display().to_string(), why });
        };
        let (id, key, at) = (spec.task_id, spec.key, first.at.0);
        self.write(move |transaction| {
            let taken: Option<String> = transaction
                .query_row("SELECT id FROM runs WHERE id = ?1 OR key = ?2", params![id.to_string(), key], |row| {
                    row.get(0)
                })
                .optional()?;
            if let Some(taken) = taken {
                return Ok(Acceptance::Existing(run_id(&taken)?));
            }
            let summary = serde_json::to_string(&summary).expect("a summary is plain data");
            transaction.execute(
                "INSERT INTO runs (id, short, key, created_at, updated_at, last_seq, ended, summary)
                 VALUES (?1, ?2, ?3, ?4, ?4, 1, 0, ?5)",
                params![id.to_string(), id.short(), key, at, summary],
            )?;
            insert_events(transaction, &id.to_string(), &[(1, body)])?;
            Ok(Acceptance::New)
        })
        .await
    }

    async fn append(&self, run: RunId, events: Vec<Event>, summary: Summary) -> Result<(), JournalError> {
        let Some((first, last)) = events.first().zip(events.last()) else { return Ok(()) };
        let (id, first, last_seq, at) = (run, first.seq, last.seq, last.at.0);
        let gap = events.iter().zip(first..).find(|(event, wanted)| event.seq != *wanted);
        if let Some((event, _)) = gap {
            return Err(JournalError::Conflict { run, seq: event.seq });
        }
        let rows =
            events.iter().map(|event| Ok((event.seq, encode(event)?))).collect::<Result<Vec<_>, JournalError>>()?;
        self.write(move |transaction| {
            let summary_text = serde_json::to_string(&summary).expect("a summary is plain data");
            let run = run.to_string();
            // Mostly the summary stays as it is; what is not written needs no place in an index.
            let same = transaction
                .prepare_cached("SELECT summary = ?1 FROM runs WHERE id = ?2")?
                .query_row(params![summary_text, run], |row| row.get(0))
                .optional()?
                .unwrap_or(false);
            // The condition on `last_seq` makes a second writer fail instead of forking the history.
            let (at_seq, before) = (last_seq as i64, first as i64 - 1);
            let changed = if same {
                transaction
                    .prepare_cached("UPDATE runs SET updated_at = ?1, last_seq = ?2 WHERE id = ?3 AND last_seq = ?4")?
                    .execute(params![at, at_seq, run, before])?
            } else {
                transaction
                    .prepare_cached(
                        "UPDATE runs SET updated_at = ?1, last_seq = ?2, ended = ?3, summary = ?4 WHERE id = ?5 AND last_seq = ?6",
                    )?
                    .execute(params![at, at_seq, summary.ended, summary_text, run, before])?
            };
            if changed != 1 {
                return Err(JournalError::Conflict { run: id, seq: first }.into());
            }
            insert_events(transaction, &run, &rows)?;
            Ok(())
        })
        .await
    }

    async fn events(&self, run: RunId, after: u64) -> Result<Vec<Event>, JournalError> {
        self.read(move |connection| {
            let mut select =
                connection.prepare_cached("SELECT body FROM events WHERE run = ?1 AND seq > ?2 ORDER BY seq")?;
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            let rows = select.query_map(params![run.to_string(), after], |row| row.get::<_, String>(0))?;
            rows.map(|row| decode(&row?)).collect()
        })
        .await
    }

    async fn runs(&self, limit: usize) -> Result<Vec<RunRow>, JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.rows("ORDER BY created_at DESC, id DESC LIMIT ?1", vec![limit.into()]).await
    }

    async fn list(&self, wanted: Wanted, limit: usize) -> Result<Vec<RunRow>, JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (clause, mut parameters) = clause(wanted);
        parameters.push(limit.into());
        self.rows(format!("{clause} ORDER BY created_at DESC, id DESC LIMIT ?"), parameters).await
    }

    async fn count(&self, wanted: Wanted) -> Result<u64, JournalError> {
        let (clause, parameters) = clause(wanted);
        self.read(move |connection| {
            let mut select = connection.prepare_cached(&format!("SELECT count(*) FROM runs {clause}"))?;
            Ok(select.query_row(rusqlite::params_from_iter(parameters), |row| row.get::<_, i64>(0))?.unsigned_abs())
        })
        .await
    }

    async fn census(&self) -> Result<Census, JournalError> {
        self.read(|connection| {
            let number = |select: &str| -> rusqlite::Result<u64> {
                let count: i64 = connection.prepare_cached(select)?.query_row([], |row| row.get(0))?;
                Ok(count.unsigned_abs())
            };
            // Each of them reads one index.
            let open = number("SELECT count(*) FROM runs WHERE ended = 0")?;
            let waiting = number("SELECT count(*) FROM runs WHERE waiting_for IS NOT NULL")?;
            let mut select = connection.prepare_cached("SELECT status, count(*) FROM runs GROUP BY status")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
            Ok(Census { by_status: rows.collect::<rusqlite::Result<_>>()?, open, waiting })
        })
        .await
    }

    async fn open_rows(&self) -> Result<Vec<RunRow>, JournalError> {
        self.rows("WHERE ended = 0 ORDER BY created_at", Vec::new()).await
    }

    async fn row(&self, run: RunId) -> Result<Option<RunRow>, JournalError> {
        Ok(self.rows("WHERE id = ?1", vec![run.to_string().into()]).await?.pop())
    }

    async fn open_runs(&self) -> Result<Vec<RunId>, JournalError> {
        self.read(|connection| {
            let mut select = connection.prepare_cached("SELECT id FROM runs WHERE ended = 0 ORDER BY created_at")?;
            let rows = select.query_map([], |row| row.get::<_, String>(0))?;
            rows.map(|row| run_id(&row?)).collect()
        })
        .await
    }

    async fn find(&self, text: &str) -> Result<Vec<RunId>, JournalError> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            return Ok(Vec::new());
        }
        let pattern = format!("{}*", text.to_ascii_lowercase());
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT id FROM runs WHERE id GLOB ?1 OR short GLOB ?1 ORDER BY created_at DESC, id DESC LIMIT 5",
            )?;
            let rows = select.query_map([pattern], |row| row.get::<_, String>(0))?;
            rows.map(|row| run_id(&row?)).collect()
        })
        .await
    }

    async fn put_artifact(&self, bytes: Vec<u8>) -> Result<String, JournalError> {
        if bytes.len() > ARTIFACT_MAX {
            return Err(JournalError::TooLarge { what: "an artifact", bytes: bytes.len() });
        }
        let hash = sha256(&bytes);
        let key = hash.clone();
        self.write(move |transaction| {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO artifacts (hash, bytes) VALUES (?1, ?2)")?
                .execute(params![key, bytes])?;
            Ok(())
        })
        .await?;
        Ok(hash)
    }

    async fn artifact(&self, hash: &str) -> Result<Vec<u8>, JournalError> {
        let hash = hash.to_owned();
        self.read(move |connection| {
            connection
                .query_row("SELECT bytes FROM artifacts WHERE hash = ?1", [&hash], |row| row.get(0))
                .optional()?
                .ok_or_else(|| JournalError::NoArtifact(hash).into())
        })
        .await
    }

    async fn post(&self, run: RunId, request: Request, at: Timestamp) -> Result<i64, JournalError> {
        let body = serde_json::to_string(&request).expect("a request is plain data");
        self.write(move |transaction| {
            transaction.execute(
                "INSERT INTO requests (run, body, at) VALUES (?1, ?2, ?3)",
                params![run.to_string(), body, at.0],
            )?;
            Ok(transaction.last_insert_rowid())
        })
        .await
    }

    async fn posted(&self) -> Result<Vec<Posted>, JournalError> {
        self.read(|connection| {
            let mut select =
                connection.prepare_cached("SELECT id, run, body FROM requests WHERE verdict IS NULL ORDER BY id")?;
            let rows =
                select.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))?;
            rows.map(|row| {
                let (id, run, body) = row?;
                Ok(Posted { id, run: run_id(&run)?, request: decode(&body)? })
            })
            .collect()
        })
        .await
    }

    fn stamp(&self) -> Option<(u64, SystemTime)> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let meta = std::fs::metadata(log).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    }

    fn notices(&self) -> Option<Notices> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        match Notices::of(Path::new(&log)) {
            Ok(notices) => Some(notices),
            Err(error) => {
                tracing::warn!(%error, "the system gives no notices of the journal; it is looked at often instead");
                None
            }
        }
    }

    async fn judge(&self, id: i64, verdict: Verdict) -> Result<(), JournalError> {
        let body = serde_json::to_string(&verdict).expect("a verdict is plain data");
        self.write(move |transaction| {
            transaction.execute("UPDATE requests SET verdict = ?1 WHERE id = ?2", params![body, id])?;
            Ok(())
        })
        .await
    }

    async fn verdict(&self, id: i64) -> Result<Option<Verdict>, JournalError> {
        self.read(move |connection| {
            let text: Option<Option<String>> = connection
                .query_row("SELECT verdict FROM requests WHERE id = ?1", [id], |row| row.get(0))
                .optional()?;
            text.flatten().map(|text| decode(&text)).transpose()
        })
        .await
    }

    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<(u64, RunId, Event)>, JournalError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT position, run, body FROM events WHERE position > ?1 ORDER BY position LIMIT ?2",
            )?;
            let rows = select.query_map(params![after, limit], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
            })?;
            rows.map(|row| {
                let (position, run, body) = row?;
                Ok((position.unsigned_abs(), run_id(&run)?, decode(&body)?))
            })
            .collect()
        })
        .await
    }

    async fn feed_end(&self) -> Result<u64, JournalError> {
        self.read(|connection| {
            let last: Option<i64> = connection.query_row("SELECT max(position) FROM events", [], |row| row.get(0))?;
            Ok(last.unwrap_or(0).unsigned_abs())
        })
        .await
    }

    async fn keep(&self, scope: &str, changes: Vec<(String, Option<Value>)>) -> Result<(), JournalError> {
        let (scope, changes) = (scope.to_owned(), encode_kept(changes)?);
        self.write(move |transaction| {
            for (key, value) in changes {
                match value {
                    Some(value) => transaction
                        .prepare_cached("INSERT OR REPLACE INTO kept (scope, key, value) VALUES (?1, ?2, ?3)")?
                        .execute(params![scope, key, value])?,
                    None => transaction
                        .prepare_cached("DELETE FROM kept WHERE scope = ?1 AND key = ?2")?
                        .execute(params![scope, key])?,
                };
            }
            Ok(())
        })
        .await
    }

    async fn kept(&self, scope: &str, key: &str) -> Result<Option<Value>, JournalError> {
        let (scope, key) = (scope.to_owned(), key.to_owned());
        self.read(move |connection| {
            let text: Option<String> = connection
                .prepare_cached("SELECT value FROM kept WHERE scope = ?1 AND key = ?2")?
                .query_row(params![scope, key], |row| row.get(0))
                .optional()?;
            text.map(|text| decode(&text)).transpose()
        })
        .await
    }

    async fn kept_with(&self, scope: &str, prefix: &str) -> Result<Vec<(String, Value)>, JournalError> {
        let (scope, prefix) = (scope.to_owned(), prefix.to_owned());
        self.read(move |connection| {
            let mut select =
                connection.prepare_cached("SELECT key, value FROM kept WHERE scope = ?1 AND key >= ?2 ORDER BY key")?;
            let mut rows = select.query(params![scope, prefix])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                if !key.starts_with(&prefix) {
                    break;
                }
                found.push((key, decode(&row.get::<_, String>(1)?)?));
            }
            Ok(found)
        })
        .await
    }
}
