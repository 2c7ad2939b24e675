//! The bounded first-come-first-served queue in front of the policy.

use std::collections::VecDeque;
use std::time::Duration;

use super::QueueState;
use crate::request::{Request, RequestId};

#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Request>,
    capacity: usize,
}

/// The queue holds `capacity` requests already; the refused one is given back.
#[derive(Debug, PartialEq)]
pub struct QueueFull(pub Box<Request>);

impl Queue {
    pub fn bounded(capacity: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            capacity,
        }
    }

    pub fn push(&mut self, request: Request) -> Result<(), QueueFull> {
        if self.waiting.len() >= self.capacity {
            return Err(QueueFull(Box::new(request)));
        }
        self.waiting.push_back(request);
        Ok(())
    }

    pub fn state(&self, now: Duration, more_expected: bool) -> QueueState {
        QueueState {
            now,
            queued: self.waiting.len(),
            oldest_arrival: self.waiting.front().map(|r| r.arrival),
            more_expected,
        }
    }

    /// The queued requests, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Request> {
        self.waiting.iter()
    }

    pub fn pop(&mut self) -> Option<Request> {
        self.waiting.pop_front()
    }

    pub fn cancel(&mut self, id: RequestId) -> Option<Request> {
        let at = self.waiting.iter().position(|r| r.id == id)?;
        self.waiting.remove(at)
    }

    /// Removes and returns the requests whose timeout has passed.
    pub fn expire(&mut self, now: Duration) -> Vec<Request> {
        let late = |r: &Request| deadline(r).is_some_and(|t| t <= now);
        // The usual case has no timeouts: do not rebuild the queue for it.
        if !self.waiting.iter().any(late) {
            return Vec::new();
        }
        let (expired, kept) = self.waiting.drain(..).partition(late);
        self.waiting = kept;
        Vec::from(expired)
    }

    /// When the next queued request times out.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.waiting.iter().filter_map(deadline).min()
    }
}

fn deadline(r: &Request) -> Option<Duration> {
    r.timeout.map(|t| r.arrival.saturating_add(t))
}
