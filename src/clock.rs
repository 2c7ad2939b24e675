//! Time as the engine sees it: a duration since the clock started, so that tests can set it.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// A monotonic clock. `now` is the time since the clock's own start.
pub trait Clock {
    fn now(&self) -> Duration;
    /// Returns at or after `deadline`; at once when it has passed.
    fn sleep_until(&self, deadline: Duration);
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now(&self) -> Duration {
        (**self).now()
    }
    fn sleep_until(&self, deadline: Duration) {
        (**self).sleep_until(deadline);
    }
}

/// The machine's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    start: Instant,
}

/// The operating system may oversleep by about this much; the rest of a wait is spun.
const SPIN: Duration = Duration::from_micros(200);

impl WallClock {
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// The moment that `now` counts from.
    pub fn started(&self) -> Instant {
        self.start
    }
}

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep_until(&self, deadline: Duration) {
        let left = deadline.saturating_sub(self.now());
        if left > SPIN {
            std::thread::sleep(left - SPIN);
        }
        while self.now() < deadline {
            std::hint::spin_loop();
        }
    }
}

/// A clock that moves only when told to, or when something sleeps on it.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Cell<Duration>,
}

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        self.now.set(self.now.get() + by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        self.now.get()
    }

    fn sleep_until(&self, deadline: Duration) {
        self.now.set(self.now.get().max(deadline));
    }
}
