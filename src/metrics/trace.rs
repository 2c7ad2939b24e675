//! One request of a run, for files and pictures: its timestamps in milliseconds since the sweep's
//! clock started.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::statistics::percentile;
use super::{BatchRecord, RequestTimes};
use crate::request::{FinishReason, Finished};

/// A request and, where it ran, with whom it started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestTrace {
    /// Repeat of the cell, from 0.
    pub run: usize,
    pub id: u64,
    /// Group of the run's requests that started together, from 0; none if it never ran.
    pub batch: Option<usize>,
    pub reason: FinishReason,
    pub prompt_tokens: usize,
    pub output_tokens: usize,
    pub arrival_ms: f64,
    pub scheduled_ms: Option<f64>,
    pub first_token_ms: Option<f64>,
    pub last_token_ms: Option<f64>,
    /// When its row was free again: the end of its batch, or its own under continuous batching and on
    /// a server.
    pub released_ms: Option<f64>,
    /// 99th percentile of the gaps between its tokens.
    pub itl_p99_ms: Option<f64>,
    /// From losing its KV pages to the next token; in a file `12.5-18.25 30-31`.
    #[serde(default, with = "stretches")]
    pub preempted_ms: Vec<(f64, f64)>,
}

impl RequestTrace {
    pub fn is_complete(&self) -> bool {
        self.reason.is_complete()
    }

    /// Arrival → first token.
    pub fn ttft_ms(&self) -> Option<f64> {
        self.complete(self.first_token_ms.map(|t| t - self.arrival_ms))
    }

    /// Arrival → last token.
    pub fn e2el_ms(&self) -> Option<f64> {
        self.complete(self.last_token_ms.map(|t| t - self.arrival_ms))
    }

    /// Mean gap between tokens; none for a single one.
    pub fn tpot_ms(&self) -> Option<f64> {
        let gaps = self.output_tokens.checked_sub(1).filter(|&n| n > 0)?;
        let span = self.last_token_ms? - self.first_token_ms?;
        self.complete(Some(span / gaps as f64))
    }

    fn complete(&self, value: Option<f64>) -> Option<f64> {
        value.filter(|_| self.is_complete())
    }
}

/// The requests of repeat `run` in order of arrival.
pub fn traces(run: usize, finished: &[Finished], batches: &[BatchRecord]) -> Vec<RequestTrace> {
    let mut traces: Vec<RequestTrace> = finished
        .iter()
        .map(|request| {
            let batch = request.scheduled.and_then(|at| started_at(batches, at));
            let gaps = RequestTimes::of(request).map(|times| times.itl);
            RequestTrace {
                run,
                id: request.id,
                batch,
                reason: request.reason,
                prompt_tokens: request.prompt_len,
                output_tokens: request.token_times.len(),
                arrival_ms: ms(request.arrival),
                scheduled_ms: request.scheduled.map(ms),
                first_token_ms: request.token_times.first().copied().map(ms),
                last_token_ms: request.token_times.last().copied().map(ms),
                released_ms: match batch {
                    Some(batch) => Some(batches[batch].end.unwrap_or(request.finished)),
                    None => request.token_times.last().copied(),
                }
                .map(ms),
                itl_p99_ms: gaps.and_then(p99),
                preempted_ms: request
                    .preempted
                    .iter()
                    .map(|s| (ms(s.from), ms(s.until.unwrap_or(request.finished))))
                    .collect(),
            }
        })
        .collect();
    traces.sort_by_key(|t| t.id);
    traces
}

/// No two groups of one run start at the same moment.
fn started_at(batches: &[BatchRecord], at: Duration) -> Option<usize> {
    batches.binary_search_by_key(&at, |b| b.start).ok()
}

fn p99(gaps: Vec<Duration>) -> Option<f64> {
    let mut gaps: Vec<f64> = gaps.into_iter().map(ms).collect();
    gaps.sort_by(f64::total_cmp);
    (!gaps.is_empty()).then(|| percentile(&gaps, 99.0))
}

/// To the microsecond: more is noise, and takes room on disk.
fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// Pairs of times as one field of a CSV file.
mod stretches {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(pairs: &[(f64, f64)], to: S) -> Result<S::Ok, S::Error> {
        let pairs: Vec<String> = pairs.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        to.serialize_str(&pairs.join(" "))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(f64, f64)>, D::Error> {
        let text = String::deserialize(from)?;
        let pair = |pair: &str| {
            let (from, until) = pair.split_once('-')?;
            let (from, until): (f64, f64) = (from.parse().ok()?, until.parse().ok()?);
            (from.is_finite() && until.is_finite()).then_some((from, until))
        };
        let pairs: Option<Vec<_>> = text.split_whitespace().map(pair).collect();
        pairs.ok_or_else(|| D::Error::custom(format!("'{text}' is not a list of stretches")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::CloseReason;
    use crate::request::Stretch;

    fn at(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn batch(start: u64, end: Option<u64>) -> BatchRecord {
        BatchRecord {
            size: 2,
            max_size: 2,
            close_reason: CloseReason::Full,
            wait: at(0),
            start: at(start),
            end: end.map(at),
        }
    }

    fn finished(id: u64, scheduled: Option<u64>, tokens: &[u64]) -> Finished {
        Finished {
            id,
            prompt_len: 3,
            output: vec![0; tokens.len()],
            reason: match tokens {
                [] => FinishReason::TimedOut,
                _ => FinishReason::Length,
            },
            arrival: at(10 * id),
            scheduled: scheduled.map(at),
            token_times: tokens.iter().map(|&t| at(t)).collect(),
            preempted: Vec::new(),
            finished: at(tokens.last().copied().unwrap_or(500)),
        }
    }

    #[test]
    fn a_row_is_free_when_its_batch_ends() {
        let batches = [batch(20, Some(100)), batch(100, Some(130))];
        // In order of ending, the second to arrive first.
        let ended = [
            finished(1, Some(20), &[30, 40, 60]),
            finished(0, Some(20), &[30, 40, 60, 80, 100]),
            finished(2, Some(100), &[130]),
            finished(3, None, &[]),
        ];
        let traces = traces(4, &ended, &batches);
        let ids: Vec<u64> = traces.iter().map(|t| t.id).collect();
        assert_eq!(ids, [0, 1, 2, 3]);
        let second = &traces[1];
        assert_eq!((second.run, second.batch), (4, Some(0)));
        assert_eq!(second.released_ms, Some(100.0));
        assert_eq!(
            (second.ttft_ms(), second.e2el_ms()),
            (Some(20.0), Some(50.0))
        );
        assert_eq!(second.tpot_ms(), Some(15.0));
        // Gaps of 10 and 20 ms.
        assert!((second.itl_p99_ms.unwrap() - 19.9).abs() < 1e-9);
        assert_eq!((traces[2].tpot_ms(), traces[2].itl_p99_ms), (None, None));
        assert_eq!((traces[3].batch, traces[3].e2el_ms()), (None, None));
    }

    #[test]
    fn a_row_that_leaves_by_itself_is_free_when_it_ends() {
        let mut ended = finished(0, Some(20), &[30, 90]);
        ended.preempted = vec![
            Stretch {
                from: at(31),
                until: Some(at(40)),
            },
            Stretch {
                from: at(50),
                until: None,
            },
        ];
        let trace = &traces(0, &[ended], &[batch(20, None)])[0];
        assert_eq!(trace.released_ms, Some(90.0));
        assert_eq!(trace.preempted_ms, [(31.0, 40.0), (50.0, 90.0)]);
        let mut file = csv::Writer::from_writer(Vec::new());
        file.serialize(trace).unwrap();
        let file = file.into_inner().unwrap();
        let mut read = csv::Reader::from_reader(file.as_slice());
        let read: RequestTrace = read.deserialize().next().unwrap().unwrap();
        assert_eq!(&read, trace);
    }
}
