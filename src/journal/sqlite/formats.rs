//! The formats that a journal has had, and the way from each to the next.

use std::path::Path;

use rusqlite::Connection;

use super::translate;
use crate::journal::JournalError;

/// `devo` in ASCII, so that a foreign database is recognised.
pub(super) const APPLICATION_ID: i64 = 0x6465_766f;
/// Each entry takes the format one number up; entries are never changed once released.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, short TEXT NOT NULL, key TEXT UNIQUE, created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL, last_seq INTEGER NOT NULL, ended INTEGER NOT NULL, summary TEXT NOT NULL
    ) STRICT;
    CREATE INDEX runs_by_short ON runs (short);
    CREATE INDEX runs_open ON runs (created_at) WHERE ended = 0;
    CREATE TABLE events (
        run TEXT NOT NULL REFERENCES runs (id), seq INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE artifacts (hash TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, body TEXT NOT NULL, at INTEGER NOT NULL, verdict TEXT
    ) STRICT;
    CREATE INDEX requests_open ON requests (id) WHERE verdict IS NULL;
",
    "
    -- One order over all runs; older events are put into it by their time. AUTOINCREMENT: no position is given twice.
    CREATE TABLE ordered (
        position INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL REFERENCES runs (id), seq INTEGER NOT NULL,
        body TEXT NOT NULL, UNIQUE (run, seq)
    ) STRICT;
    INSERT INTO ordered (run, seq, body) SELECT run, seq, body FROM events ORDER BY body ->> 'at', run, seq;
    DROP TABLE events;
    ALTER TABLE ordered RENAME TO events;
    CREATE TABLE kept (
        scope TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (scope, key)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- Lists of runs by how they stand: what of the summary is asked for, as columns that cost nothing where it is not.
    ALTER TABLE runs ADD COLUMN status TEXT GENERATED ALWAYS AS (summary ->> '$.status') VIRTUAL;
    ALTER TABLE runs ADD COLUMN repo TEXT GENERATED ALWAYS AS (summary ->> '$.repo') VIRTUAL;
    ALTER TABLE runs ADD COLUMN waiting_for TEXT GENERATED ALWAYS AS (summary ->> '$.waiting_for') VIRTUAL;
    CREATE INDEX runs_by_time ON runs (created_at, id);
    DROP INDEX runs_open;
    CREATE INDEX runs_open ON runs (created_at, id) WHERE ended = 0;
    CREATE INDEX runs_by_status ON runs (status, created_at, id);
    CREATE INDEX runs_by_repo ON runs (repo, created_at, id);
    CREATE INDEX runs_ended ON runs (created_at, id) WHERE ended = 1;
    CREATE INDEX runs_waiting ON runs (created_at, id) WHERE waiting_for IS NOT NULL;
    CREATE INDEX runs_failed ON runs (updated_at) WHERE status = 'FAILED';
",
];

/// Brings a journal to the present format, in one transaction; a newer or foreign one is left alone.
pub(super) fn migrate(path: &Path, connection: &mut Connection) -> Result<(), JournalError> {
    let failed = |error: rusqlite::Error| translate(path, error);
    let known = MIGRATIONS.len() as i64;
    let read = |connection: &Connection| -> rusqlite::Result<(i64, i64)> {
        let id = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        Ok((id, connection.pragma_query_value(None, "user_version", |row| row.get(0))?))
    };
    if read(connection).map_err(failed)? == (APPLICATION_ID, known) {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    let (id, version) = read(&transaction).map_err(failed)?;
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if id != APPLICATION_ID && tables > 0 {
        return Err(JournalError::Foreign { path: path.display().to_string() });
    }
    if version > known {
        return Err(JournalError::Newer { path: path.display().to_string(), found: version, known });
    }
    for migration in &MIGRATIONS[usize::try_from(version).unwrap_or(0)..] {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.pragma_update(None, "user_version", known).map_err(failed)?;
    transaction.commit().map_err(failed)
}
