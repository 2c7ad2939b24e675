//! `/metrics`: what the server did, for Prometheus. Names as in docs/serving.md; durations in seconds, as
//! Prometheus wants them.

use std::fmt::{self, Debug, Display, Write};
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::engine_thread::Engaged;
use super::news::StepNews;
use super::options::ServeOptions;
use crate::batching::CloseReason;
use crate::metrics::RequestTimes;
use crate::request::{FinishReason, Finished};
use crate::telemetry::GpuReading;

type Number = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closed {
    reason: Named<CloseReason>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    reason: Named<FinishReason>,
}

/// A value by the name that serde gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Named<T>(T);

impl<T: Serialize> Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

impl<T: Debug + Serialize> EncodeLabelValue for Named<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(encoder, "{self}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: u16,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ttft: Histogram,
    tpot: Histogram,
    queue: Histogram,
    e2el: Histogram,
    step: Histogram,
    actual_batch_size: Histogram,
    step_rows: Histogram,
    batch_wait: Histogram,
    batch_close_reason: Family<Closed, Counter>,
    requests: Family<Ended, Counter>,
    responses: Family<Status, Counter>,
    prompt_tokens: Counter,
    output_tokens: Counter,
    computed_tokens: Counter,
    padded_tokens: Counter,
    idle_row_steps: Counter,
    preemptions: Counter,
    waiting: Gauge,
    running: Gauge,
    kv_pages_used: Gauge,
    kv_cache_usage: Number,
    connections: Gauge,
    gpu: Family<Quantity, Number>,
    kv_pages: usize,
}

/// Of a GPU, by its name in results.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Quantity {
    quantity: &'static str,
}

impl Metrics {
    pub(super) fn new(engine: &Engaged, options: &ServeOptions) -> Self {
        // From a tenth of a millisecond to 100 seconds, four to a factor of ten.
        let seconds = || Histogram::new(exponential_buckets(1e-4, 10f64.powf(0.25), 25));
        let sizes = || Histogram::new(exponential_buckets(1.0, 2.0, 11));
        let mut metrics = Self {
            registry: Registry::with_prefix("batchlab"),
            ttft: seconds(),
            tpot: seconds(),
            queue: seconds(),
            e2el: seconds(),
            step: seconds(),
            actual_batch_size: sizes(),
            step_rows: sizes(),
            batch_wait: seconds(),
            batch_close_reason: Family::default(),
            requests: Family::default(),
            responses: Family::default(),
            prompt_tokens: Counter::default(),
            output_tokens: Counter::default(),
            computed_tokens: Counter::default(),
            padded_tokens: Counter::default(),
            idle_row_steps: Counter::default(),
            preemptions: Counter::default(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            kv_pages_used: Gauge::default(),
            kv_cache_usage: Number::default(),
            connections: Gauge::default(),
            gpu: Family::default(),
            kv_pages: engine.kv_pages,
        };
        metrics.register(engine, options);
        metrics
    }

    fn register(&mut self, engine: &Engaged, options: &ServeOptions) {
        let r = &mut self.registry;
        let about = [
            ("model", options.model_name.clone()),
            ("runner", engine.runner.clone()),
        ];
        r.register("server", "What is served, and on what", Info::new(about));
        let mut of = |name, help, metric: &Histogram| r.register(name, help, metric.clone());
        of(
            "ttft_seconds",
            "Arrival to first token, of complete requests",
            &self.ttft,
        );
        of(
            "tpot_seconds",
            "(e2el - ttft) / (output tokens - 1)",
            &self.tpot,
        );
        of("queue_seconds", "Arrival to first scheduled", &self.queue);
        of("e2el_seconds", "Arrival to last token", &self.e2el);
        of("step_seconds", "One step of the engine", &self.step);
        of(
            "actual_batch_size",
            "Requests that started together",
            &self.actual_batch_size,
        );
        of(
            "step_rows",
            "Rows of a step, idle ones among them",
            &self.step_rows,
        );
        of(
            "batch_wait_seconds",
            "Age of its oldest request when a batch closed",
            &self.batch_wait,
        );
        let mut of = |name, help, metric: &Counter| r.register(name, help, metric.clone());
        of(
            "prompt_tokens",
            "Tokens of prompts whose requests have ended",
            &self.prompt_tokens,
        );
        of("output_tokens", "Tokens generated", &self.output_tokens);
        of(
            "computed_tokens",
            "Positions computed, padding included",
            &self.computed_tokens,
        );
        of(
            "padded_tokens",
            "Padded positions computed",
            &self.padded_tokens,
        );
        of(
            "idle_row_steps",
            "Row-steps computed for rows that had ended",
            &self.idle_row_steps,
        );
        of(
            "preemptions",
            "Rows that lost their KV pages to older ones",
            &self.preemptions,
        );
        let mut of = |name, help, metric: &Gauge| r.register(name, help, metric.clone());
        of("requests_waiting", "Requests in the queue", &self.waiting);
        of(
            "requests_running",
            "Requests that have started and not ended",
            &self.running,
        );
        of(
            "kv_pages_used",
            "KV pages that rows hold",
            &self.kv_pages_used,
        );
        of("connections", "Open connections", &self.connections);
        let kv_pages: Gauge = Gauge::default();
        kv_pages.set(engine.kv_pages as i64);
        of("kv_pages_total", "KV pages of the pool", &kv_pages);
        r.register(
            "kv_cache_usage_percent",
            "Share of the KV pages that rows hold",
            self.kv_cache_usage.clone(),
        );
        r.register(
            "batch_close_reason",
            "Batches by why they closed",
            self.batch_close_reason.clone(),
        );
        r.register(
            "requests",
            "Requests that ended, by how",
            self.requests.clone(),
        );
        r.register(
            "http_responses",
            "HTTP answers by status",
            self.responses.clone(),
        );
        r.register(
            "gpu",
            "Readings of the GPU; units are in the names",
            self.gpu.clone(),
        );
    }

    /// One step of the engine.
    pub(super) fn step(&self, news: &StepNews) {
        for step in &news.steps {
            self.step.observe(step.duration.as_secs_f64());
            self.step_rows.observe(step.shape.rows as f64);
            self.computed_tokens.inc_by(step.shape.tokens as u64);
            self.padded_tokens.inc_by(step.shape.padded_tokens as u64);
            self.idle_row_steps.inc_by(step.shape.idle_rows as u64);
            self.preemptions.inc_by(step.shape.preemptions as u64);
        }
        // A batch that has an end was counted when it started.
        for batch in news.batches.iter().filter(|b| b.end.is_none()) {
            self.actual_batch_size.observe(batch.size as f64);
            self.batch_wait.observe(batch.wait.as_secs_f64());
            let reason = Named(batch.close_reason);
            self.batch_close_reason
                .get_or_create(&Closed { reason })
                .inc();
        }
        self.output_tokens.inc_by(news.tokens.len() as u64);
        self.running.inc_by(news.started.len() as i64);
        self.waiting.set(news.queued as i64);
        self.kv_pages_used.set(news.kv_pages_used as i64);
        let share = news.kv_pages_used as f64 / self.kv_pages.max(1) as f64;
        self.kv_cache_usage.set(100.0 * share);
        for finished in &news.finished {
            self.finished(finished);
        }
    }

    fn finished(&self, finished: &Finished) {
        if finished.scheduled.is_some() {
            self.running.dec();
        }
        self.prompt_tokens.inc_by(finished.prompt_len as u64);
        if let Some(times) = RequestTimes::of(finished) {
            self.ttft.observe(times.ttft.as_secs_f64());
            self.e2el.observe(times.e2el.as_secs_f64());
            if let Some(queue) = times.queue {
                self.queue.observe(queue.as_secs_f64());
            }
            if let Some(tpot) = times.tpot {
                self.tpot.observe(tpot.as_secs_f64());
            }
        }
    }

    /// How a request ended, by who knows it: its answer, where one is left. After its step was told.
    pub(super) fn ended(&self, reason: FinishReason) {
        let reason = Named(reason);
        self.requests.get_or_create(&Ended { reason }).inc();
    }

    pub(super) fn responded(&self, status: u16) {
        self.responses.get_or_create(&Status { status }).inc();
    }

    pub(super) fn connected(&self) {
        self.connections.inc();
    }

    pub(super) fn disconnected(&self) {
        self.connections.dec();
    }

    pub(super) fn gpu(&self, reading: &GpuReading) {
        let known = [
            ("gpu_utilization_percent", reading.gpu_utilization_percent),
            ("sm_active_percent", reading.sm_active_percent),
            ("tensor_active_percent", reading.tensor_active_percent),
            ("dram_bandwidth_percent", reading.dram_bandwidth_percent),
            ("gpu_power_w", reading.gpu_power_w),
            ("energy_counter_j", reading.energy_counter_j),
            (
                "gpu_memory_used_bytes",
                reading.gpu_memory_used_bytes.map(|b| b as f64),
            ),
            ("sm_clock_mhz", reading.sm_clock_mhz.map(f64::from)),
            ("temperature_c", reading.temperature_c.map(f64::from)),
        ];
        for (name, value) in known {
            if let Some(value) = value {
                let quantity = Quantity { quantity: name };
                self.gpu.get_or_create(&quantity).set(value);
            }
        }
    }

    /// In the OpenMetrics text format.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
