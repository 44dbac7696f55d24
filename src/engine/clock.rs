//! Reading the time: wall clock at the start, monotonic from then on, so that a jump of the clock moves nothing.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::core::time::Timestamp;

/// A source of instants that never goes back while the process lives.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: i64,
    started: Instant,
}

impl Clock {
    /// Starts from the machine's clock.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Self { wall: i64::try_from(wall).unwrap_or(i64::MAX), started: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.wall).plus_ms(elapsed)
    }
}
