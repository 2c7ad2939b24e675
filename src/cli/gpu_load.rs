//! A real decode load to read a GPU under: full batches, one after another, for a given time.

use std::ops::ControlFlow;
use std::time::Duration;

use batchlab::Error;
use batchlab::batching::Static;
use batchlab::clock::Clock;
use batchlab::engine::{Engine, EngineConfig};
use batchlab::model::Model;
use batchlab::runner::{Limits, Runner};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::workload::{Arrivals, Ask, DriveError, Load, RequestOptions, drive};

const ROWS: usize = 8;
const PROMPT: usize = 16;
const OUTPUT: usize = 128;

/// What a runner must hold for this load.
pub fn limits(model: &Model) -> Limits {
    Limits {
        max_rows: ROWS,
        max_tokens: ROWS * PROMPT,
        max_kv_len: (PROMPT + OUTPUT).min(model.spec.max_positions),
    }
}

/// Decodes until `end` of the clock and returns the tokens generated.
pub fn decode_until(
    runner: &mut dyn Runner,
    model: &Model,
    clock: &dyn Clock,
    end: Duration,
) -> Result<usize, Error> {
    let config = EngineConfig {
        policy: Box::new(Static { batch_size: ROWS }),
        padding: Padding::Ragged,
        max_queue_size: ROWS,
        max_positions: model.spec.max_positions,
    };
    let mut engine = Engine::new(runner, clock, config);
    let ask = Ask {
        prompt: (0..PROMPT as u32)
            .map(|t| t % model.spec.vocab as u32)
            .collect(),
        output_len: limits(model).max_kv_len.saturating_sub(PROMPT).max(1),
    };
    let options = RequestOptions {
        stop_tokens: Vec::new(),
        sampling: Sampling::GREEDY,
        timeout: None,
    };
    let mut tokens = 0;
    while clock.now() < end {
        let asks = vec![ask.clone(); ROWS];
        let mut arrivals = Arrivals::new(asks, Load::Offline, options.clone(), clock.now(), 0)
            .map_err(Error::Usage)?;
        let driven = drive(&mut engine, &mut arrivals, |progress| {
            tokens += progress.tokens.len();
            match clock.now() < end {
                true => ControlFlow::Continue(Vec::new()),
                false => ControlFlow::Break(()),
            }
        });
        match driven {
            Ok(_) | Err(DriveError::Stopped) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tokens)
}
