//! The load generator: sends what is due, and keeps what comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use cpu_time::ThreadTime;

use super::TargetError;
use super::exchange::{End, Peer, STALL, client};
use super::lane::{Lane, News, Pulse};
use super::probe::Contact;
use crate::Error;
use crate::clock::{Clock, WallClock};
use crate::engine::Records;
use crate::metrics::{ClientCost, Counted, Statistics};
use crate::model::Tokenizer;
use crate::request::{FinishReason, Finished};
use crate::sweep::{CellSpec, Heard, Ran, Service};
use crate::workload::Arrivals;

/// Event loops are asked this often how they are.
const BEAT: Duration = Duration::from_millis(10);
/// More cores than this for each event loop are left to the server, which may be here.
const CORES_A_LANE: usize = 4;
const MOST_LANES: usize = 4;

/// A server that requests are sent to.
pub struct Target {
    peer: Arc<Peer>,
    lanes: Vec<Lane>,
    news: Receiver<News>,
}

impl Target {
    /// Starts the client's threads.
    pub fn open(
        contact: &Contact,
        api_key: Option<&str>,
        tokenizer: Arc<Tokenizer>,
        clock: WallClock,
    ) -> Result<Self, TargetError> {
        let peer = Arc::new(Peer {
            address: contact.address.clone(),
            dialect: contact.dialect.clone(),
            tokenizer,
            clock,
            stall: STALL,
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (tell, news) = channel();
        let lanes = (0..(cores / CORES_A_LANE).clamp(1, MOST_LANES)).map(|lane| {
            let client = client(&peer.address, api_key)?;
            Lane::start(lane, client, Arc::clone(&peer), tell.clone())
        });
        Ok(Self {
            lanes: lanes.collect::<Result<_, _>>()?,
            peer,
            news,
        })
    }

    /// The CPU time of every lane, once all of them have answered.
    fn cpu(&self) -> Result<Vec<Duration>, TargetError> {
        let mut cpu = vec![Duration::ZERO; self.lanes.len()];
        self.ping(self.peer.clock.now())?;
        for _ in &self.lanes {
            // Nothing is under way: all news are pulses.
            if let News::Here(pulse) = self.news.recv().map_err(|_| TargetError::Ended)? {
                cpu[pulse.lane] = pulse.cpu;
            }
        }
        Ok(cpu)
    }

    /// `due`: a moment that may have passed, where this thread itself came late.
    fn ping(&self, due: Duration) -> Result<(), TargetError> {
        self.lanes.iter().try_for_each(|lane| lane.ping(due))
    }

    /// Sends the load and waits until all of it has ended.
    fn follow(&mut self, mut load: Arrivals, heard: Heard<'_>) -> Result<Seen, TargetError> {
        let clock = self.peer.clock;
        let mut seen = Seen::default();
        let (mut beat, mut pings) = (clock.now() + BEAT, 0);
        while !load.is_done() || pings > 0 {
            while let Some(request) = load.pop_due(clock.now()) {
                let freest = self.lanes.iter_mut().min_by_key(|lane| lane.outstanding);
                freest.ok_or(TargetError::Ended)?.send(request)?;
            }
            let now = clock.now();
            if now >= beat && pings == 0 && !load.is_done() {
                self.ping(beat)?;
                pings = self.lanes.len();
                beat = now + BEAT;
            }
            let next = if pings == 0 { beat } else { now + BEAT };
            let until = load.next_due().map_or(next, |due| due.min(next));
            match self.news.recv_timeout(until.saturating_sub(now)) {
                Ok(News::Ended { lane, end }) => {
                    self.lanes[lane].outstanding -= 1;
                    load.completed(end.finished.finished);
                    heard(1, 0);
                    seen.end(*end, self.peer.dialect.ignore_eos);
                }
                Ok(News::Here(pulse)) => {
                    pings -= 1;
                    // A loop that was late is asked again from then on.
                    beat = beat.max(pulse.at);
                    heard(0, pulse.chunks);
                    seen.pulse(&pulse);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(TargetError::Ended),
            }
        }
        Ok(seen)
    }
}

impl Service for Target {
    fn run(&mut self, _: &CellSpec, load: Arrivals, heard: Heard<'_>) -> Result<Ran, Error> {
        let begin = self.peer.clock.now();
        let (before, own) = (self.cpu()?, ThreadTime::now());
        let seen = self.follow(load, heard)?;
        let own = own.elapsed();
        let after = self.cpu()?;
        let seconds = (self.peer.clock.now() - begin).as_secs_f64();
        let lanes = after
            .iter()
            .zip(&before)
            .map(|(after, before)| *after - *before);
        let threads: Vec<f64> = lanes.chain([own]).map(|cpu| cpu.as_secs_f64()).collect();
        let failed = |r: &Finished| r.reason == FinishReason::Failed;
        if !seen.finished.is_empty() && seen.finished.iter().all(failed) {
            return Err(Error::Target(TargetError::AllFailed {
                url: self.peer.address.to_string(),
                requests: seen.finished.len(),
                cause: most_frequent(seen.failures),
            }));
        }
        let tokens: usize = seen.finished.iter().map(|r| r.token_times.len()).sum();
        Ok(Ran {
            records: Records::default(),
            client: Some(ClientCost {
                threads: self.lanes.len(),
                cpu_s: threads.iter().sum(),
                busiest_thread_percent: 100.0 * threads.iter().copied().fold(0.0, f64::max)
                    / seconds,
                late_send_ms: Statistics::of(seen.late_ms, &[]),
                loop_lag_ms: Statistics::of(seen.lag_ms, &[]),
                chunks: seen.chunks,
                tokens_per_chunk: (seen.chunks > 0).then(|| tokens as f64 / seen.chunks as f64),
                counted: seen.counted.unwrap_or(Counted::Chunks),
                ended_early: seen.ended_early,
                failures: seen.failures,
            }),
            finished: seen.finished,
        })
    }
}

/// What came back of a load.
#[derive(Default)]
struct Seen {
    finished: Vec<Finished>,
    late_ms: Vec<f64>,
    lag_ms: Vec<f64>,
    chunks: usize,
    counted: Option<Counted>,
    ended_early: usize,
    failures: BTreeMap<String, usize>,
}

impl Seen {
    fn end(&mut self, end: End, ignore_eos: bool) {
        self.ended_early += usize::from(match end.finished.reason {
            FinishReason::Stop => ignore_eos,
            // To what its context holds, as vLLM does.
            FinishReason::Length => end.is_short(),
            _ => false,
        });
        self.late_ms
            .push(ms(end.sent.saturating_sub(end.finished.arrival)));
        self.chunks += end.chunks;
        if end.finished.reason.is_complete() {
            self.counted = self.counted.max(Some(end.counted));
        }
        if let Some(failure) = end.failure {
            *self.failures.entry(failure.cause).or_default() += 1;
        }
        self.finished.push(end.finished);
    }

    fn pulse(&mut self, pulse: &Pulse) {
        self.lag_ms.push(ms(pulse.lag));
    }
}

fn most_frequent(failures: BTreeMap<String, usize>) -> String {
    let most = failures.into_iter().max_by_key(|(_, times)| *times);
    most.map(|(cause, _)| cause).unwrap_or_default()
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}
