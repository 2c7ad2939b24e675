//! The samples taken so far: a bounded buffer that a reader thread fills and others look into.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{GpuReading, GpuSample};

/// One hour at ten samples a second; older ones are forgotten.
const CAPACITY: usize = 36_000;

#[derive(Debug, Default)]
struct State {
    samples: VecDeque<GpuSample>,
    /// No sample will follow.
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Recording {
    clock_start: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

impl Recording {
    pub fn new(clock_start: Instant) -> Self {
        Self {
            clock_start,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A reader that panicked leaves whole samples behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, reading: GpuReading) {
        let at = self.clock_start.elapsed();
        let mut state = self.lock();
        if state.samples.len() == CAPACITY {
            state.samples.pop_front();
        }
        state.samples.push_back(GpuSample { at, reading });
        self.changed.notify_all();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `deadline`; false when the recording was closed.
    pub fn pause_until(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return !state.closed;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The samples of a window with one neighbour on either side, so that what a counter did
    /// inside is known to its edges. Waits up to `patience` for the neighbour after `to`.
    pub fn around(&self, from: Duration, to: Duration, patience: Duration) -> Vec<GpuSample> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !state.closed && state.samples.back().is_none_or(|last| last.at < to) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let first = state.samples.partition_point(|s| s.at <= from);
        let end = state.samples.partition_point(|s| s.at < to);
        let range = first.saturating_sub(1)..(end + 1).min(state.samples.len());
        state.samples.range(range).cloned().collect()
    }

    pub fn latest(&self) -> Option<GpuSample> {
        self.lock().samples.back().cloned()
    }
}
