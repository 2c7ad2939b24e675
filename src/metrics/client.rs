//! What a client that is not part of what is measured did itself, so that nobody takes its own limits
//! for a server's.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Statistics;

/// Of a core: a thread that is busier delays what it handles.
const MOST_BUSY_PERCENT: f64 = 80.0;
const LATEST_SEND_MS: f64 = 1.0;
/// Tokens are read as late as an event loop runs.
const LONGEST_LAG_MS: f64 = 5.0;

/// A client's own cost in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientCost {
    /// With an event loop each, beside the one that sends.
    pub threads: usize,
    /// CPU time of all threads.
    pub cpu_s: f64,
    /// CPU time of the busiest thread, of the run's time.
    pub busiest_thread_percent: f64,
    /// From the moment at which a request was meant to be sent to the moment at which it was.
    pub late_send_ms: Option<Statistics>,
    /// From when an event loop was to be told something to when it got to it.
    pub loop_lag_ms: Option<Statistics>,
    /// Pieces in which tokens came.
    pub chunks: usize,
    pub tokens_per_chunk: Option<f64>,
    pub counted: Counted,
    /// Requests that ended before their length: by a stop token although they were told to go on, or since
    /// the server shortens what its context does not hold.
    pub ended_early: usize,
    /// What went wrong, and how often.
    pub failures: BTreeMap<String, usize>,
}

/// Where the number of tokens is known from; the weakest of a run's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Every chunk said how many there were.
    EachChunk,
    /// The end said how many there were; within a request they are spread evenly over its chunks.
    AtTheEnd,
    /// Nobody said: a chunk with text was counted as a token.
    Chunks,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EachChunk => "the server told with every chunk how many tokens it has",
            Self::AtTheEnd => {
                "the server told at the end how many tokens there were: within a request they are \
                 spread over its chunks"
            }
            Self::Chunks => "the server did not count tokens: a chunk with text was taken for one",
        })
    }
}

impl ClientCost {
    /// Why the client itself may be what was measured.
    pub fn doubt(&self) -> Option<String> {
        let busy = self.busiest_thread_percent;
        if busy > MOST_BUSY_PERCENT {
            return Some(format!(
                "a thread of it was busy for {busy:.0} % of the time"
            ));
        }
        let p99 = |s: &Option<Statistics>| s.as_ref().map_or(0.0, |s| s.p99);
        let (late, lag) = (p99(&self.late_send_ms), p99(&self.loop_lag_ms));
        if late > LATEST_SEND_MS {
            return Some(format!(
                "1 % of the requests were sent {late:.1} ms late or more"
            ));
        }
        (lag > LONGEST_LAG_MS)
            .then(|| format!("an event loop of it ran {lag:.1} ms late or more 1 % of the time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_or_late_client_is_in_doubt() {
        let cost = |busiest_thread_percent, late: f64, lag: f64| ClientCost {
            threads: 1,
            cpu_s: 1.0,
            busiest_thread_percent,
            late_send_ms: Statistics::of(vec![late; 3], &[]),
            loop_lag_ms: Statistics::of(vec![lag; 3], &[]),
            chunks: 1,
            tokens_per_chunk: Some(1.0),
            counted: Counted::EachChunk,
            ended_early: 0,
            failures: BTreeMap::new(),
        };
        assert_eq!(cost(80.0, 1.0, 5.0).doubt(), None);
        assert!(cost(81.0, 0.1, 0.1).doubt().unwrap().contains("81 %"));
        assert!(
            cost(5.0, 1.5, 0.1)
                .doubt()
                .unwrap()
                .contains("sent 1.5 ms late")
        );
        assert!(
            cost(5.0, 0.1, 5.5)
                .doubt()
                .unwrap()
                .contains("ran 5.5 ms late")
        );
    }
}
