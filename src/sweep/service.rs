//! Where the requests of a run go: the engine in this process, or a server.

use std::ops::ControlFlow;

use super::{CellSpec, MeasureOptions};
use crate::Error;
use crate::clock::Clock;
use crate::engine::{Engine, EngineConfig, Records};
use crate::metrics::ClientCost;
use crate::request::Finished;
use crate::runner::Runner;
use crate::workload::{Arrivals, drive};

/// What a run left behind.
pub struct Ran {
    /// In order of ending.
    pub finished: Vec<Finished>,
    /// Empty where only a server knows of batches and steps.
    pub records: Records,
    /// Of a client that is not part of what is measured.
    pub client: Option<ClientCost>,
}

/// Hears how many requests ended and how many tokens came since the last time.
pub type Heard<'a> = &'a mut dyn FnMut(usize, usize);

/// Something that requests can be sent to.
pub trait Service {
    /// Runs a load to its end.
    fn run(&mut self, cell: &CellSpec, load: Arrivals, heard: Heard<'_>) -> Result<Ran, Error>;
}

/// An engine of its own for every run.
pub struct InProcess<'a> {
    pub runner: &'a mut dyn Runner,
    pub clock: &'a dyn Clock,
    pub options: &'a MeasureOptions,
    /// The model's longest context.
    pub max_positions: usize,
}

impl Service for InProcess<'_> {
    fn run(&mut self, cell: &CellSpec, mut load: Arrivals, heard: Heard<'_>) -> Result<Ran, Error> {
        let config = EngineConfig {
            policy: cell.policy(self.options)?,
            padding: cell.padding,
            max_queue_size: self.options.max_queue_size,
            max_positions: self.max_positions,
        };
        let mut engine = Engine::new(self.runner, self.clock, config);
        let finished = drive(&mut engine, &mut load, |progress| {
            heard(progress.finished.len(), progress.tokens.len());
            ControlFlow::Continue(Vec::new())
        })?;
        Ok(Ran {
            finished,
            records: engine.take_records(),
            client: None,
        })
    }
}
