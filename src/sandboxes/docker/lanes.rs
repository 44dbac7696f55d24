//! The containers of a run: one per workspace and kind of network, kept warm between commands, one command at a time.
//!
//! Knows nothing of what a command is.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::super::Limits;
use super::super::protected::Cover;
use super::super::proxy::Proxy;
use super::container::Container;
use super::wire::{Order, Told};

/// Commands of one run side by side; further ones wait.
const MOST_BUSY: usize = 8;
/// Containers of one run that wait for a command.
const MOST_IDLE: usize = 4;
/// After a kill the first process reports within milliseconds; this is for a machine on its knees.
pub(super) const REPORT_WITHIN: Duration = Duration::from_secs(10);

/// What two commands must agree on to share a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub workspace: PathBuf,
    /// Device and inode: the folder of that name may be another one by now. A container holds on to its own, so the
    /// number is not given to another folder while it matters.
    pub folder: (u64, u64),
    pub owner: (u32, u32),
    /// The daemon's word: `none`, `bridge`, or the name of a network with services.
    pub network: String,
    /// Whether the way to the world is there beside a network that has none.
    pub outside: bool,
    /// Whether it has a proxy of its own.
    pub proxied: bool,
    /// What services it was made for; empty where there are none.
    pub scope: String,
    /// What cannot be changed in the workspace.
    pub covers: Vec<Cover>,
    pub limits: Limits,
}

/// All containers of a run.
#[derive(Debug)]
pub(super) struct Lanes {
    idle: Mutex<Idle>,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Idle {
    containers: Vec<(Key, Container)>,
    closed: bool,
}

/// A container in use. Dropped in the middle of a command it ends that, and is used again only if it could.
pub(super) struct Lane {
    lanes: Arc<Lanes>,
    key: Key,
    container: Option<Container>,
    running: bool,
    _room: OwnedSemaphorePermit,
}

impl Lanes {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), room: Arc::new(Semaphore::new(MOST_BUSY)) })
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        // What it guards is never half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for one more command.
    pub async fn room(&self) -> OwnedSemaphorePermit {
        self.room.clone().acquire_owned().await.expect("this semaphore is never closed")
    }

    /// A container that waits for such a command, if there is one. Those of a folder that was replaced are let go.
    pub fn warm(&self, key: &Key) -> Option<Container> {
        let mut idle = self.idle();
        let stale =
            |other: &Key| other.workspace == key.workspace && (other.folder, other.owner) != (key.folder, key.owner);
        idle.containers.retain(|(other, _)| !stale(other));
        loop {
            let at = idle.containers.iter().rposition(|(other, _)| other == key)?;
            let (_, mut container) = idle.containers.remove(at);
            if !container.is_gone() {
                return Some(container);
            }
        }
    }

    /// A lane for one command.
    pub fn lane(self: &Arc<Self>, key: Key, container: Container, room: OwnedSemaphorePermit) -> Lane {
        Lane { lanes: self.clone(), key, container: Some(container), running: false, _room: room }
    }

    fn keep(&self, key: Key, container: Container) {
        let mut idle = self.idle();
        if idle.closed {
            return;
        }
        idle.containers.push((key, container));
        if idle.containers.len() > MOST_IDLE {
            idle.containers.remove(0);
        }
    }

    /// Removes the waiting containers that were made for the services of a scope.
    pub async fn release(&self, scope: &str) {
        let gone: Vec<Container> = {
            let mut idle = self.idle();
            let (gone, kept) =
                std::mem::take(&mut idle.containers).into_iter().partition(|(key, _)| key.scope == scope);
            idle.containers = kept;
            gone.into_iter().map(|(_, container)| container).collect()
        };
        remove_all(gone).await;
    }

    /// Removes all containers; those in use go when their command ends.
    pub async fn close(&self) {
        let gone = {
            let mut idle = self.idle();
            idle.closed = true;
            std::mem::take(&mut idle.containers)
        };
        remove_all(gone.into_iter().map(|(_, container)| container)).await;
    }
}

async fn remove_all(containers: impl IntoIterator<Item = Container>) {
    let removals = containers.into_iter().map(Container::remove);
    for result in futures_util::future::join_all(removals).await {
        if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }
}

impl Lane {
    /// The container, with a command of ours in it until [`Self::ended`].
    pub fn container(&mut self) -> &mut Container {
        self.running = true;
        self.container.as_mut().expect("it is taken only when the lane ends")
    }

    /// Its proxy, if it was made with one.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.container.as_ref().and_then(Container::proxy)
    }

    /// The command is over and nobody lives: the container may be used again.
    pub fn ended(mut self) {
        if let Some(container) = self.container.take() {
            self.lanes.keep(self.key.clone(), container);
        }
    }

    /// Takes the container out of use.
    pub fn give_up(mut self) -> Container {
        self.container.take().expect("it is taken only when the lane ends")
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let Some(mut container) = self.container.take() else { return };
        if !self.running {
            return self.lanes.keep(self.key.clone(), container);
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (lanes, key) = (self.lanes.clone(), self.key.clone());
        runtime.spawn(async move {
            if settle(&mut container).await {
                lanes.keep(key, container);
            } else if let Err(error) = container.remove().await {
                tracing::warn!("{error}");
            }
        });
    }
}

/// Ends the command that runs; whether the container can be used again.
async fn settle(container: &mut Container) -> bool {
    if container.order(&Order::Kill).await.is_err() {
        return false;
    }
    let report = async {
        loop {
            match container.next().await {
                Some(Told::Ended(report)) => return report.clean,
                Some(_) => {}
                None => return false,
            }
        }
    };
    timeout(REPORT_WITHIN, report).await.unwrap_or(false)
}
