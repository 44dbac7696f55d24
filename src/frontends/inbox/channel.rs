//! The inbox as a channel of the daemon: takes files in, in small bites, and answers each of them.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::arrivals::Arrivals;
use super::{Claimed, Inbox, submitted_id};
use crate::app::{App, Desk, TaskRequest, TaskSource};
use crate::core::event::{CassetteUse, Who};
use crate::core::id::RunId;
use crate::error::{Error, Exit};
use crate::frontends::Channel;
use crate::secrets::printable;

/// The channel's word.
pub const NAME: &str = "inbox";
/// Files that are claimed before the first of them is answered.
const BITE: usize = 64;
/// Files that are checked and recorded side by side: they share the journal's transactions.
const SIDE_BY_SIDE: usize = 16;
/// Before what failed by the machine's fault (a full disk) is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// The journal's scope of what `devo` leaves beside a submitted file.
const SCOPE: &str = "submitted";

/// What a command line says of a task that it submits, beyond the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Aside {
    /// Who submits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Who>,
    /// A cassette for the model calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassette: Option<CassetteUse>,
    /// The run that has the task's key already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

impl Aside {
    /// What was left for the submitted task of this id.
    pub async fn of(app: &App, id: RunId) -> Result<Option<Self>, Error> {
        let kept = app.journal.kept(SCOPE, &id.to_string()).await?;
        // One that a newer version wrote is as good as none.
        Ok(kept.and_then(|value| serde_json::from_value(value).ok()))
    }

    /// Leaves it, or takes it away.
    pub async fn keep(app: &App, id: RunId, aside: Option<&Self>) -> Result<(), Error> {
        let value = aside.map(|aside| serde_json::to_value(aside).expect("an aside is plain data"));
        Ok(app.journal.keep(SCOPE, vec![(id.to_string(), value)]).await?)
    }
}

struct InboxChannel;

/// The inbox is always served.
pub fn open(_: &App) -> Result<Option<Box<dyn Channel>>, Error> {
    Ok(Some(Box::new(InboxChannel)))
}

#[async_trait]
impl Channel for InboxChannel {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn serve(&self, desk: Arc<Desk>) -> Result<(), Error> {
        let stopping = desk.stopping();
        let inbox = desk.app.inbox.clone();
        let mut arrivals = Arrivals::of(&inbox.folder, true);
        while !stopping.is_cancelled() {
            arrivals = match take_all(&desk, &inbox, arrivals).await {
                (arrivals, Ok(())) => {
                    tokio::select! {
                        () = stopping.cancelled() => {}
                        () = arrivals.wait() => {}
                    }
                    arrivals
                }
                (arrivals, Err(error)) => {
                    tracing::warn!(error = %error.to_text().trim_end(), "the inbox waits");
                    tokio::select! {
                        () = stopping.cancelled() => {}
                        () = tokio::time::sleep(AGAIN) => {}
                    }
                    arrivals
                }
            };
        }
        Ok(())
    }
}

/// Takes in everything that is there: first what was claimed and not answered, then what is complete.
async fn take_all(desk: &Arc<Desk>, inbox: &Inbox, mut arrivals: Arrivals) -> (Arrivals, Result<(), Error>) {
    let looked = {
        let inbox = inbox.clone();
        tokio::task::spawn_blocking(move || {
            let made = inbox.make_folders();
            let left = inbox.claimed();
            // While something is left, the machine has trouble: nothing more is claimed.
            let found = if left.is_empty() { arrivals.look() } else { super::arrivals::Found::default() };
            (arrivals, made, left, found)
        })
    };
    let (mut arrivals, made, left, mut found) = looked.await.expect("looking at a folder does not panic");
    if let Err(error) = made {
        let message = format!("cannot make the folders of {}", inbox.folder.display());
        return (arrivals, Err(Error::machine("inbox", message, &error).hint("`devo doctor` looks at the folder")));
    }
    if !left.is_empty() {
        for bite in left.chunks(BITE) {
            if let Err(error) = answer(desk, inbox, bite.to_vec(), true).await {
                return (arrivals, Err(error));
            }
        }
        let again = tokio::task::spawn_blocking(move || {
            let found = arrivals.look();
            (arrivals, found)
        });
        (arrivals, found) = again.await.expect("looking at a folder does not panic");
    }
    for (name, why) in std::mem::take(&mut found.odd) {
        if let Err(error) = turn_away(inbox, &name, why) {
            return (arrivals, Err(error));
        }
    }
    for names in found.ready.chunks(BITE) {
        if desk.stopping().is_cancelled() {
            break;
        }
        if let Err(error) = desk.room() {
            return (arrivals, Err(error));
        }
        let mut claimed = Vec::new();
        for name in names.iter().filter(|name| !arrivals.is_touched(name)) {
            match inbox.take(name, RunId(uuid::Uuid::now_v7())) {
                Ok(taken) => claimed.push(taken),
                // Someone took it away, or its run is being taken in: the next look tells.
                Err(error)
                    if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::AlreadyExists) => {}
                Err(error) => {
                    let message = format!("cannot take {} out of the inbox", shown(name));
                    return (arrivals, Err(Error::machine("inbox", message, &error)));
                }
            }
        }
        if let Err(error) = answer(desk, inbox, claimed, false).await {
            return (arrivals, Err(error));
        }
    }
    (arrivals, Ok(()))
}

/// Answers claimed files; the first failure of the machine comes back when all were tried.
async fn answer(desk: &Arc<Desk>, inbox: &Inbox, claimed: Vec<Claimed>, left: bool) -> Result<(), Error> {
    let answers = claimed.into_iter().map(|claimed| answer_one(desk, inbox, claimed, left));
    let answers: Vec<Result<(), Error>> =
        futures_util::stream::iter(answers).buffer_unordered(SIDE_BY_SIDE).collect().await;
    answers.into_iter().collect()
}

async fn answer_one(desk: &Arc<Desk>, inbox: &Inbox, claimed: Claimed, left: bool) -> Result<(), Error> {
    let file = shown(&claimed.name);
    // Whether it is a run already, as after a crash, counts more than whether it could be accepted today.
    let known = left || submitted_id(&claimed.name).is_some();
    if known && desk.app.journal.find(&claimed.id.to_string()).await?.contains(&claimed.id) {
        desk.drive(claimed.id).await?;
        return inbox.done(&claimed);
    }
    let aside = if submitted_id(&claimed.name).is_some() { Aside::of(&desk.app, claimed.id).await? } else { None };
    let submitted = match claimed.read() {
        Ok(text) => {
            let source = TaskSource::File { name: file.clone(), text };
            let (who, cassette) = aside.clone().map_or((None, None), |aside| (aside.who, aside.cassette));
            let who = who.unwrap_or_else(|| owner(&claimed));
            desk.submit(TaskRequest { source, id: Some(claimed.id), cassette, key: None, who }).await
        }
        Err(error) => Err(error),
    };
    match submitted {
        Ok(submitted) => {
            tracing::info!(run = %submitted.run, %file, new = submitted.new, "accepted");
            let other = (submitted.run != claimed.id).then(|| Aside { run: Some(submitted.run), ..Aside::default() });
            if aside.is_some() || (other.is_some() && submitted_id(&claimed.name).is_some()) {
                Aside::keep(&desk.app, claimed.id, other.as_ref()).await?;
            }
            inbox.done(&claimed)
        }
        Err(error) if is_verdict(&error) => {
            tracing::warn!(%file, error = %error.message.lines().next().unwrap_or_default(), "rejected");
            if aside.is_some() {
                Aside::keep(&desk.app, claimed.id, None).await?;
            }
            inbox.reject(&claimed, &error.to_text()).map(|_| ())
        }
        Err(error) => Err(error),
    }
}

/// Whether an error speaks of the task; otherwise the machine failed, and the task stays.
fn is_verdict(error: &Error) -> bool {
    error.exit == Exit::Refused && error.code != "journal"
}

/// Puts away what can never be a task.
fn turn_away(inbox: &Inbox, name: &OsString, why: &str) -> Result<(), Error> {
    let id = RunId(uuid::Uuid::now_v7());
    // A name that is too long for a suffix goes by another.
    let path = inbox.folder.join("claimed").join(format!("{id}.yaml"));
    if let Err(error) = super::rename_new(&inbox.folder.join(name), &path) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Ok(());
        }
        return Err(Error::machine("inbox", format!("cannot take {} out of the inbox", shown(name)), &error));
    }
    let kept = if name.len() > super::NAME_MAX { OsString::from(format!("{id}.yaml")) } else { name.clone() };
    let text = Error::refused("not_a_task", format!("{} cannot be a task: {why}", shown(name)))
        .hint("drop a regular file that ends in .yaml");
    tracing::warn!(file = %shown(name), "rejected: {why}");
    inbox.reject(&Claimed { id, name: kept, path }, &text.to_text()).map(|_| ())
}

/// A foreign name for people.
fn shown(name: &OsString) -> String {
    printable(&name.to_string_lossy())
}

/// Who dropped a file: its owner.
fn owner(claimed: &Claimed) -> Who {
    let uid = claimed.path.symlink_metadata().map(|meta| meta.uid()).ok();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = uid.and_then(|uid| name_of(&users, uid));
    let by = named.unwrap_or_else(|| uid.map_or_else(|| "nobody".to_owned(), |uid| format!("uid {uid}")));
    Who { by, channel: NAME.to_owned() }
}

fn name_of(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| printable(name).chars().take(64).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_a_name_or_a_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nana:x:1000:1000::/home/ana:/bin/sh\nbroken\n";
        assert_eq!(name_of(users, 1000).as_deref(), Some("ana"));
        assert_eq!(name_of(users, 7), None);
    }

    #[test]
    fn trouble_of_the_machine_rejects_nothing() {
        let full = crate::journal::JournalError::Full { path: "state.db".into(), why: "no room".into() };
        let busy = crate::journal::JournalError::Busy { path: "state.db".into() };
        assert!(!is_verdict(&full.into()) && !is_verdict(&busy.into()));
        assert!(is_verdict(&Error::refused("unknown_repo", "no")));
    }
}
