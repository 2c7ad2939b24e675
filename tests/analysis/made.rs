//! Cells made from a few numbers, through the same records and summaries as measured ones.

use std::time::Duration;

use batchlab::batching::CloseReason;
use batchlab::metrics::{BatchRecord, StepRecord, Summary, traces};
use batchlab::report::{Header, KvInfo, Machine, MemoryInfo, Status};
use batchlab::request::{FinishReason, Finished};
use batchlab::scheduler::{Padding, StepShape};
use batchlab::sweep::{CellResult, CellSpec, LoadSpec, Measured, PolicyKind, RunResult};

/// One batch after another, all alike but for a jitter that alternates.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    /// Arrival → start of the batch.
    pub queue_ms: f64,
    /// Added to the queue with every batch.
    pub queue_growth_ms: f64,
    /// Start of the batch → first token.
    pub prefill_ms: f64,
    /// Start of the batch → last token.
    pub service_ms: f64,
    /// Added to the service of every other batch, taken from the others.
    pub jitter_ms: f64,
    pub output: usize,
    pub batches: usize,
    pub failed: usize,
    pub pages_used: usize,
    pub positions: usize,
    pub padded_positions: usize,
    /// Of every row-step.
    pub idle_share: f64,
    pub rate: Option<f64>,
}

pub const SHAPE: Shape = Shape {
    rows: 1,
    queue_ms: 0.0,
    queue_growth_ms: 0.0,
    prefill_ms: 10.0,
    service_ms: 100.0,
    jitter_ms: 1.0,
    output: 10,
    batches: 20,
    failed: 0,
    pages_used: 10,
    positions: 100,
    padded_positions: 0,
    idle_share: 0.0,
    rate: None,
};

/// Of a finished sweep with this model.
pub fn header(cells_total: usize, model: &str) -> Header {
    Header {
        format: Header::FORMAT,
        batchlab_version: "0".into(),
        status: Status::Complete,
        started_utc: "2026-01-01T00:00:00Z".into(),
        written_utc: "2026-01-01T00:01:00Z".into(),
        command: vec!["batchlab".into(), "sweep".into()],
        machine: Machine::this(),
        gpu: None,
        runner: "scripted".into(),
        kv: Some(KvInfo {
            kv_bytes_per_token: 1024,
            page_size: 32,
            pages: 1000,
            predicted_bytes: 1000 << 20,
            allocated_bytes: None,
        }),
        memory: Some(MemoryInfo::default()),
        config: serde_json::json!({"model": model}),
        cells_total,
        engine_options: vec!["--device".into(), "cpu".into()],
        prompt_options: [("p".into(), ["--prompt".into(), "it's".into()])].into(),
        measure_options: vec![],
    }
}

/// Under day2's premise.
pub fn closed(batch_size: usize) -> CellSpec {
    CellSpec {
        policy: PolicyKind::Dynamic,
        batch_size,
        window_ms: Some(0.0),
        padding: Padding::Padded,
        prompts: "p".into(),
        output_len: "10".into(),
        load: LoadSpec::Closed {
            concurrency: batch_size,
        },
    }
}

pub fn poisson(batch_size: usize, rate: f64) -> CellSpec {
    CellSpec {
        load: LoadSpec::Poisson {
            rate,
            burstiness: 1.0,
        },
        ..closed(batch_size)
    }
}

fn ms(v: f64) -> Duration {
    Duration::from_secs_f64(v / 1e3)
}

/// A cell of one run.
pub fn cell(index: usize, spec: CellSpec, shape: Shape) -> Measured {
    cell_of_runs(index, spec, &[shape])
}

pub fn cell_of_runs(index: usize, spec: CellSpec, shapes: &[Shape]) -> Measured {
    let (mut runs, mut requests) = (Vec::new(), Vec::new());
    for (run, shape) in shapes.iter().enumerate() {
        let (finished, batches, steps) = records(&spec, shape);
        requests.extend(traces(run, &finished, &batches));
        runs.push(RunResult {
            summary: Summary::of(&finished, &batches, &steps, &[]),
            gpu: None,
            j_per_output_token: None,
            client: None,
        });
    }
    Measured {
        result: CellResult {
            index,
            request_rate: shapes[0].rate,
            cell: spec,
            runs,
            confidence: Default::default(),
        },
        requests,
    }
}

fn records(spec: &CellSpec, s: &Shape) -> (Vec<Finished>, Vec<BatchRecord>, Vec<StepRecord>) {
    let (mut finished, mut batches, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    let mut start = s.queue_ms + 1000.0;
    for batch in 0..s.batches {
        let sign = if batch % 2 == 0 { 1.0 } else { -1.0 };
        let service = s.service_ms + sign * s.jitter_ms;
        let end = start + service;
        let gap = (service - s.prefill_ms) / (s.output.max(2) - 1) as f64;
        let token = |i: usize| ms(start + s.prefill_ms + gap * i as f64);
        for row in 0..s.rows {
            let id = (batch * s.rows + row) as u64;
            let failed = (id as usize) < s.failed;
            finished.push(Finished {
                id,
                prompt_len: 3,
                output: vec![0; s.output],
                reason: match failed {
                    true => FinishReason::Cancelled,
                    false => FinishReason::Length,
                },
                arrival: ms(start - s.queue_ms - s.queue_growth_ms * batch as f64),
                scheduled: Some(ms(start)),
                token_times: (0..s.output).map(token).collect(),
                preempted: Vec::new(),
                finished: ms(end),
            });
        }
        let row_steps = s.rows * (s.output - 1);
        batches.push(BatchRecord {
            size: s.rows,
            max_size: spec.batch_size,
            close_reason: CloseReason::Full,
            wait: ms(s.queue_ms),
            start: ms(start),
            end: (spec.policy != PolicyKind::Continuous).then(|| ms(end)),
        });
        for step in 0..s.output {
            let prefill = step == 0;
            // The counts of a whole batch stand in its first step of a kind.
            let counted = |count: usize, here: bool| if here { count } else { 0 };
            steps.push(StepRecord {
                start: ms(start),
                duration: ms(if prefill { s.prefill_ms } else { gap }),
                shape: StepShape {
                    rows: s.rows,
                    decode_rows: if prefill { 0 } else { s.rows },
                    idle_rows: counted((row_steps as f64 * s.idle_share) as usize, step == 1),
                    tokens: counted(s.positions, prefill),
                    padded_tokens: counted(s.padded_positions, prefill),
                    kv_pages_used: s.pages_used,
                    kv_pages_total: 1000,
                    ..StepShape::default()
                },
                ..StepRecord::default()
            });
        }
        start = end;
    }
    (finished, batches, steps)
}
