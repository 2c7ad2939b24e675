//! Follows the engine's news: to the answers that wait for it, to the metrics and to the live page.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::app::App;
use super::frames::Frames;
use super::live::{About, Live};
use super::news::News;
use crate::clock::Clock;
use crate::telemetry::{GpuId, NvmlSource, Sampler};

/// Between two pictures of the live page.
const TICK: Duration = Duration::from_millis(200);

pub struct Follower {
    app: Arc<App>,
    news: UnboundedReceiver<News>,
    live: Live,
    gpu: Option<Sampler>,
}

impl Follower {
    pub fn new(app: Arc<App>, news: UnboundedReceiver<News>) -> Self {
        let live = Live::new(About {
            model: app.options.model_name.clone(),
            device: app.engine.runner.clone(),
            policy: app.options.policy.clone(),
            request_level: app.engine.request_level,
            max_rows: app.engine.limits.max_rows,
            kv_pages: app.engine.kv_pages,
            page_size: app.engine.layout.page_size,
        });
        Self {
            gpu: watch(&app),
            app,
            news,
            live,
        }
    }

    /// Until the engine ends; gives the cause, if it failed.
    pub async fn follow(mut self) -> Result<(), String> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(News::Ended(ended)) => return ended,
                    Some(news) => self.hear(news),
                    None => return Err("the engine's thread is gone".into()),
                },
                _ = ticks.tick() => self.show(),
            }
        }
    }

    fn hear(&mut self, news: News) {
        if let News::Step(step) = &news {
            self.app.metrics.step(step);
            self.live.step(step);
        }
        for finished in self.app.listeners.deliver(news) {
            self.app.metrics.ended(finished.reason);
        }
    }

    fn show(&mut self) {
        let reading = self.gpu.as_ref().and_then(Sampler::latest);
        let reading = reading.map(|sample| sample.reading);
        if let Some(reading) = &reading {
            self.app.metrics.gpu(reading);
        }
        if self.app.live.receiver_count() == 0 {
            return;
        }
        let snapshot = self.live.snapshot(self.app.clock.now(), reading.as_ref());
        let mut event = Frames::default();
        event.add(&snapshot);
        // Who watches may have gone by now.
        let _ = self.app.live.send(event.take());
    }
}

/// Without telemetry the server goes on.
fn watch(app: &App) -> Option<Sampler> {
    let bus_id = app.engine.pci_bus_id.clone()?;
    let opened = NvmlSource::open(&GpuId::PciBusId(bus_id))
        .and_then(|source| Sampler::start(source, Sampler::INTERVAL, app.clock.started()));
    opened
        .inspect_err(|error| warn!(%error, "the GPU's counters stay empty"))
        .ok()
}
