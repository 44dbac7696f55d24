//! The journal: the append-only record of what happened to every run, and what was asked of it from elsewhere.
//!
//! It stores and returns events; what they mean is `core`'s business. One process owns the writing of a run's events
//! (the engine); others leave their requests here and read the verdicts. The log is also the outbox: whoever tells people
//! of events reads them in one order over all runs, and keeps here how far it got.

mod memory;
mod notices;
mod sqlite;

use std::collections::BTreeMap;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::event::Event;
use crate::core::failure::Failure;
use crate::core::id::RunId;
use crate::core::request::{Refused, Request};
use crate::core::time::Timestamp;

pub use memory::MemoryJournal;
pub use notices::Notices;
pub use sqlite::{Durability, SqliteJournal};

/// The largest event, as JSON, in bytes; larger outputs become artifacts.
pub const EVENT_MAX: usize = 1024 * 1024;
/// The largest artifact, in bytes.
pub const ARTIFACT_MAX: usize = 64 * 1024 * 1024;
/// The largest kept value, as JSON, in bytes: these are cursors, ids and tokens.
pub const KEPT_MAX: usize = 64 * 1024;

/// What lists show of a run without replaying it; rewritten with each append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The contract's word.
    pub status: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The repository, if there is one.
    pub repo: Option<String>,
    /// What was asked for.
    pub task: String,
    /// The step and the kind of question that it waits for.
    pub waiting_for: Option<String>,
    /// Whether it ended.
    pub ended: bool,
}

/// A line of the table of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// The run.
    pub id: RunId,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last event happened.
    pub updated_at: Timestamp,
    /// The rest.
    pub summary: Summary,
}

impl RunRow {
    /// Whether the run waits for a person.
    pub fn waits(&self) -> bool {
        self.summary.waiting_for.is_some()
    }
}

/// Which runs a list is to show: those that fit everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The contract's word.
    pub status: Option<String>,
    /// The repository.
    pub repo: Option<String>,
    /// Whether a person has to say something.
    pub waiting: Option<bool>,
    /// Whether they ended.
    pub ended: Option<bool>,
    /// Their last event happened at this time or later.
    pub since: Option<Timestamp>,
    /// Those that come after this run in the list; without such a run, none.
    pub behind: Option<RunId>,
}

impl Wanted {
    fn fits(&self, row: &RunRow) -> bool {
        let summary = &row.summary;
        self.status.as_ref().is_none_or(|status| summary.status == *status)
            && self.repo.as_ref().is_none_or(|repo| summary.repo.as_ref() == Some(repo))
            && self.waiting.is_none_or(|waiting| summary.waiting_for.is_some() == waiting)
            && self.ended.is_none_or(|ended| summary.ended == ended)
            && self.since.is_none_or(|since| row.updated_at >= since)
    }
}

/// How many runs there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// By the contract's word; words that no run has are missing.
    pub by_status: BTreeMap<String, u64>,
    /// Runs that have not ended.
    pub open: u64,
    /// Runs that wait for a person.
    pub waiting: u64,
}

/// What became of an acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// The run is new.
    New,
    /// A run with the same key exists; nothing was written.
    Existing(RunId),
}

/// A request that another process left for the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Posted {
    /// Its number, for the verdict.
    pub id: i64,
    /// The run.
    pub run: RunId,
    /// What.
    pub request: Request,
}

/// The engine's answer to a posted request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was recorded.
    Recorded,
    /// It was refused.
    Refused(Refused),
}

/// Where events are kept. An append is atomic and durable when the call returns.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Makes a run of its first event, unless its key is taken.
    async fn accept(&self, first: Event, summary: Summary) -> Result<Acceptance, JournalError>;
    /// Adds events; they must follow the last one without a gap.
    async fn append(&self, run: RunId, events: Vec<Event>, summary: Summary) -> Result<(), JournalError>;
    /// A run's events with a number above `after`, in order; empty for an unknown run.
    async fn events(&self, run: RunId, after: u64) -> Result<Vec<Event>, JournalError>;
    /// The newest runs first, at most `limit`.
    async fn runs(&self, limit: usize) -> Result<Vec<RunRow>, JournalError>;
    /// The newest runs first that fit, at most `limit`. What it costs grows with the answer, not with the runs there are.
    async fn list(&self, wanted: Wanted, limit: usize) -> Result<Vec<RunRow>, JournalError>;
    /// How many runs fit.
    async fn count(&self, wanted: Wanted) -> Result<u64, JournalError>;
    /// How many runs there are, by how they stand.
    async fn census(&self) -> Result<Census, JournalError>;
    /// Runs that have not ended, oldest first.
    async fn open_runs(&self) -> Result<Vec<RunId>, JournalError>;
    /// The same, with what lists show of them.
    async fn open_rows(&self) -> Result<Vec<RunRow>, JournalError>;
    /// What lists show of one run; `None` for an unknown one.
    async fn row(&self, run: RunId) -> Result<Option<RunRow>, JournalError>;
    /// The runs whose id begins with `text` or whose short id begins with it, newest first, at most 5.
    async fn find(&self, text: &str) -> Result<Vec<RunId>, JournalError>;
    /// Stores bytes; the answer is `sha256:…`, the same for the same bytes.
    async fn put_artifact(&self, bytes: Vec<u8>) -> Result<String, JournalError>;
    /// Stored bytes.
    async fn artifact(&self, hash: &str) -> Result<Vec<u8>, JournalError>;
    /// Leaves a request for the engine that owns the home.
    async fn post(&self, run: RunId, request: Request, at: Timestamp) -> Result<i64, JournalError>;
    /// Requests without a verdict, in the order in which they came.
    async fn posted(&self) -> Result<Vec<Posted>, JournalError>;
    /// Something that is different once another process may have written; `None` where nobody can tell. It costs next to
    /// nothing, and may, rarely, miss a write for a moment.
    fn stamp(&self) -> Option<(u64, SystemTime)> {
        None
    }
    /// Tells when somebody writes, in this process or another; `None` where the system does not. To be called within a
    /// runtime.
    fn notices(&self) -> Option<Notices> {
        None
    }
    /// Gives a posted request its verdict.
    async fn judge(&self, id: i64, verdict: Verdict) -> Result<(), JournalError>;
    /// The verdict, once there is one.
    async fn verdict(&self, id: i64) -> Result<Option<Verdict>, JournalError>;
    /// Events of all runs behind a position, in the one order in which they were recorded, at most `limit`. The order never
    /// changes and positions are never given twice, so that a reader who keeps the last position misses nothing.
    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<(u64, RunId, Event)>, JournalError>;
    /// The position of the last event, or 0: where a reader begins who is not interested in the past.
    async fn feed_end(&self) -> Result<u64, JournalError>;
    /// Keeps small values for one user of the journal (a channel), or drops them where the value is `None`: all or nothing,
    /// and durable when the call returns.
    async fn keep(&self, scope: &str, changes: Vec<(String, Option<Value>)>) -> Result<(), JournalError>;
    /// A kept value.
    async fn kept(&self, scope: &str, key: &str) -> Result<Option<Value>, JournalError>;
    /// Kept values whose key begins with `prefix`, in the order of their keys.
    async fn kept_with(&self, scope: &str, prefix: &str) -> Result<Vec<(String, Value)>, JournalError>;
}

/// Why the journal cannot do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It was written by a newer program.
    #[error("the journal {path} has format {found}; this program knows formats up to {known}")]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// It is not a journal of ours.
    #[error("{path} is a database of another program")]
    Foreign {
        /// The file.
        path: String,
    },
    /// Its content is not what was written.
    #[error("the journal {path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        why: String,
    },
    /// It was there once and is gone.
    #[error("the journal {path} is gone, and this home had one")]
    Gone {
        /// The file.
        path: String,
    },
    /// There is no room.
    #[error("the journal {path} cannot grow: {why}")]
    Full {
        /// The file.
        path: String,
        /// The system's words.
        why: String,
    },
    /// Another process holds it.
    #[error("the journal {path} is held by another process")]
    Busy {
        /// The file.
        path: String,
    },
    /// Somebody else wrote to the run.
    #[error("event {seq} of run {run} does not follow the last one: another engine wrote to this run")]
    Conflict {
        /// The run.
        run: RunId,
        /// The number that did not fit.
        seq: u64,
    },
    /// An event or artifact is too large.
    #[error("{what} of {bytes} bytes is too large for the journal")]
    TooLarge {
        /// Event or artifact.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// An artifact that is not there.
    #[error("artifact {0} is not in the journal")]
    NoArtifact(String),
    /// Anything else.
    #[error("the journal {path} failed: {why}")]
    Other {
        /// The file.
        path: String,
        /// The library's words.
        why: String,
    },
}

impl JournalError {
    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Newer { .. } => "use the newer devo, or another home (`--home`)".to_owned(),
            Self::Foreign { .. } => "move that file away, or use another home (`--home`)".to_owned(),
            Self::Damaged { path, .. } => {
                format!(
                    "keep a copy of {path}; `sqlite3 {path} .recover` saves what can be read; devo never replaces it"
                )
            }
            Self::Gone { path } => {
                format!(
                    "put {path} back from a copy; to begin anew without the old runs, remove the file .journal beside it"
                )
            }
            Self::Full { .. } => {
                "make room on that disk; nothing recorded is lost, `devo resume RUN` goes on".to_owned()
            }
            Self::Busy { .. } => "wait for the other process, or see who it is with `fuser`".to_owned(),
            Self::Conflict { .. } => "run one devo per home".to_owned(),
            Self::TooLarge { .. } => format!(
                "make it smaller: an event takes {} KiB at most, a file {} MiB",
                EVENT_MAX / 1024,
                ARTIFACT_MAX / (1024 * 1024)
            ),
            Self::NoArtifact(_) | Self::Other { .. } => return None,
        })
    }

    /// As a stored failure.
    pub fn to_failure(&self) -> Failure {
        let failure = Failure::terminal("journal", self.to_string());
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod suite {
    //! What every journal must do; each implementation runs all of it.

    use super::*;
    use crate::core::event::{EventBody, RunLimits, RunSpec, Who};
    use crate::core::request::Signal;

    pub fn who() -> Who {
        Who { by: "ana".to_owned(), channel: "cli".to_owned() }
    }

    pub fn run(n: u32) -> RunId {
        format!("0193b2c0-7e1f-7abc-8def-0000{n:08x}").parse().unwrap()
    }

    pub fn first(id: RunId, key: Option<&str>) -> Event {
        let spec = RunSpec {
            task_id: id,
            pipeline: "p".to_owned(),
            pipeline_text: String::new(),
            pipeline_hash: "sha256:0".to_owned(),
            repo: None,
            base: None,
            task: "t".to_owned(),
            inputs: serde_json::Map::new(),
            key: key.map(str::to_owned),
            notify: vec![],
            who: who(),
            graph: vec![],
            limits: RunLimits { usd: None, tokens: None, wall_ms: None, parallel: 1 },
            cassette: None,
            sandbox: "host".to_owned(),
        };
        Event { seq: 1, at: Timestamp(1_000), body: EventBody::Accepted(Box::new(spec)) }
    }

    pub fn event(seq: u64) -> Event {
        Event { seq, at: Timestamp(1_000 + seq as i64), body: EventBody::AbortRequested { who: who() } }
    }

    pub fn summary(status: &str) -> Summary {
        Summary {
            status: status.to_owned(),
            pipeline: "p".to_owned(),
            repo: None,
            task: "t".to_owned(),
            waiting_for: None,
            ended: status == "COMPLETED",
        }
    }

    pub async fn all(journal: &dyn Journal) {
        appends(journal).await;
        keys(journal).await;
        artifacts(journal).await;
        requests(journal).await;
        lists(journal).await;
        wishes(journal).await;
        feeds(journal).await;
        keeps(journal).await;
    }

    async fn appends(journal: &dyn Journal) {
        let id = run(1);
        assert_eq!(journal.accept(first(id, None), summary("EXECUTING")).await, Ok(Acceptance::New));
        journal.append(id, vec![event(2), event(3)], summary("EXECUTING")).await.unwrap();
        let gap = journal.append(id, vec![event(5)], summary("EXECUTING")).await;
        assert_eq!(gap, Err(JournalError::Conflict { run: id, seq: 5 }));
        let twice = journal.append(id, vec![event(4), event(3)], summary("EXECUTING")).await;
        assert!(twice.is_err(), "a batch that does not fit is refused whole");
        let stored = journal.events(id, 0).await.unwrap();
        assert_eq!(stored, vec![first(id, None), event(2), event(3)]);
        assert_eq!(journal.events(id, 2).await.unwrap(), vec![event(3)]);
        assert!(journal.append(run(99), vec![event(1)], summary("EXECUTING")).await.is_err(), "unknown runs");
        let huge = EventBody::StepSkipped {
            step: crate::core::id::StepId::new("a").unwrap(),
            reason: "x".repeat(EVENT_MAX + 1),
        };
        let huge = Event { seq: 4, at: Timestamp(9_000), body: huge };
        assert!(matches!(
            journal.append(id, vec![huge], summary("EXECUTING")).await,
            Err(JournalError::TooLarge { .. })
        ));
    }

    async fn keys(journal: &dyn Journal) {
        assert_eq!(journal.accept(first(run(2), Some("k")), summary("EXECUTING")).await, Ok(Acceptance::New));
        let again = journal.accept(first(run(3), Some("k")), summary("EXECUTING")).await;
        assert_eq!(again, Ok(Acceptance::Existing(run(2))));
        assert!(journal.events(run(3), 0).await.unwrap().is_empty());
        let same_id = journal.accept(first(run(2), None), summary("EXECUTING")).await;
        assert_eq!(same_id, Ok(Acceptance::Existing(run(2))), "an id is accepted once");
    }

    async fn artifacts(journal: &dyn Journal) {
        let hash = journal.put_artifact(b"\x00\xffbytes".to_vec()).await.unwrap();
        assert_eq!(journal.put_artifact(b"\x00\xffbytes".to_vec()).await.unwrap(), hash);
        assert_eq!(journal.artifact(&hash).await.unwrap(), b"\x00\xffbytes");
        assert_eq!(journal.artifact("sha256:no").await, Err(JournalError::NoArtifact("sha256:no".to_owned())));
    }

    async fn requests(journal: &dyn Journal) {
        let request = Request { signal: Signal::Abort, who: who() };
        let one = journal.post(run(1), request.clone(), Timestamp(5)).await.unwrap();
        let two = journal.post(run(1), request.clone(), Timestamp(6)).await.unwrap();
        let posted = journal.posted().await.unwrap();
        assert_eq!(posted.iter().map(|p| p.id).collect::<Vec<_>>(), [one, two]);
        assert_eq!(posted[0].request, request);
        assert_eq!(journal.verdict(one).await.unwrap(), None);
        journal.judge(one, Verdict::Recorded).await.unwrap();
        assert_eq!(journal.verdict(one).await.unwrap(), Some(Verdict::Recorded));
        assert_eq!(journal.posted().await.unwrap().len(), 1);
        journal.judge(two, Verdict::Refused(Refused { code: "x".into(), message: "y".into() })).await.unwrap();
        assert!(journal.posted().await.unwrap().is_empty());
    }

    async fn lists(journal: &dyn Journal) {
        journal.append(run(1), vec![event(4)], summary("COMPLETED")).await.unwrap();
        let rows = journal.runs(10).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [run(2), run(1)]);
        assert_eq!(rows[1].summary.status, "COMPLETED");
        assert_eq!(rows[1].updated_at, Timestamp(1_004));
        assert_eq!(journal.runs(1).await.unwrap().len(), 1);
        assert_eq!(journal.open_runs().await.unwrap(), [run(2)]);
        assert_eq!(journal.open_rows().await.unwrap(), rows[..1]);
        assert_eq!(journal.row(run(1)).await.unwrap(), Some(rows[1].clone()));
        assert_eq!(journal.row(run(99)).await.unwrap(), None);
        assert_eq!(journal.find("0193b2c0").await.unwrap().len(), 2);
        assert_eq!(journal.find("00000001").await.unwrap(), [run(1)]);
        assert!(journal.find("zz").await.unwrap().is_empty());
        assert!(journal.find("%").await.unwrap().is_empty(), "patterns are text");
    }

    async fn wishes(journal: &dyn Journal) {
        let ids = |rows: Vec<RunRow>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        let list = |wanted: Wanted, limit| async move { ids(journal.list(wanted, limit).await.unwrap()) };
        let is = |status: &str| Wanted { status: Some(status.to_owned()), ..Wanted::default() };
        let in_repo = |repo: &str| Wanted { repo: Some(repo.to_owned()), ..Wanted::default() };
        // What `lists` left.
        for n in 1..=2 {
            assert_eq!(journal.row(run(n)).await.unwrap().unwrap().summary.ended, n == 1);
        }
        for n in 11..=14 {
            let Event { body: EventBody::Accepted(mut spec), .. } = first(run(n), None) else { unreachable!() };
            spec.repo = (n % 2 == 0).then(|| "even".to_owned());
            let summary = Summary { repo: spec.repo.clone(), ..summary("EXECUTING") };
            // Two at a time: where the times are the same, the ids decide.
            let at = Timestamp(2_000 + i64::from(n / 2));
            let first = Event { seq: 1, at, body: EventBody::Accepted(spec) };
            journal.accept(first, summary.clone()).await.unwrap();
            let asks = (n == 12).then(|| "approval".to_owned());
            let status = if n == 12 { "PLANNED" } else { "EXECUTING" };
            let summary = Summary { waiting_for: asks, status: status.to_owned(), ..summary };
            journal.append(run(n), vec![Event { at: Timestamp(3_000), ..event(2) }], summary).await.unwrap();
        }
        let all = [14, 13, 12, 11, 2, 1].map(run);
        // Those two are of one moment; run 12 and 13 too.
        assert_eq!(list(Wanted::default(), 10).await, all);
        assert_eq!(list(Wanted::default(), 2).await, all[..2]);
        for (at, one) in all.iter().enumerate() {
            let rest = Wanted { behind: Some(*one), ..Wanted::default() };
            assert_eq!(list(rest, 10).await, all[at + 1..], "a page goes on behind the last one");
        }
        assert!(list(Wanted { behind: Some(run(99)), ..Wanted::default() }, 10).await.is_empty());
        assert_eq!(list(is("EXECUTING"), 10).await, [14, 13, 11, 2].map(run));
        assert_eq!(list(Wanted { behind: Some(run(13)), ..is("EXECUTING") }, 1).await, [run(11)]);
        assert_eq!(list(in_repo("even"), 10).await, [14, 12].map(run));
        assert_eq!(list(Wanted { repo: Some("even".to_owned()), ..is("PLANNED") }, 10).await, [run(12)]);
        assert!(list(in_repo("' OR 1"), 10).await.is_empty());
        assert_eq!(list(Wanted { waiting: Some(true), ..Wanted::default() }, 10).await, [run(12)]);
        let running = Wanted { waiting: Some(false), ended: Some(false), ..Wanted::default() };
        assert_eq!(list(running.clone(), 10).await, [14, 13, 11, 2].map(run));
        assert_eq!(journal.count(running).await.unwrap(), 4);
        assert_eq!(list(Wanted { ended: Some(true), ..Wanted::default() }, 10).await, [run(1)]);
        assert_eq!(journal.count(Wanted { since: Some(Timestamp(3_000)), ..Wanted::default() }).await.unwrap(), 4);
        assert_eq!(journal.count(Wanted { since: Some(Timestamp(3_001)), ..Wanted::default() }).await.unwrap(), 0);
        let by_status = [("COMPLETED", 1), ("EXECUTING", 4), ("PLANNED", 1)];
        let by_status = by_status.map(|(status, count)| (status.to_owned(), count)).into();
        assert_eq!(journal.census().await.unwrap(), Census { by_status, open: 5, waiting: 1 });
        // They are over for what follows.
        for n in 11..=14 {
            journal.append(run(n), vec![event(3)], summary("COMPLETED")).await.unwrap();
        }
        let census = journal.census().await.unwrap();
        assert_eq!((census.by_status["COMPLETED"], census.open, census.waiting), (5, 1, 0));
    }

    async fn feeds(journal: &dyn Journal) {
        let all = journal.feed(0, 100).await.unwrap();
        let order: Vec<_> = all.iter().map(|(_, run, event)| (*run, event.seq)).collect();
        let began = [(run(1), 1), (run(1), 2), (run(1), 3), (run(2), 1), (run(1), 4)];
        assert_eq!(order[..5], began, "as they were recorded");
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(all[0].2, first(run(1), None));
        let rest = journal.feed(all[2].0, 1).await.unwrap();
        assert_eq!(rest, all[3..4]);
        let end = journal.feed_end().await.unwrap();
        assert_eq!(end, all.last().unwrap().0);
        assert!(journal.feed(end, 100).await.unwrap().is_empty());
        journal.append(run(2), vec![event(2)], summary("EXECUTING")).await.unwrap();
        let more = journal.feed(end, 100).await.unwrap();
        assert_eq!((more.len(), more[0].1, more[0].2.seq), (1, run(2), 2));
        assert!(more[0].0 > end);
    }

    async fn keeps(journal: &dyn Journal) {
        let value = |n: u64| Some(Value::from(n));
        let pairs = |pairs: &[(&str, Option<Value>)]| -> Vec<(String, Option<Value>)> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
        };
        let first = pairs(&[("cursor", value(1)), ("sent/a%", value(2)), ("sent/b", value(3)), ("sent", value(4))]);
        journal.keep("one", first).await.unwrap();
        journal.keep("two", pairs(&[("cursor", value(9))])).await.unwrap();
        assert_eq!(journal.kept("one", "cursor").await.unwrap(), value(1));
        assert_eq!(journal.kept("two", "cursor").await.unwrap(), value(9), "scopes do not see each other");
        assert_eq!(journal.kept("two", "sent").await.unwrap(), None);
        let sent = journal.kept_with("one", "sent/").await.unwrap();
        assert_eq!(sent, [("sent/a%".to_owned(), Value::from(2)), ("sent/b".to_owned(), Value::from(3))]);
        assert_eq!(journal.kept_with("one", "").await.unwrap().len(), 4);
        assert!(journal.kept_with("one", "sent/_").await.unwrap().is_empty(), "patterns are text");
        journal.keep("one", pairs(&[("cursor", value(5)), ("sent/b", None), ("none", None)])).await.unwrap();
        assert_eq!(journal.kept("one", "cursor").await.unwrap(), value(5));
        assert_eq!(journal.kept_with("one", "sent/").await.unwrap().len(), 1);
        let large = Some(Value::from("x".repeat(KEPT_MAX)));
        let half = journal.keep("one", pairs(&[("cursor", value(6)), ("large", large)])).await;
        assert!(matches!(half, Err(JournalError::TooLarge { .. })));
        assert_eq!(journal.kept("one", "cursor").await.unwrap(), value(5), "all or nothing");
    }
}
