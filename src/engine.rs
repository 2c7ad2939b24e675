//! One engine step: decide, reserve, plan and submit for as long as the runner takes steps, then
//! collect the oldest of them and deliver its tokens.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batching::{Batching, Decision, Policy, Queue, QueueFull, QueueState};
use crate::clock::Clock;
use crate::metrics::{BatchRecord, StepRecord};
use crate::plan::StepPlan;
use crate::request::{FinishReason, Finished, Request, RequestId};
use crate::runner::{Runner, RunnerError};
use crate::scheduler::{Capacity, Padding, Refusal, Scheduler};

/// How an engine is set up around a runner.
pub struct EngineConfig {
    pub policy: Box<dyn Policy>,
    /// Of request-level batches.
    pub padding: Padding,
    /// `--max-queue-size`
    pub max_queue_size: usize,
    /// The longest context of the model.
    pub max_positions: usize,
}

/// Why a request was not accepted.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Ended with [`FinishReason::Rejected`].
    #[error("the queue is full")]
    QueueFull(Box<Finished>),
}

/// What to do before the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Step again at once.
    Step,
    /// Nothing happens before this time unless a request arrives.
    WaitUntil(Duration),
    /// Nothing happens before a request arrives.
    WaitForArrival,
}

/// What came of one step.
#[derive(Debug)]
pub struct Progress {
    /// Tokens delivered, in row order; none where all of the step's requests had ended before.
    pub tokens: Vec<(RequestId, u32)>,
    pub finished: Vec<Finished>,
    pub next: Next,
}

/// What the engine recorded, for [`crate::metrics`].
#[derive(Debug, Default, Clone)]
pub struct Records {
    pub batches: Vec<BatchRecord>,
    pub steps: Vec<StepRecord>,
}

pub struct Engine<'a> {
    clock: &'a dyn Clock,
    runner: &'a mut dyn Runner,
    policy: Box<dyn Policy>,
    queue: Queue,
    scheduler: Scheduler,
    more_expected: bool,
    /// Of the last step submitted; the next one is written over it.
    plan: StepPlan,
    /// Steps submitted and not collected, the oldest first.
    under_way: VecDeque<StepRecord>,
    /// When the last one was collected.
    last_end: Duration,
    records: Records,
}

impl<'a> Engine<'a> {
    pub fn new(runner: &'a mut dyn Runner, clock: &'a dyn Clock, config: EngineConfig) -> Self {
        let limits = runner.limits();
        let capacity = Capacity {
            max_rows: limits.max_rows,
            max_tokens: limits.max_tokens,
            max_kv_len: limits.max_kv_len,
            max_positions: config.max_positions,
        };
        Self {
            scheduler: Scheduler::new(
                runner.kv_pages(),
                runner.kv_layout(),
                capacity,
                config.policy.batching(),
                config.padding,
            ),
            clock,
            runner,
            policy: config.policy,
            queue: Queue::bounded(config.max_queue_size),
            more_expected: true,
            plan: StepPlan::default(),
            under_way: VecDeque::new(),
            last_end: Duration::ZERO,
            records: Records::default(),
        }
    }

    pub fn clock(&self) -> &'a dyn Clock {
        self.clock
    }

    pub fn records(&self) -> &Records {
        &self.records
    }

    pub fn into_records(mut self) -> Records {
        std::mem::take(&mut self.records)
    }

    pub fn submit(&mut self, request: Request) -> Result<(), SubmitError> {
        self.scheduler.check(&request)?;
        self.more_expected = true;
        self.queue.push(request).map_err(|QueueFull(request)| {
            SubmitError::QueueFull(Box::new(unscheduled(
                *request,
                FinishReason::Rejected,
                self.clock.now(),
            )))
        })
    }

    /// Ends a queued or running request.
    pub fn cancel(&mut self, id: RequestId) -> Option<Finished> {
        let now = self.clock.now();
        match self.queue.cancel(id) {
            Some(request) => Some(unscheduled(request, FinishReason::Cancelled, now)),
            None => {
                let ended = self.scheduler.cancel(id, now);
                self.close_if_ended(now);
                ended
            }
        }
    }

    /// Tells that nothing arrives before something completes, so that an incomplete static batch
    /// may leave. The next `submit` takes it back.
    pub fn flush(&mut self) {
        self.more_expected = false;
    }

    pub fn step(&mut self) -> Result<Progress, RunnerError> {
        let begin = self.clock.now();
        let mut finished = self.expire(begin);
        let decision = self.go_ahead()?;
        let Some(mut record) = self.under_way.pop_front() else {
            return Ok(Progress {
                tokens: Vec::new(),
                finished,
                next: self.wait(decision),
            });
        };
        let tokens = self.collect(&mut record)?;
        let end = record.start + record.duration;
        let delivered = self.scheduler.deliver(&tokens, end, &mut finished);
        record.shape.idle_rows += delivered.dropped;
        record.host = (self.clock.now() - begin).saturating_sub(record.compute);
        self.records.steps.push(record);
        self.close_if_ended(end);
        Ok(Progress {
            tokens: delivered.tokens,
            finished,
            next: Next::Step,
        })
    }

    /// Submits steps until the runner has as many as it takes, or the next one cannot be planned yet.
    /// Gives the last decision.
    fn go_ahead(&mut self) -> Result<Decision, RunnerError> {
        let mut decision = Decision::Hold;
        while self.under_way.len() < self.runner.depth() && self.scheduler.can_plan() {
            let now = self.clock.now();
            decision = self.decide(now);
            self.reserve(decision, now);
            if !self.scheduler.is_running() {
                break;
            }
            let record = self.plan(now);
            self.runner.submit(&self.plan)?;
            self.under_way.push_back(record);
        }
        Ok(decision)
    }

    fn expire(&mut self, now: Duration) -> Vec<Finished> {
        let expired = self.queue.expire(now).into_iter();
        expired
            .map(|r| unscheduled(r, FinishReason::TimedOut, now))
            .collect()
    }

    /// Asks the policy, unless a batch must end first.
    fn decide(&self, now: Duration) -> Decision {
        match self.scheduler.admits() {
            true => self.policy.decide(&QueueState {
                now,
                queued: self.queue.len(),
                oldest_arrival: self.queue.oldest_arrival(),
                started: self.scheduler.started(),
                last_start: self.records.batches.last().map(|batch| batch.start),
                more_expected: self.more_expected,
            }),
            false => Decision::Hold,
        }
    }

    fn reserve(&mut self, decision: Decision, now: Duration) {
        if let Some(batch) = self.scheduler.reserve(&mut self.queue, decision, now) {
            self.records.batches.push(BatchRecord {
                size: batch.size,
                max_size: self.policy.max_batch_size(),
                close_reason: batch.reason,
                wait: now.saturating_sub(batch.oldest_arrival),
                start: now,
                end: None,
            });
        }
    }

    /// For what to wait while nothing runs.
    fn wait(&self, decision: Decision) -> Next {
        let timeout = self.queue.next_timeout();
        match decision {
            Decision::WaitUntil(t) => Next::WaitUntil(timeout.map_or(t, |o| o.min(t))),
            _ => timeout.map_or(Next::WaitForArrival, Next::WaitUntil),
        }
    }

    fn plan(&mut self, start: Duration) -> StepRecord {
        StepRecord {
            start,
            shape: self.scheduler.plan(&mut self.plan),
            ..StepRecord::default()
        }
    }

    fn collect(&mut self, record: &mut StepRecord) -> Result<Vec<u32>, RunnerError> {
        let output = self.runner.collect()?;
        let end = self.clock.now();
        // A step begins where the one before ends, however early it was planned.
        record.start = record.start.max(self.last_end);
        record.duration = end.saturating_sub(record.start);
        record.compute = output.compute;
        record.device = output.device;
        self.last_end = end;
        Ok(output.tokens)
    }

    /// A request-level batch ends as a whole.
    fn close_if_ended(&mut self, now: Duration) {
        if self.policy.batching() == Batching::RequestLevel
            && self.scheduler.admits()
            && let Some(batch) = self.records.batches.last_mut()
        {
            batch.end.get_or_insert(now);
        }
    }
}

/// Leaves the runner with nothing under way, for the next engine.
impl Drop for Engine<'_> {
    fn drop(&mut self) {
        for _ in self.under_way.drain(..) {
            // Nobody is left to be told of an error; a device that is lost says so again.
            let _ = self.runner.collect();
        }
    }
}

/// A request that ended without ever running.
fn unscheduled(request: Request, reason: FinishReason, now: Duration) -> Finished {
    Finished {
        id: request.id,
        prompt_len: request.prompt.len(),
        output: Vec::new(),
        reason,
        arrival: request.arrival,
        scheduled: None,
        token_times: Vec::new(),
        preempted: Vec::new(),
        finished: now,
    }
}
