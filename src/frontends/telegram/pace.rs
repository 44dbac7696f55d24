//! When the next request to a chat may go out: Telegram's limits, its own word (`retry_after`), and outages. Time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Between two requests to a private chat; Telegram allows one in a second.
const PRIVATE: Duration = Duration::from_millis(1_050);
/// Between two requests to a group; Telegram allows 20 in a minute.
const GROUP: Duration = Duration::from_millis(3_100);
/// Between any two requests; Telegram allows 30 in a second.
const ANY: Duration = Duration::from_millis(35);
/// Between two edits of what follows a run, in a private chat and in a group.
const EDITS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));
/// The first wait in an outage; each later one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);
/// Chats beyond this many are forgotten once they may be written to anyway.
const CHATS: usize = 1000;

/// The state of the limits.
#[derive(Debug, Default)]
pub struct Pace {
    chats: HashMap<i64, Instant>,
    edits: HashMap<i64, Instant>,
    any: Option<Instant>,
    outage: u32,
}

impl Pace {
    /// The earliest instant for a message to a chat.
    pub fn message(&self, chat: i64) -> Option<Instant> {
        self.any.max(self.chats.get(&chat).copied())
    }

    /// The earliest instant for an edit of what follows a run.
    pub fn edit(&self, chat: i64) -> Option<Instant> {
        self.message(chat).max(self.edits.get(&chat).copied())
    }

    /// A request was answered.
    pub fn sent(&mut self, chat: i64, edit: bool, now: Instant) {
        let private = chat > 0;
        self.outage = 0;
        self.any = Some(now + ANY);
        self.chats.insert(chat, now + if private { PRIVATE } else { GROUP });
        if edit {
            self.edits.insert(chat, now + if private { EDITS.0 } else { EDITS.1 });
        }
        if self.chats.len() > CHATS {
            self.chats.retain(|_, at| *at > now);
            self.edits.retain(|_, at| *at > now);
        }
    }

    /// Telegram wants this chat left alone.
    pub fn told_to_wait(&mut self, chat: i64, seconds: u64, now: Instant) {
        self.outage = 0;
        let wait = Duration::from_secs(seconds.clamp(1, 24 * 3600)) + Duration::from_millis(100);
        self.chats.insert(chat, now + wait);
    }

    /// Telegram cannot be reached; the answer is how long everything waits.
    pub fn out(&mut self, now: Instant) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.outage.min(5)).min(LONGEST);
        self.outage = self.outage.saturating_add(1);
        self.any = Some(now + wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_have_their_own_pace_and_all_share_one() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.message(1), None);
        pace.sent(1, false, now);
        assert_eq!(pace.message(1), Some(now + PRIVATE));
        assert_eq!(pace.message(2), Some(now + ANY));
        pace.sent(-5, true, now);
        assert_eq!((pace.message(-5), pace.edit(-5)), (Some(now + GROUP), Some(now + EDITS.1)));
        assert_eq!(pace.edit(1), Some(now + PRIVATE), "an edit elsewhere does not count");
    }

    #[test]
    fn telegrams_word_is_for_the_chat_and_outages_for_all() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.told_to_wait(1, 7, now);
        assert!(pace.message(1).unwrap() > now + Duration::from_secs(7) && pace.message(2).is_none());
        let waits: Vec<u64> = (0..7).map(|_| pace.out(now).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pace.message(2), Some(now + LONGEST));
        pace.sent(2, false, now);
        assert_eq!(pace.out(now).as_secs(), 1, "an answer ends an outage");
    }
}
