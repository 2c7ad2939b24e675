//! What the live page is told: one JSON object several times a second. Durations are in ms since the
//! server's start, names as everywhere (docs/measuring.md).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::percentiles::Percentiles;
use crate::batching::CloseReason;
use crate::request::{FinishReason, RequestId};
use crate::telemetry::GpuReading;

/// What does not change while the server runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct About {
    pub model: String,
    pub device: String,
    /// In words, such as "continuous, at most 64 rows".
    pub policy: String,
    /// Rows that have ended stay in their batch until its slowest has.
    pub request_level: bool,
    pub max_rows: usize,
    pub kv_pages: usize,
    pub page_size: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// Counts up by one, so that who missed one knows.
    pub number: u64,
    #[serde(rename = "now_ms", serialize_with = "ms")]
    pub now: Duration,
    pub about: About,
    pub queued: usize,
    pub running: usize,
    /// Rows that have ended and wait for the slowest of their batch.
    pub idle_rows: usize,
    pub kv_pages_used: usize,
    /// When the batch being formed leaves at the latest.
    #[serde(rename = "deadline_ms", serialize_with = "maybe_ms")]
    pub deadline: Option<Duration>,
    /// Tokens of the last second.
    pub output_throughput: u64,
    /// Prompt tokens computed in it.
    pub prompt_throughput: u64,
    /// Requests that ended in it with the output they asked for.
    pub request_throughput: u64,
    pub ttft_ms: Percentiles,
    pub tpot_ms: Percentiles,
    pub queue_ms: Percentiles,
    /// Why batches closed, since the server's start.
    pub batch_close_reasons: BTreeMap<CloseReason, u64>,
    /// Why requests ended, since the server's start.
    pub finish_reasons: BTreeMap<FinishReason, u64>,
    pub gpu: Option<GpuReading>,
    /// Every row in use, and the oldest of those that wait.
    pub requests: Vec<LiveRequest>,
    /// Those that left since the snapshot before, the latest if they are too many.
    pub left: Vec<LiveRequest>,
    /// Batches that started or ended since then.
    pub batches: Vec<LiveBatch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Queued,
    Prefill,
    Decode,
    /// It has its output; its row waits for the batch.
    Idle,
    Left,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LiveRequest {
    pub id: RequestId,
    pub state: State,
    /// Its place while it runs, from 0; nobody else's until it leaves.
    pub row: Option<usize>,
    #[serde(rename = "arrival_ms", serialize_with = "ms")]
    pub arrival: Duration,
    #[serde(rename = "started_ms", serialize_with = "maybe_ms")]
    pub started: Option<Duration>,
    #[serde(rename = "first_token_ms", serialize_with = "maybe_ms")]
    pub first_token: Option<Duration>,
    #[serde(rename = "ended_ms", serialize_with = "maybe_ms")]
    pub ended: Option<Duration>,
    /// When its row was free: at its end, or at its batch's.
    #[serde(rename = "left_ms", serialize_with = "maybe_ms")]
    pub left: Option<Duration>,
    pub prompt_len: usize,
    pub output_len: usize,
    pub max_new_tokens: usize,
    pub reason: Option<FinishReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LiveBatch {
    #[serde(rename = "start_ms", serialize_with = "ms")]
    pub start: Duration,
    #[serde(rename = "end_ms", serialize_with = "maybe_ms")]
    pub end: Option<Duration>,
    pub size: usize,
    pub max_size: usize,
    pub close_reason: CloseReason,
    #[serde(rename = "wait_ms", serialize_with = "ms")]
    pub wait: Duration,
}

/// To a microsecond.
fn ms<S: Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(at.as_micros() as f64 / 1000.0)
}

fn maybe_ms<S: Serializer>(at: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => ms(at, serializer),
        None => serializer.serialize_none(),
    }
}
