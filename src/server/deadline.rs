//! When an answer must have left. An answer ends itself in time, but one that its client reads byte by byte
//! is asked for nothing more, holds its place in the queue and would hold it for ever.

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// For what is on its way at the deadline. Longer than an idle connection stays open, so that a connection
/// which has its answer ends by itself before.
const GRACE: Duration = Duration::from_secs(40);

/// In a response's extensions: when its answer ends at the latest.
#[derive(Debug, Clone, Copy)]
pub struct AnswerBy(pub Instant);

/// A connection's deadline.
#[derive(Debug, Clone)]
pub struct Deadline(Arc<watch::Sender<Option<Instant>>>);

/// The other end of it.
#[derive(Debug)]
pub struct Overdue(watch::Receiver<Option<Instant>>);

pub fn deadline() -> (Deadline, Overdue) {
    let (sender, receiver) = watch::channel(None);
    (Deadline(Arc::new(sender)), Overdue(receiver))
}

impl Deadline {
    pub fn lift(&self) {
        self.0.send_replace(None);
    }

    pub fn set_for<B>(&self, response: &Response<B>) {
        let by = response.extensions().get();
        self.0.send_replace(by.map(|AnswerBy(at)| *at + GRACE));
    }
}

impl Overdue {
    /// Until the deadline is over; for ever where there is none.
    pub async fn wait(mut self) {
        loop {
            let by = *self.0.borrow_and_update();
            let over = async {
                match by {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                changed = self.0.changed() => if changed.is_err() {
                    // The connection is ending by itself.
                    std::future::pending::<()>().await;
                },
            }
        }
    }
}
