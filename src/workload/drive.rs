//! Sends a load to an engine and waits for it to end.

use std::ops::ControlFlow;

use super::Arrivals;
use crate::engine::{Engine, Next, Progress, SubmitError};
use crate::request::{FinishReason, Finished, RequestId};
use crate::runner::RunnerError;
use crate::scheduler::Refusal;

#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// `observe` asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Runs the load to its end and returns every request's end, in order of ending. `observe` sees
/// each step and may stop the load; it continues with the requests that need no more tokens, because
/// a stop string has come.
pub fn drive(
    engine: &mut Engine<'_>,
    arrivals: &mut Arrivals,
    mut observe: impl FnMut(&Progress) -> ControlFlow<(), Vec<RequestId>>,
) -> Result<Vec<Finished>, DriveError> {
    let clock = engine.clock();
    let mut ended = Vec::new();
    while !arrivals.is_done() {
        while let Some(request) = arrivals.pop_due(clock.now()) {
            match engine.submit(request) {
                Ok(()) => {}
                Err(SubmitError::Refused(refusal)) => return Err(refusal.into()),
                Err(SubmitError::QueueFull(rejected)) => {
                    arrivals.completed(rejected.finished);
                    ended.push(*rejected);
                }
            }
        }
        let mut progress = engine.step()?;
        match observe(&progress) {
            ControlFlow::Continue(stopped) => stop(engine, &mut progress.finished, &stopped),
            ControlFlow::Break(()) => return Err(DriveError::Stopped),
        }
        for request in &progress.finished {
            arrivals.completed(request.finished);
        }
        ended.extend(progress.finished);
        match (progress.next, arrivals.next_due()) {
            (Next::Step, _) => {}
            (Next::WaitUntil(t), due) => clock.sleep_until(due.map_or(t, |due| due.min(t))),
            (Next::WaitForArrival, Some(due)) => clock.sleep_until(due),
            (Next::WaitForArrival, None) => engine.flush(),
        }
    }
    Ok(ended)
}

/// Ends requests as a stop token would, those too that reached their length with the same token.
fn stop(engine: &mut Engine<'_>, finished: &mut Vec<Finished>, stopped: &[RequestId]) {
    finished.extend(stopped.iter().filter_map(|&id| engine.cancel(id)));
    for request in finished.iter_mut().filter(|r| stopped.contains(&r.id)) {
        request.reason = FinishReason::Stop;
    }
}
