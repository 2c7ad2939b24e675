//! A thread with an event loop, and the requests that it follows.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use cpu_time::ThreadTime;
use reqwest::Client;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::TargetError;
use super::exchange::{End, Peer, exchange};
use crate::clock::Clock;
use crate::request::Request;

/// What a lane is told.
enum Told {
    Send(Request),
    /// To answer at once, with the moment at which it was to be told.
    Ping(Duration),
}

/// What a lane says.
pub enum News {
    Ended { lane: usize, end: Box<End> },
    Here(Pulse),
}

/// An answer to a ping.
pub struct Pulse {
    pub lane: usize,
    /// When the event loop got to it.
    pub at: Duration,
    /// From when it was due to then.
    pub lag: Duration,
    /// Of the thread, since it began.
    pub cpu: Duration,
    /// Pieces with tokens since the pulse before.
    pub chunks: usize,
}

/// A running lane. Dropping it ends and joins its thread.
pub struct Lane {
    told: Option<UnboundedSender<Told>>,
    thread: Option<JoinHandle<()>>,
    pub outstanding: usize,
}

impl Lane {
    pub fn start(
        lane: usize,
        client: Client,
        peer: Arc<Peer>,
        news: Sender<News>,
    ) -> Result<Self, TargetError> {
        let failed = |e: std::io::Error| TargetError::Client(e.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (told, hears) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name(format!("client {lane}"))
            .spawn(move || {
                let tasks = LocalSet::new();
                tasks.block_on(&runtime, follow(lane, client, peer, hears, news));
            })
            .map_err(failed)?;
        Ok(Self {
            told: Some(told),
            thread: Some(thread),
            outstanding: 0,
        })
    }

    pub fn send(&mut self, request: Request) -> Result<(), TargetError> {
        self.outstanding += 1;
        self.tell(Told::Send(request))
    }

    pub fn ping(&self, due: Duration) -> Result<(), TargetError> {
        self.tell(Told::Ping(due))
    }

    fn tell(&self, what: Told) -> Result<(), TargetError> {
        let told = self.told.as_ref().ok_or(TargetError::Ended)?;
        told.send(what).map_err(|_| TargetError::Ended)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.told = None;
        if let Some(thread) = self.thread.take() {
            // A panic has already been printed by its own thread.
            let _ = thread.join();
        }
    }
}

/// Until nobody can tell anything any more.
async fn follow(
    lane: usize,
    client: Client,
    peer: Arc<Peer>,
    mut hears: UnboundedReceiver<Told>,
    news: Sender<News>,
) {
    let chunks = Rc::new(Cell::new(0));
    let since = ThreadTime::now();
    while let Some(told) = hears.recv().await {
        match told {
            Told::Ping(due) => {
                let at = peer.clock.now();
                // Nobody listens any more at the end of a sweep.
                let _ = news.send(News::Here(Pulse {
                    lane,
                    at,
                    lag: at.saturating_sub(due),
                    cpu: since.elapsed(),
                    chunks: chunks.take(),
                }));
            }
            Told::Send(request) => {
                let (client, peer, news) = (client.clone(), Arc::clone(&peer), news.clone());
                let chunks = Rc::clone(&chunks);
                tokio::task::spawn_local(async move {
                    let came = |more| chunks.set(chunks.get() + more);
                    let end = Box::new(exchange(&client, &peer, request, came).await);
                    let _ = news.send(News::Ended { lane, end });
                });
            }
        }
    }
}
