//! The bounded first-come-first-served queue in front of the policy.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::request::{Request, RequestId};

#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Request>,
    /// When those that have a timeout time out.
    deadlines: BTreeSet<(Duration, RequestId)>,
    capacity: usize,
}

/// The queue holds `capacity` requests already; the refused one is given back.
#[derive(Debug, PartialEq)]
pub struct QueueFull(pub Box<Request>);

impl Queue {
    pub fn bounded(capacity: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            deadlines: BTreeSet::new(),
            capacity,
        }
    }

    pub fn push(&mut self, request: Request) -> Result<(), QueueFull> {
        if self.waiting.len() >= self.capacity {
            return Err(QueueFull(Box::new(request)));
        }
        self.deadlines.extend(deadline(&request));
        self.waiting.push_back(request);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn oldest_arrival(&self) -> Option<Duration> {
        self.waiting.front().map(|r| r.arrival)
    }

    /// The queued requests, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Request> {
        self.waiting.iter()
    }

    pub fn pop(&mut self) -> Option<Request> {
        let request = self.waiting.pop_front()?;
        Some(self.left(request))
    }

    pub fn cancel(&mut self, id: RequestId) -> Option<Request> {
        let at = self.waiting.iter().position(|r| r.id == id)?;
        let request = self.waiting.remove(at)?;
        Some(self.left(request))
    }

    /// Removes and returns the requests whose timeout has passed, the earliest deadline first.
    pub fn expire(&mut self, now: Duration) -> Vec<Request> {
        let mut expired = Vec::new();
        while let Some(&(_, id)) = self.deadlines.first().filter(|(at, _)| *at <= now)
            && let Some(request) = self.cancel(id)
        {
            expired.push(request);
        }
        expired
    }

    /// When the next queued request times out.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    fn left(&mut self, request: Request) -> Request {
        if let Some(deadline) = deadline(&request) {
            self.deadlines.remove(&deadline);
        }
        request
    }
}

fn deadline(r: &Request) -> Option<(Duration, RequestId)> {
    r.timeout.map(|t| (r.arrival.saturating_add(t), r.id))
}
