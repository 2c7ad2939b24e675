//! How long a connection's client is waited for, beyond the time-outs of single reads and writes.
//!
//! An answer ends itself in time, but one that its client reads byte by byte is asked for nothing more and
//! would hold its place in the queue for ever. One that leaves in the middle of an answer need not be waited
//! for. And a client that never ends its request's head would hold up the server's end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::socket::Peer;

/// For what is on its way when an answer's time is over. Longer than an idle connection stays open, so that a
/// connection which has its answer ends by itself before.
const GRACE: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// No request has come yet, or none that has an end.
    Silent,
    Asked,
    /// Tokens are generated. By then all of the answer has left, or never will.
    Answering(Instant),
}

/// Tells how far a connection is; in the extensions of its requests.
#[derive(Debug, Clone)]
pub struct Progress(Arc<watch::Sender<Stage>>);

pub struct Patience {
    stage: watch::Receiver<Stage>,
    peer: Peer,
}

pub fn patience(peer: Peer) -> (Progress, Patience) {
    let (sender, stage) = watch::channel(Stage::Silent);
    (Progress(Arc::new(sender)), Patience { stage, peer })
}

impl Progress {
    pub fn asked(&self) {
        self.0.send_replace(Stage::Asked);
    }

    /// Nothing that ends is on its way.
    pub fn watching(&self) {
        self.0.send_replace(Stage::Silent);
    }

    /// `until` at the latest, but for what is on its way then.
    pub fn answering(&self, until: Instant) {
        self.0.send_replace(Stage::Answering(until + GRACE));
    }
}

impl Patience {
    /// Until there is no more point in waiting, perhaps for ever. `closing`: no request is accepted any more.
    pub async fn end(mut self, closing: impl Future<Output = ()>) {
        tokio::pin!(closing);
        loop {
            let stage = *self.stage.borrow_and_update();
            let end = async {
                match stage {
                    Stage::Silent => closing.as_mut().await,
                    Stage::Asked => std::future::pending().await,
                    // Who closes half of the connection is taken to have left: from here it is the same.
                    Stage::Answering(until) => tokio::select! {
                        () = sleep_until(until) => {}
                        () = self.peer.left() => {}
                    },
                }
            };
            tokio::select! {
                () = end => return,
                changed = self.stage.changed() => if changed.is_err() {
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

    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::super::socket::Socket;
    use super::*;

    /// A client, and what is known of it.
    async fn client() -> (TcpStream, Progress, Patience) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (_, peer) = Socket::new(listener.accept().await.unwrap().0);
        let (progress, patience) = patience(peer);
        (client.unwrap(), progress, patience)
    }

    /// Whether it ends in a moment.
    async fn ends(patience: Patience, closing: impl Future<Output = ()>) -> bool {
        let moment = Duration::from_millis(50);
        timeout(moment, patience.end(closing)).await.is_ok()
    }

    #[tokio::test]
    async fn who_has_asked_nothing_is_waited_for_until_the_server_closes() {
        let (_client, _progress, patience) = client().await;
        assert!(!ends(patience, pending()).await);
        let (_client, _progress, patience) = client().await;
        assert!(ends(patience, ready(())).await);
    }

    #[tokio::test]
    async fn an_answer_may_leave_until_its_time_and_grace_are_over() {
        let now = Instant::now();
        for (until, over) in [(now, false), (now - GRACE, true)] {
            let (_client, progress, patience) = client().await;
            progress.asked();
            progress.answering(until);
            assert_eq!(ends(patience, ready(())).await, over);
        }
        // The next request is in time again.
        let (_client, progress, patience) = client().await;
        progress.answering(now - GRACE);
        progress.asked();
        assert!(!ends(patience, ready(())).await);
    }

    #[tokio::test]
    async fn who_leaves_during_an_answer_is_not_waited_for_whatever_he_sent() {
        let (client, progress, patience) = client().await;
        client.try_write(b"never read").unwrap();
        progress.answering(Instant::now());
        drop(client);
        patience.end(pending()).await;
    }
}
