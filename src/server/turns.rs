//! Work that takes a core for long: it holds no other request up, and leaves the engine half of the cores.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// So many bytes are read or written in a moment.
const FEW: usize = 64 << 10;

#[derive(Debug)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(cores.div_ceil(2))))
    }

    /// Works on a thread where it holds up none, when its turn has come. Errors: it panicked.
    pub async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Never closed. It belongs to the work, which goes on where its client has left.
        let turn = Arc::clone(&self.0).acquire_owned().await;
        let work = move || {
            let _turn = turn;
            work()
        };
        spawn_blocking(work).await
    }

    /// Takes a turn where the work is about many bytes.
    pub async fn take_if_large<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match bytes > FEW {
            true => self.take(work).await,
            false => Ok(work()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::*;

    #[tokio::test]
    async fn only_large_work_leaves_the_event_loop() {
        let turns = Turns::new();
        let here = thread::current().id();
        let worker = async |bytes| -> ThreadId {
            let work = turns.take_if_large(bytes, || thread::current().id());
            work.await.unwrap()
        };
        assert_eq!(worker(FEW).await, here);
        assert_ne!(worker(FEW + 1).await, here);
    }
}
