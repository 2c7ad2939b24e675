//! How long a connection's client is waited for, beyond the time-outs of single reads and writes.
//!
//! An answer ends itself in time, but one that its client reads byte by byte is asked for nothing more and
//! would hold its place in the queue for ever. And a client that never ends its request's head would hold up
//! the server's end.

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// For what is on its way when an answer's time is over. Longer than an idle connection stays open, so that a
/// connection which has its answer ends by itself before.
const GRACE: Duration = Duration::from_secs(40);

/// In a response's extensions: when its answer ends at the latest.
#[derive(Debug, Clone, Copy)]
pub struct AnswerBy(pub Instant);

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// No request has come yet.
    Silent,
    Asked,
    /// By then all of the answer has left, or never will.
    Answered(Instant),
}

/// Tells how far a connection is.
#[derive(Debug, Clone)]
pub struct Progress(Arc<watch::Sender<Stage>>);

#[derive(Debug)]
pub struct Patience(watch::Receiver<Stage>);

pub fn patience() -> (Progress, Patience) {
    let (sender, receiver) = watch::channel(Stage::Silent);
    (Progress(Arc::new(sender)), Patience(receiver))
}

impl Progress {
    pub fn asked(&self) {
        self.0.send_replace(Stage::Asked);
    }

    pub fn answered<B>(&self, response: &Response<B>) {
        if let Some(AnswerBy(at)) = response.extensions().get() {
            self.0.send_replace(Stage::Answered(*at + GRACE));
        }
    }
}

impl Patience {
    /// Until there is no more point in waiting, perhaps for ever. `closing`: no request is accepted any more.
    pub async fn end(mut self, closing: impl Future<Output = ()>) {
        tokio::pin!(closing);
        loop {
            let stage = *self.0.borrow_and_update();
            let end = async {
                match stage {
                    Stage::Silent => closing.as_mut().await,
                    Stage::Asked => std::future::pending().await,
                    Stage::Answered(at) => sleep_until(at).await,
                }
            };
            tokio::select! {
                () = end => return,
                changed = self.0.changed() => if changed.is_err() {
                    // The connection is ending by itself.
                    std::future::pending::<()>().await;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::timeout;

    use super::*;

    /// Whether it ends in a moment.
    async fn ends(patience: Patience, closing: impl Future<Output = ()>) -> bool {
        let moment = Duration::from_millis(50);
        timeout(moment, patience.end(closing)).await.is_ok()
    }

    #[tokio::test]
    async fn who_has_asked_nothing_is_waited_for_until_the_server_closes() {
        assert!(!ends(patience().1, pending()).await);
        let (_progress, patience) = patience();
        assert!(ends(patience, ready(())).await);
    }

    #[tokio::test]
    async fn an_answer_may_leave_until_its_time_and_grace_are_over() {
        let by = |at| {
            let mut response = Response::new(());
            response.extensions_mut().insert(AnswerBy(at));
            response
        };
        let now = Instant::now();
        for (at, over) in [(now, false), (now - GRACE, true)] {
            let (progress, patience) = patience();
            progress.asked();
            progress.answered(&by(at));
            assert_eq!(ends(patience, ready(())).await, over);
        }
        // The next request is in time again, and an answer without a deadline has for ever.
        let (progress, patience) = patience();
        progress.answered(&by(now - GRACE));
        progress.asked();
        progress.answered(&Response::new(()));
        assert!(!ends(patience, ready(())).await);
    }
}
