//! How often someone may ask: buckets of tries that fill again with time. It knows names, not requests.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Names that are remembered at once; whoever fills this up only shortens the memory of others.
const NAMES_MAX: usize = 10_000;

/// A bucket of tries per name.
pub struct Buckets<K> {
    size: f64,
    per_second: f64,
    levels: Mutex<HashMap<K, (f64, Instant)>>,
}

impl<K: Eq + Hash> Buckets<K> {
    /// Buckets that hold `size` tries, one of which comes back `every` so often.
    pub fn new(size: u32, every: Duration) -> Self {
        Self { size: f64::from(size), per_second: 1.0 / every.as_secs_f64(), levels: Mutex::new(HashMap::new()) }
    }

    /// Takes a try; false if there is none left.
    pub fn take(&self, name: K, now: Instant) -> bool {
        let mut levels = self.levels.lock().expect("no holder of this lock can panic");
        if levels.len() >= NAMES_MAX {
            let full = |level: f64, at: Instant| level + now.duration_since(at).as_secs_f64() * self.per_second;
            levels.retain(|_, (level, at)| full(*level, *at) < self.size);
            if levels.len() >= NAMES_MAX {
                levels.clear();
            }
        }
        let (level, at) = levels.entry(name).or_insert((self.size, now));
        *level = (*level + now.duration_since(*at).as_secs_f64() * self.per_second).min(self.size);
        *at = now;
        let some = *level >= 1.0;
        if some {
            *level -= 1.0;
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_run_out_and_come_back() {
        let buckets = Buckets::new(2, Duration::from_secs(10));
        let start = Instant::now();
        assert!(buckets.take("a", start) && buckets.take("a", start) && !buckets.take("a", start));
        assert!(buckets.take("b", start), "others have their own");
        assert!(!buckets.take("a", start + Duration::from_secs(5)));
        assert!(buckets.take("a", start + Duration::from_secs(11)));
        let many = Buckets::new(1, Duration::from_secs(1000));
        for name in 0..2 * NAMES_MAX {
            many.take(name, start);
        }
        assert!(many.levels.lock().unwrap().len() <= NAMES_MAX);
    }
}
