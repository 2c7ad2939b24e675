//! Service level objectives: limits that a request's times must keep.

use std::fmt;
use std::str::FromStr;

use crate::metrics::{RequestTrace, Statistics, Summary};

/// A time that a limit can be set on (docs/measuring.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SloMetric {
    Ttft,
    Tpot,
    /// Of one request: the 99th percentile of its gaps.
    Itl,
    E2el,
}

impl SloMetric {
    /// Of all requests of a run.
    pub fn of(self, summary: &Summary) -> Option<&Statistics> {
        match self {
            Self::Ttft => summary.ttft_ms.as_ref(),
            Self::Tpot => summary.tpot_ms.as_ref(),
            Self::Itl => summary.itl_ms.as_ref(),
            Self::E2el => summary.e2el_ms.as_ref(),
        }
    }

    fn of_request(self, request: &RequestTrace) -> Option<f64> {
        match self {
            Self::Ttft => request.ttft_ms(),
            Self::Tpot => request.tpot_ms(),
            Self::Itl => request.itl_p99_ms,
            Self::E2el => request.e2el_ms(),
        }
    }
}

impl fmt::Display for SloMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ttft => "TTFT",
            Self::Tpot => "TPOT",
            Self::Itl => "ITL",
            Self::E2el => "latency",
        })
    }
}

/// One limit in milliseconds, written `ttft:200`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slo {
    pub metric: SloMetric,
    pub limit_ms: f64,
}

impl Slo {
    /// A request that did not get its output meets nothing. One without the metric, such as the gaps
    /// of a single token, cannot break its limit.
    pub fn is_met_by(&self, request: &RequestTrace) -> bool {
        let within = |ms| ms <= self.limit_ms;
        request.is_complete() && self.metric.of_request(request).is_none_or(within)
    }
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is no limit; write ttft:200, tpot:50, itl:50 or e2el:2000, in ms");
        let (name, limit) = text.split_once(':').ok_or_else(wrong)?;
        let metric = match name {
            "ttft" => SloMetric::Ttft,
            "tpot" => SloMetric::Tpot,
            "itl" => SloMetric::Itl,
            "e2el" => SloMetric::E2el,
            _ => return Err(wrong()),
        };
        match limit.parse::<f64>() {
            Ok(limit_ms) if limit_ms > 0.0 && limit_ms.is_finite() => Ok(Self { metric, limit_ms }),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::FinishReason;

    #[test]
    fn limits_are_written_as_in_other_benchmarks() {
        let slo: Slo = "ttft:200".parse().unwrap();
        assert_eq!((slo.metric, slo.limit_ms), (SloMetric::Ttft, 200.0));
        for bad in [
            "", "ttft", "ttft:", "ttft:0", "ttft:-1", "ttft:nan", "ttft:inf", "p99:3", "TTFT:1",
        ] {
            assert!(
                bad.parse::<Slo>().unwrap_err().contains("is no limit"),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_limit_is_met_at_its_border_and_never_by_a_failed_request() {
        let request = RequestTrace {
            run: 0,
            id: 0,
            batch: Some(0),
            reason: FinishReason::Length,
            prompt_tokens: 1,
            output_tokens: 1,
            arrival_ms: 100.0,
            scheduled_ms: Some(150.0),
            first_token_ms: Some(300.0),
            last_token_ms: Some(300.0),
            released_ms: Some(300.0),
            itl_p99_ms: None,
            preempted_ms: Vec::new(),
        };
        let meets =
            |slo: &str, request: &RequestTrace| slo.parse::<Slo>().unwrap().is_met_by(request);
        assert!(meets("ttft:200", &request) && !meets("ttft:199.9", &request));
        assert!(meets("e2el:200", &request) && !meets("e2el:100", &request));
        // A single token has no gaps.
        assert!(meets("tpot:0.001", &request) && meets("itl:0.001", &request));
        let rejected = RequestTrace {
            reason: FinishReason::Rejected,
            ..request
        };
        assert!(!meets("ttft:200", &rejected) && !meets("tpot:50", &rejected));
    }
}
