//! A journal that forgets: for tests and dry runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    ARTIFACT_MAX, Acceptance, Census, EVENT_MAX, Journal, JournalError, KEPT_MAX, Posted, RunRow, Summary, Verdict,
    Wanted,
};
use crate::core::event::{Event, EventBody};
use crate::core::id::RunId;
use crate::core::plan::sha256;
use crate::core::request::Request;
use crate::core::time::Timestamp;

/// A journal in memory.
#[derive(Default)]
pub struct MemoryJournal {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// In order of acceptance.
    runs: Vec<(RunId, Vec<Event>, Summary)>,
    keys: HashMap<String, RunId>,
    artifacts: HashMap<String, Vec<u8>>,
    requests: Vec<(Posted, Option<Verdict>)>,
    /// Positions count from 1.
    feed: Vec<(RunId, Event)>,
    /// By scope and key.
    kept: BTreeMap<(String, String), Value>,
}

impl MemoryJournal {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().expect("no holder of this lock can panic"))
    }
}

/// Refuses what is too large to store.
pub(super) fn encode(event: &Event) -> Result<String, JournalError> {
    let text = serde_json::to_string(event).expect("an event is plain data");
    if text.len() > EVENT_MAX {
        return Err(JournalError::TooLarge { what: "an event", bytes: text.len() });
    }
    Ok(text)
}

fn row((id, events, summary): &(RunId, Vec<Event>, Summary)) -> RunRow {
    let (first, last) = (&events[0], &events[events.len() - 1]);
    RunRow { id: *id, created_at: first.at, updated_at: last.at, summary: summary.clone() }
}

/// Kept values as JSON; refuses what is too large to keep.
pub(super) fn encode_kept(
    changes: Vec<(String, Option<Value>)>,
) -> Result<Vec<(String, Option<String>)>, JournalError> {
    let encode = |(key, value): (String, Option<Value>)| {
        let text = value.map(|value| value.to_string());
        match text.as_ref().map_or(0, String::len) + key.len() {
            bytes if bytes > KEPT_MAX => Err(JournalError::TooLarge { what: "a kept value", bytes }),
            _ => Ok((key, text)),
        }
    };
    changes.into_iter().map(encode).collect()
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn accept(&self, first: Event, summary: Summary) -> Result<Acceptance, JournalError> {
        encode(&first)?;
        let EventBody::Accepted(spec) = &first.body else {
            return Err(JournalError::Other { path: "memory".to_owned(), why: "not an acceptance".to_owned() });
        };
        let (id, key) = (spec.task_id, spec.key.clone());
        self.with(|inner| {
            if let Some(existing) = key.as_ref().and_then(|key| inner.keys.get(key)) {
                return Ok(Acceptance::Existing(*existing));
            }
            if inner.runs.iter().any(|(known, _, _)| *known == id) {
                return Ok(Acceptance::Existing(id));
            }
            inner.keys.extend(key.map(|key| (key, id)));
            inner.feed.push((id, first.clone()));
            inner.runs.push((id, vec![first], summary));
            Ok(Acceptance::New)
        })
    }

    async fn append(&self, run: RunId, events: Vec<Event>, summary: Summary) -> Result<(), JournalError> {
        for event in &events {
            encode(event)?;
        }
        self.with(|inner| {
            let conflict = |seq| JournalError::Conflict { run, seq };
            let entry = inner.runs.iter_mut().find(|(id, _, _)| *id == run);
            let Some((_, stored, old)) = entry else {
                return Err(conflict(events.first().map_or(0, |event| event.seq)));
            };
            for (event, wanted) in events.iter().zip(stored.len() as u64 + 1..) {
                if event.seq != wanted {
                    return Err(conflict(event.seq));
                }
            }
            stored.extend(events.iter().cloned());
            *old = summary;
            inner.feed.extend(events.into_iter().map(|event| (run, event)));
            Ok(())
        })
    }

    async fn events(&self, run: RunId, after: u64) -> Result<Vec<Event>, JournalError> {
        Ok(self.with(|inner| {
            let found = inner.runs.iter().find(|(id, _, _)| *id == run);
            found.map_or_else(Vec::new, |(_, events, _)| events.iter().filter(|e| e.seq > after).cloned().collect())
        }))
    }

    async fn runs(&self, limit: usize) -> Result<Vec<RunRow>, JournalError> {
        Ok(self.with(|inner| inner.runs.iter().rev().take(limit).map(row).collect()))
    }

    async fn list(&self, wanted: Wanted, limit: usize) -> Result<Vec<RunRow>, JournalError> {
        let mut rows = self.with(|inner| inner.runs.iter().map(row).collect::<Vec<_>>());
        rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));
        if let Some(behind) = wanted.behind {
            let at = rows.iter().position(|row| row.id == behind).map_or(rows.len(), |at| at + 1);
            rows.drain(..at);
        }
        rows.retain(|row| wanted.fits(row));
        rows.truncate(limit);
        Ok(rows)
    }

    async fn count(&self, wanted: Wanted) -> Result<u64, JournalError> {
        Ok(self.list(wanted, usize::MAX).await?.len() as u64)
    }

    async fn census(&self) -> Result<Census, JournalError> {
        let mut census = Census::default();
        for row in self.list(Wanted::default(), usize::MAX).await? {
            census.open += u64::from(!row.summary.ended);
            census.waiting += u64::from(row.summary.waiting_for.is_some());
            *census.by_status.entry(row.summary.status).or_default() += 1;
        }
        Ok(census)
    }

    async fn open_rows(&self) -> Result<Vec<RunRow>, JournalError> {
        Ok(self.with(|inner| inner.runs.iter().filter(|(_, _, s)| !s.ended).map(row).collect()))
    }

    async fn row(&self, run: RunId) -> Result<Option<RunRow>, JournalError> {
        Ok(self.with(|inner| inner.runs.iter().find(|(id, _, _)| *id == run).map(row)))
    }

    async fn open_runs(&self) -> Result<Vec<RunId>, JournalError> {
        Ok(self.with(|inner| inner.runs.iter().filter(|(_, _, s)| !s.ended).map(|(id, _, _)| *id).collect()))
    }

    async fn find(&self, text: &str) -> Result<Vec<RunId>, JournalError> {
        Ok(self.with(|inner| {
            let fits = |id: &RunId| id.to_string().starts_with(text) || id.short().starts_with(text);
            inner.runs.iter().rev().map(|(id, _, _)| *id).filter(fits).take(5).collect()
        }))
    }

    async fn put_artifact(&self, bytes: Vec<u8>) -> Result<String, JournalError> {
        if bytes.len() > ARTIFACT_MAX {
            return Err(JournalError::TooLarge { what: "an artifact", bytes: bytes.len() });
        }
        let hash = sha256(&bytes);
        self.with(|inner| inner.artifacts.insert(hash.clone(), bytes));
        Ok(hash)
    }

    async fn artifact(&self, hash: &str) -> Result<Vec<u8>, JournalError> {
        self.with(|inner| inner.artifacts.get(hash).cloned()).ok_or_else(|| JournalError::NoArtifact(hash.to_owned()))
    }

    async fn post(&self, run: RunId, request: Request, _at: Timestamp) -> Result<i64, JournalError> {
        Ok(self.with(|inner| {
            let id = inner.requests.len() as i64 + 1;
            inner.requests.push((Posted { id, run, request }, None));
            id
        }))
    }

    async fn posted(&self) -> Result<Vec<Posted>, JournalError> {
        Ok(self.with(|inner| inner.requests.iter().filter(|(_, v)| v.is_none()).map(|(p, _)| p.clone()).collect()))
    }

    async fn judge(&self, id: i64, verdict: Verdict) -> Result<(), JournalError> {
        self.with(|inner| {
            if let Some((_, slot)) = inner.requests.iter_mut().find(|(posted, _)| posted.id == id) {
                *slot = Some(verdict);
            }
        });
        Ok(())
    }

    async fn verdict(&self, id: i64) -> Result<Option<Verdict>, JournalError> {
        Ok(self.with(|inner| inner.requests.iter().find(|(p, _)| p.id == id).and_then(|(_, v)| v.clone())))
    }

    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<(u64, RunId, Event)>, JournalError> {
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        Ok(self.with(|inner| {
            let all = (1..).zip(&inner.feed).skip(after).take(limit);
            all.map(|(position, (run, event))| (position, *run, event.clone())).collect()
        }))
    }

    async fn feed_end(&self) -> Result<u64, JournalError> {
        Ok(self.with(|inner| inner.feed.len() as u64))
    }

    async fn keep(&self, scope: &str, changes: Vec<(String, Option<Value>)>) -> Result<(), JournalError> {
        encode_kept(changes.clone())?;
        self.with(|inner| {
            for (key, value) in changes {
                let key = (scope.to_owned(), key);
                match value {
                    Some(value) => inner.kept.insert(key, value),
                    None => inner.kept.remove(&key),
                };
            }
        });
        Ok(())
    }

    async fn kept(&self, scope: &str, key: &str) -> Result<Option<Value>, JournalError> {
        Ok(self.with(|inner| inner.kept.get(&(scope.to_owned(), key.to_owned())).cloned()))
    }

    async fn kept_with(&self, scope: &str, prefix: &str) -> Result<Vec<(String, Value)>, JournalError> {
        Ok(self.with(|inner| {
            let from = inner.kept.range((scope.to_owned(), prefix.to_owned())..);
            let fits = from.take_while(|((of, key), _)| of == scope && key.starts_with(prefix));
            fits.map(|((_, key), value)| (key.clone(), value.clone())).collect()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passes_the_suite() {
        super::super::suite::all(&MemoryJournal::default()).await;
    }
}
