//! Turns of runs: how many work at once, in all and of one repository. Whoever waits is served in the order of arrival, but
//! nobody waits behind a run whose repository has no room.
//!
//! It knows no run; it counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

/// How many runs work at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// In all.
    pub runs: usize,
    /// Of one repository.
    pub per_repo: usize,
}

impl Default for Caps {
    /// No bound.
    fn default() -> Self {
        Self { runs: usize::MAX, per_repo: usize::MAX }
    }
}

/// The turns of one engine.
pub(super) struct Permits {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    caps: Caps,
    working: usize,
    by_repo: BTreeMap<String, usize>,
    waiting: VecDeque<(Option<String>, oneshot::Sender<()>)>,
}

/// A place in the queue; given up when dropped.
pub(super) struct Ticket {
    permits: Arc<Permits>,
    repo: Option<String>,
    granted: oneshot::Receiver<()>,
    /// A permit was made of it.
    used: bool,
}

/// The right to work; given back when dropped.
pub(super) struct Permit {
    permits: Arc<Permits>,
    repo: Option<String>,
}

impl Permits {
    pub fn new(caps: Caps) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::new(Queue { caps, ..Queue::default() }) })
    }

    /// Other caps from now on; who works already goes on.
    pub fn limit(&self, caps: Caps) {
        let mut queue = self.queue();
        queue.caps = caps;
        queue.serve();
    }

    /// Queues up. Where there is room, [`Ticket::now`] has the permit at once.
    pub fn ask(self: &Arc<Self>, repo: Option<&str>) -> Ticket {
        let (sender, granted) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push_back((repo.map(str::to_owned), sender));
        queue.serve();
        Ticket { permits: self.clone(), repo: repo.map(str::to_owned), granted, used: false }
    }

    /// What a run of this repository waits for, in words.
    pub fn why(&self, repo: Option<&str>) -> String {
        let queue = self.queue();
        match repo.filter(|repo| queue.of(repo) >= queue.caps.per_repo) {
            Some(repo) => format!("waits for another run of `{repo}` (limits.per_repo is {})", queue.caps.per_repo),
            None => format!("waits for another run (limits.runs is {})", queue.caps.runs),
        }
    }

    fn give_back(&self, repo: Option<&str>) {
        let mut queue = self.queue();
        queue.working -= 1;
        if let Some(repo) = repo
            && let Some(count) = queue.by_repo.get_mut(repo)
        {
            *count -= 1;
            if *count == 0 {
                queue.by_repo.remove(repo);
            }
        }
        queue.serve();
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock can panic")
    }
}

impl Queue {
    fn of(&self, repo: &str) -> usize {
        self.by_repo.get(repo).copied().unwrap_or(0)
    }

    /// Lets in whoever has room, the first first.
    fn serve(&mut self) {
        let caps = self.caps;
        let mut at = 0;
        while self.working < caps.runs && at < self.waiting.len() {
            let room = self.waiting[at].0.as_deref().is_none_or(|repo| self.of(repo) < caps.per_repo);
            if !room {
                at += 1;
                continue;
            }
            let Some((repo, sender)) = self.waiting.remove(at) else { return };
            // Who has left the queue takes no turn.
            if sender.send(()).is_ok() {
                self.working += 1;
                if let Some(repo) = repo {
                    *self.by_repo.entry(repo).or_default() += 1;
                }
            }
        }
    }
}

impl Ticket {
    /// The permit, if it is this one's turn already.
    pub fn now(&mut self) -> Option<Permit> {
        self.granted.try_recv().ok().map(|()| self.permit())
    }

    /// Waits for its turn. Safe to drop while it waits.
    pub async fn turn(&mut self) -> Permit {
        (&mut self.granted).await.expect("the queue answers every ticket, and lives as long as one");
        self.permit()
    }

    fn permit(&mut self) -> Permit {
        self.used = true;
        Permit { permits: self.permits.clone(), repo: self.repo.clone() }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.granted.close();
        // Its turn came, and nobody took it.
        if !self.used && self.granted.try_recv().is_ok() {
            self.permits.give_back(self.repo.as_deref());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.give_back(self.repo.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(runs: usize, per_repo: usize) -> Arc<Permits> {
        Permits::new(Caps { runs, per_repo })
    }

    #[test]
    fn turns_come_in_order_and_nobody_waits_behind_a_full_repository() {
        let permits = permits(3, 1);
        let shop = permits.ask(Some("shop")).now().expect("there is room");
        let mut second = permits.ask(Some("shop"));
        let mut third = permits.ask(Some("shop"));
        assert!(second.now().is_none());
        assert_eq!(permits.why(Some("shop")), "waits for another run of `shop` (limits.per_repo is 1)");
        let other = permits.ask(Some("other")).now().expect("the queue of `shop` is not its own");
        let none = permits.ask(None).now().expect("a run without a repository counts among all only");
        assert!(permits.ask(None).now().is_none());
        assert_eq!(permits.why(None), "waits for another run (limits.runs is 3)");
        drop(shop);
        assert!(third.now().is_none(), "it came later");
        let shop = second.now().expect("its turn");
        drop(shop);
        let shop = third.now().expect("its turn");
        drop((shop, other, none));
        assert_eq!(permits.queue().working, 0);
        assert!(permits.queue().by_repo.is_empty());
    }

    #[test]
    fn raised_caps_let_in_who_waits() {
        let permits = permits(1, 1);
        let first = permits.ask(Some("shop")).now().expect("there is room");
        let mut second = permits.ask(Some("shop"));
        assert!(second.now().is_none());
        permits.limit(Caps { runs: 2, per_repo: 2 });
        let second = second.now().expect("its turn");
        permits.limit(Caps { runs: 1, per_repo: 1 });
        drop(first);
        assert!(permits.ask(None).now().is_none(), "one works still");
        drop(second);
    }

    #[test]
    fn who_leaves_the_queue_takes_no_turn_and_holds_none() {
        let permits = permits(1, 1);
        let first = permits.ask(None).now().expect("there is room");
        let (gone, granted) = (permits.ask(None), permits.ask(None));
        drop(gone);
        drop(first);
        // It has been let in, and leaves before it looks.
        drop(granted);
        assert!(permits.ask(None).now().is_some());
        assert_eq!(permits.queue().working, 0);
    }
}
