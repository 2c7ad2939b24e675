//! How many requests may be here at once: those that run and those that wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Gives out the places in the queue and in the batch. Who gets none is told so at once.
#[derive(Debug)]
pub struct Admission {
    places: Arc<Semaphore>,
    total: u32,
}

/// No place is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    Now,
    /// More were asked for than there are.
    Ever {
        total: u32,
    },
}

impl Admission {
    pub fn new(max_rows: usize, max_queue_size: usize) -> Self {
        let total = max_rows
            .saturating_add(max_queue_size)
            .min(Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            places: Arc::new(Semaphore::new(total)),
            total: total as u32,
        }
    }

    /// As many places, all or none; given back when they are dropped.
    pub fn places(&self, count: usize) -> Result<Vec<OwnedSemaphorePermit>, NoPlace> {
        let wanted = u32::try_from(count).ok().filter(|&n| n <= self.total);
        let wanted = wanted.ok_or(NoPlace::Ever { total: self.total })?;
        let taken = Arc::clone(&self.places).try_acquire_many_owned(wanted);
        let mut taken = taken.map_err(|_| NoPlace::Now)?;
        // One for each, so that each is free as soon as its own request ends.
        Ok((0..count).filter_map(|_| taken.split(1)).collect())
    }

    /// Waits until no request is here, and lets none in from now on.
    pub async fn close(&self) {
        if let Ok(all) = self.places.acquire_many(self.total).await {
            all.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_or_none() {
        let admission = Admission::new(2, 1);
        let two = admission.places(2).unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(admission.places(2).unwrap_err(), NoPlace::Now);
        let one = admission.places(1).unwrap();
        drop(two);
        assert_eq!(admission.places(2).unwrap().len(), 2);
        drop(one);
        assert_eq!(admission.places(4).unwrap_err(), NoPlace::Ever { total: 3 });
    }

    #[tokio::test]
    async fn closes_when_the_last_has_left() {
        let admission = Admission::new(1, 1);
        let place = admission.places(1).unwrap();
        let mut closing = Box::pin(admission.close());
        tokio::select! {
            biased;
            () = &mut closing => panic!("one is still here"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(admission.places(1).unwrap_err(), NoPlace::Now);
        drop(place);
        closing.await;
        assert_eq!(admission.places(1).unwrap_err(), NoPlace::Now);
    }
}
