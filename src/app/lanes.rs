//! Whose turn it is to be driven: a lane for each repository, the lanes in rotation, so that a thousand tasks for one do not keep
//! the single one for another waiting. Runs that wait here cost an id, not memory for their steps. It drives nothing.
//!
//! How many runs work at once is the engine's to keep; the lanes hand it a few more than that, because some of them only
//! wait for an outage to end.

use std::collections::{HashMap, VecDeque};

use crate::core::id::RunId;

/// Runs of one lane that the engine holds, as a multiple of those that may work.
const AHEAD: usize = 2;

/// The name of a lane: a repository, or runs without one.
type Repo = Option<String>;

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In its lane, perhaps again after it stood still.
    Waiting { told: Option<String> },
    /// With the engine; wanted once more when it comes back, or when it comes back standing still.
    Driven { lane: Repo, again: bool, asked: bool },
    /// Nothing can be done before a person says something.
    Resting,
    /// It could not be driven; told as this.
    Standing(String),
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<RunId>,
    driven: usize,
}

/// How a run came back from the engine.
#[derive(Debug, PartialEq, Eq)]
pub enum Back {
    /// It ended, or the daemon stops.
    Over,
    /// It waits for a person.
    Resting,
    /// It cannot go on, for this reason.
    Standing(String),
}

/// The lanes of a daemon.
#[derive(Debug)]
pub struct Lanes {
    runs: usize,
    per_repo: usize,
    places: HashMap<RunId, Place>,
    lanes: HashMap<Repo, Lane>,
    /// Lanes with waiting runs, the next one first.
    rotation: VecDeque<Repo>,
    driven: usize,
}

impl Lanes {
    /// Lanes for so many runs at once, in all and of one repository.
    pub fn new(runs: usize, per_repo: usize) -> Self {
        Self { runs, per_repo, places: HashMap::new(), lanes: HashMap::new(), rotation: VecDeque::new(), driven: 0 }
    }

    /// Other limits from now on.
    pub fn limit(&mut self, runs: usize, per_repo: usize) {
        (self.runs, self.per_repo) = (runs, per_repo);
    }

    /// Puts a run into its lane, unless it is there. `soon` puts it first: a person waits for it.
    pub fn add(&mut self, run: RunId, repo: Option<&str>, soon: bool) {
        match self.places.get_mut(&run) {
            Some(Place::Driven { again, .. }) => *again = true,
            Some(Place::Waiting { .. }) if !soon => {}
            before => {
                let lane = repo.map(str::to_owned);
                let waited = matches!(before, Some(Place::Waiting { .. }));
                let told = match before {
                    Some(Place::Standing(why)) => Some(std::mem::take(why)),
                    _ => None,
                };
                let waiting = &mut self.lanes.entry(lane.clone()).or_default().waiting;
                if waited {
                    waiting.retain(|other| *other != run);
                }
                if waiting.is_empty() && !self.rotation.contains(&lane) {
                    self.rotation.push_back(lane);
                }
                if soon {
                    waiting.push_front(run)
                } else {
                    waiting.push_back(run)
                }
                self.places.insert(run, Place::Waiting { told });
            }
        }
    }

    /// A person wants the run to go on: one that stands still, now or when it comes back, is taken up again. The others go on
    /// by themselves, or wait for a word.
    pub fn ask(&mut self, run: RunId, repo: Option<&str>) {
        match self.places.get_mut(&run) {
            Some(Place::Driven { asked, .. }) => *asked = true,
            Some(Place::Resting) => {}
            _ => self.add(run, repo, true),
        }
    }

    /// Whether a run needs to be put in: nobody knows it, it stood still, or it rests although it waits for nobody.
    pub fn lacks(&self, run: RunId, waits: bool) -> bool {
        match self.places.get(&run) {
            None | Some(Place::Standing(_)) => true,
            Some(Place::Resting) => !waits,
            Some(Place::Waiting { .. } | Place::Driven { .. }) => false,
        }
    }

    /// The next run to drive, which counts as driven from now on, with why it stood still before.
    pub fn next(&mut self) -> Option<(RunId, Option<String>)> {
        if self.driven >= AHEAD * self.runs {
            return None;
        }
        for _ in 0..self.rotation.len() {
            let name = self.rotation.pop_front()?;
            let room = AHEAD * if name.is_some() { self.per_repo.min(self.runs) } else { self.runs };
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            if lane.driven >= room {
                self.rotation.push_back(name);
                continue;
            }
            let Some(run) = lane.waiting.pop_front() else { continue };
            lane.driven += 1;
            self.driven += 1;
            if !lane.waiting.is_empty() {
                self.rotation.push_back(name.clone());
            }
            let before = self.places.insert(run, Place::Driven { lane: name, again: false, asked: false });
            let told = if let Some(Place::Waiting { told }) = before { told } else { None };
            return Some((run, told));
        }
        None
    }

    /// Takes a run back.
    pub fn back(&mut self, run: RunId, how: Back) {
        let Some(Place::Driven { lane: name, again, asked }) = self.places.remove(&run) else { return };
        self.driven -= 1;
        if let Some(lane) = self.lanes.get_mut(&name) {
            lane.driven -= 1;
            if lane.driven == 0 && lane.waiting.is_empty() {
                self.lanes.remove(&name);
            }
        }
        match how {
            // Somebody said something meanwhile. What is told of it twice has been told once.
            Back::Standing(why) if again || asked => {
                self.places.insert(run, Place::Standing(why));
                self.add(run, name.as_deref(), true);
            }
            Back::Over | Back::Resting if again => self.add(run, name.as_deref(), true),
            Back::Over => {}
            Back::Resting => {
                self.places.insert(run, Place::Resting);
            }
            Back::Standing(why) => {
                self.places.insert(run, Place::Standing(why));
            }
        }
    }

    /// Runs in the lanes.
    pub fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }

    /// Runs that a person has to say something to.
    pub fn resting(&self) -> usize {
        self.places.values().filter(|place| **place == Place::Resting).count()
    }

    /// Runs with the engine.
    pub fn driven(&self) -> usize {
        self.driven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u128) -> RunId {
        RunId(uuid::Uuid::from_u128(n))
    }

    fn all(lanes: &mut Lanes) -> Vec<u128> {
        std::iter::from_fn(|| lanes.next()).map(|(run, _)| run.0.as_u128()).collect()
    }

    #[test]
    fn a_busy_repository_does_not_keep_another_one_waiting() {
        let mut lanes = Lanes::new(4, 1);
        (0..1000).for_each(|n| lanes.add(run(n), Some("busy"), false));
        lanes.add(run(2000), Some("quiet"), false);
        lanes.add(run(3000), None, false);
        assert_eq!(all(&mut lanes), [0, 2000, 3000, 1], "in rotation, and not more than the lane has room for");
        assert_eq!((lanes.waiting(), lanes.driven()), (998, 4));
        lanes.back(run(0), Back::Over);
        lanes.add(run(2001), Some("quiet"), false);
        assert_eq!(all(&mut lanes), [2, 2001]);
    }

    #[test]
    fn a_word_that_comes_while_a_run_comes_back_is_not_lost() {
        let mut lanes = Lanes::new(1, 1);
        lanes.add(run(1), None, false);
        assert_eq!(all(&mut lanes), [1]);
        lanes.add(run(1), None, true);
        assert!(all(&mut lanes).is_empty());
        lanes.back(run(1), Back::Resting);
        assert_eq!(all(&mut lanes), [1], "it is driven once more");
        lanes.back(run(1), Back::Resting);
        assert_eq!(lanes.resting(), 1);
        assert!(all(&mut lanes).is_empty() && !lanes.lacks(run(1), true));
        assert!(lanes.lacks(run(1), false), "a word was recorded, and nobody was called");
        lanes.add(run(1), None, true);
        assert_eq!(all(&mut lanes), [1]);
        lanes.back(run(1), Back::Over);
        assert!(lanes.lacks(run(1), true));
        assert_eq!((lanes.waiting(), lanes.driven(), lanes.places.len(), lanes.lanes.len()), (0, 0, 0, 0));
    }

    #[test]
    fn who_asks_while_a_run_comes_to_a_stand_is_heard() {
        let why = || Back::Standing("no key".into());
        let mut lanes = Lanes::new(1, 1);
        lanes.add(run(1), Some("a"), false);
        assert_eq!(all(&mut lanes), [1]);
        lanes.ask(run(1), Some("a"));
        lanes.back(run(1), why());
        assert_eq!(lanes.next(), Some((run(1), Some("no key".to_owned()))), "it is tried again, and not told again");
        lanes.back(run(1), why());
        assert_eq!(lanes.next(), None, "once for each time that somebody asks");
        lanes.ask(run(1), Some("a"));
        assert_eq!(all(&mut lanes), [1]);
        // A word, too, is not left until the next look.
        lanes.add(run(1), Some("a"), true);
        lanes.back(run(1), why());
        assert_eq!(all(&mut lanes), [1]);
        // Who goes on by himself, or waits for a word, is not disturbed.
        lanes.ask(run(1), Some("a"));
        lanes.back(run(1), Back::Resting);
        lanes.ask(run(1), Some("a"));
        assert!(all(&mut lanes).is_empty());
        assert_eq!(lanes.resting(), 1);
        lanes.ask(run(2), None);
        assert_eq!(all(&mut lanes), [2], "one that nobody knows");
    }

    #[test]
    fn a_person_goes_first_and_nobody_is_in_a_lane_twice() {
        let mut lanes = Lanes::new(1, 1);
        (0..4).for_each(|n| lanes.add(run(n), Some("a"), false));
        lanes.add(run(3), Some("a"), true);
        lanes.add(run(2), Some("a"), false);
        assert_eq!(all(&mut lanes), [3, 0]);
        assert_eq!(lanes.waiting(), 2);
        lanes.back(run(3), Back::Standing("no key".into()));
        assert!(lanes.lacks(run(3), true));
        lanes.add(run(3), Some("a"), true);
        assert_eq!(lanes.next(), Some((run(3), Some("no key".to_owned()))), "and is not told twice");
    }
}
