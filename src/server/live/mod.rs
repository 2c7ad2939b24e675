//! The live page's side in the server: follows an engine's news and tells what the page shows.
//!
//! One task owns it, so nothing here is locked, and nothing grows with the time a server runs.

mod page;
mod percentiles;
mod rate;
mod rows;
mod snapshot;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub use page::{PageFile, page_files};
pub use percentiles::Percentiles;
pub use snapshot::{About, LiveBatch, LiveRequest, Snapshot, State};

use self::percentiles::LastMinute;
use self::rate::LastSecond;
use self::rows::Rows;
use super::news::{Arrived, StepNews};
use crate::batching::CloseReason;
use crate::metrics::{BatchRecord, RequestTimes};
use crate::request::{FinishReason, Finished, RequestId};
use crate::telemetry::GpuReading;

/// Waiting requests that a snapshot lists.
const MOST_QUEUED: usize = 256;
/// What left between two snapshots and is kept.
const MOST_LEFT: usize = 4096;
const MOST_BATCHES: usize = 1024;

pub struct Live {
    about: About,
    snapshots: u64,
    queued: BTreeMap<RequestId, LiveRequest>,
    rows: Rows,
    left: VecDeque<LiveRequest>,
    /// The request-level batch that runs.
    open: Option<LiveBatch>,
    batches: VecDeque<LiveBatch>,
    kv_pages_used: usize,
    deadline: Option<Duration>,
    output_tokens: LastSecond,
    prompt_tokens: LastSecond,
    completed: LastSecond,
    ttft: LastMinute,
    tpot: LastMinute,
    queue: LastMinute,
    batch_close_reasons: BTreeMap<CloseReason, u64>,
    finish_reasons: BTreeMap<FinishReason, u64>,
}

impl Live {
    pub fn new(about: About) -> Self {
        Self {
            about,
            snapshots: 0,
            queued: BTreeMap::new(),
            rows: Rows::default(),
            left: VecDeque::new(),
            open: None,
            batches: VecDeque::new(),
            kv_pages_used: 0,
            deadline: None,
            output_tokens: LastSecond::default(),
            prompt_tokens: LastSecond::default(),
            completed: LastSecond::default(),
            ttft: LastMinute::new(),
            tpot: LastMinute::new(),
            queue: LastMinute::new(),
            batch_close_reasons: BTreeMap::new(),
            finish_reasons: BTreeMap::new(),
        }
    }

    /// A request waits from now on. Ids grow with arrival.
    fn arrive(&mut self, arrived: &Arrived) {
        let request = LiveRequest {
            id: arrived.id,
            state: State::Queued,
            row: None,
            arrival: arrived.at,
            started: None,
            first_token: None,
            ended: None,
            left: None,
            prompt_len: arrived.prompt_len,
            output_len: 0,
            max_new_tokens: arrived.max_new_tokens,
            reason: None,
        };
        self.queued.insert(arrived.id, request);
    }

    pub fn step(&mut self, news: &StepNews) {
        news.arrived.iter().for_each(|arrived| self.arrive(arrived));
        let (of_rows, of_new): (Vec<_>, Vec<_>) = news
            .tokens
            .iter()
            .partition(|t| self.rows.contains(t.request));
        of_rows
            .into_iter()
            .for_each(|t| self.token(t.request, news.now));
        // Rows that end are free for those that start.
        let (ran, others): (Vec<_>, Vec<_>) =
            news.finished.iter().partition(|f| self.rows.contains(f.id));
        ran.into_iter().for_each(|f| self.end(f));
        let mut started = news.started.iter().copied();
        for batch in &news.batches {
            match self.open.is_some_and(|open| open.start == batch.start) {
                true => self.close(batch),
                false => self.begin(batch, started.by_ref().take(batch.size)),
            }
        }
        started.for_each(|id| self.start(id, news.now));
        of_new
            .into_iter()
            .for_each(|t| self.token(t.request, news.now));
        others.into_iter().for_each(|f| self.end(f));
        // A batch of one step began and ended in the same news.
        if let Some(batch) = news.batches.last().filter(|b| b.end.is_some()) {
            self.close(batch);
        }
        self.output_tokens.add(news.now, news.tokens.len());
        for step in &news.steps {
            let computed = step.shape.tokens - step.shape.padded_tokens;
            let prompts = computed.saturating_sub(step.shape.decode_rows);
            self.prompt_tokens.add(news.now, prompts);
        }
        self.kv_pages_used = news.kv_pages_used;
        self.deadline = news.deadline;
    }

    /// What the page shows at `now`. Each of those that left is in one snapshot.
    pub fn snapshot(&mut self, now: Duration, gpu: Option<&GpuReading>) -> Snapshot {
        self.snapshots += 1;
        let idle_rows = self.rows.iter().filter(|r| r.state == State::Idle).count();
        let waiting = self.queued.values().take(MOST_QUEUED);
        Snapshot {
            number: self.snapshots,
            now,
            about: self.about.clone(),
            queued: self.queued.len(),
            running: self.rows.iter().count() - idle_rows,
            idle_rows,
            kv_pages_used: self.kv_pages_used,
            deadline: self.deadline,
            output_throughput: self.output_tokens.count(now),
            prompt_throughput: self.prompt_tokens.count(now),
            request_throughput: self.completed.count(now),
            ttft_ms: self.ttft.percentiles(now),
            tpot_ms: self.tpot.percentiles(now),
            queue_ms: self.queue.percentiles(now),
            batch_close_reasons: self.batch_close_reasons.clone(),
            finish_reasons: self.finish_reasons.clone(),
            gpu: gpu.cloned(),
            requests: self.rows.iter().chain(waiting).cloned().collect(),
            left: self.left.drain(..).collect(),
            batches: self.batches.drain(..).collect(),
        }
    }

    fn begin(&mut self, record: &BatchRecord, requests: impl Iterator<Item = RequestId>) {
        let batch = LiveBatch {
            start: record.start,
            end: None,
            size: record.size,
            max_size: record.max_size,
            close_reason: record.close_reason,
            wait: record.wait,
        };
        *self
            .batch_close_reasons
            .entry(record.close_reason)
            .or_default() += 1;
        push(&mut self.batches, batch, MOST_BATCHES);
        if self.about.request_level {
            self.open = Some(batch);
        }
        requests.for_each(|id| self.start(id, record.start));
    }

    /// All rows of the batch are free.
    fn close(&mut self, record: &BatchRecord) {
        let ends = |open: &mut LiveBatch| open.start == record.start && record.end.is_some();
        let Some(batch) = self.open.take_if(ends) else {
            return;
        };
        let end = record.end;
        push(&mut self.batches, LiveBatch { end, ..batch }, MOST_BATCHES);
        let ended = self.rows.iter().filter(|r| r.state == State::Idle);
        let ended: Vec<_> = ended.map(|r| r.id).collect();
        for id in ended {
            self.leave(id, end);
        }
    }

    fn start(&mut self, id: RequestId, at: Duration) {
        // One that had lost its pages goes on in its row.
        let Some(mut request) = self.queued.remove(&id) else {
            return;
        };
        request.state = State::Prefill;
        request.started = Some(at);
        self.queue.add(at, at.saturating_sub(request.arrival));
        self.rows.join(request);
    }

    fn token(&mut self, id: RequestId, now: Duration) {
        let Some(row) = self.rows.get_mut(id) else {
            return;
        };
        row.output_len += 1;
        if row.first_token.is_none() {
            row.state = State::Decode;
            row.first_token = Some(now);
            self.ttft.add(now, now.saturating_sub(row.arrival));
        }
    }

    fn end(&mut self, finished: &Finished) {
        *self.finish_reasons.entry(finished.reason).or_default() += 1;
        if finished.reason.is_complete() {
            self.completed.add(finished.finished, 1);
        }
        if let Some(tpot) = RequestTimes::of(finished).and_then(|times| times.tpot) {
            self.tpot.add(finished.finished, tpot);
        }
        if let Some(mut request) = self.queued.remove(&finished.id) {
            request.ended = Some(finished.finished);
            request.left = request.ended;
            request.state = State::Left;
            request.reason = Some(finished.reason);
            push(&mut self.left, request, MOST_LEFT);
        } else if let Some(row) = self.rows.get_mut(finished.id) {
            row.state = State::Idle;
            row.output_len = finished.output.len();
            row.ended = Some(finished.finished);
            row.reason = Some(finished.reason);
            if self.open.is_none() {
                self.leave(finished.id, Some(finished.finished));
            }
        }
    }

    fn leave(&mut self, id: RequestId, at: Option<Duration>) {
        if let Some(request) = self.rows.leave(id) {
            let left = LiveRequest {
                state: State::Left,
                left: at,
                ..request
            };
            push(&mut self.left, left, MOST_LEFT);
        }
    }
}

/// The oldest goes where more than `most` would stay.
fn push<T>(to: &mut VecDeque<T>, item: T, most: usize) {
    if to.len() == most {
        to.pop_front();
    }
    to.push_back(item);
}
