//! Semaphores that many holders have one of each, kept for as long as somebody uses them.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many permits for each holder.
pub(crate) struct Shares<K> {
    each: usize,
    /// Of each holder how many shares there are, and the semaphore of all of them.
    used: Mutex<HashMap<K, (usize, Arc<Semaphore>)>>,
}

/// Some permits of a holder, until it is dropped.
pub(crate) struct Share<K: Copy + Eq + Hash> {
    shares: Arc<Shares<K>>,
    holder: K,
    semaphore: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// Every holder has so many permits.
    pub(crate) fn of_each(each: usize) -> Arc<Self> {
        Arc::new(Self { each, used: Mutex::default() })
    }

    /// A share that has no permit yet.
    pub(crate) fn share(self: &Arc<Self>, holder: K) -> Share<K> {
        let mut used = self.used();
        let fresh = || (0, Arc::new(Semaphore::new(self.each)));
        let (count, semaphore) = used.entry(holder).or_insert_with(fresh);
        *count += 1;
        Share { shares: Arc::clone(self), holder, semaphore: Arc::clone(semaphore), permit: None }
    }

    fn used(&self) -> MutexGuard<'_, HashMap<K, (usize, Arc<Semaphore>)>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Share<K> {
    /// Waits for so many permits, in the order of asking.
    pub(crate) async fn take(&mut self, permits: u32) {
        // Nobody closes the semaphore.
        self.permit = Arc::clone(&self.semaphore).acquire_many_owned(permits).await.ok();
    }
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        // Before the semaphore is forgotten: who comes then finds another one.
        self.permit = None;
        let mut used = self.shares.used();
        if let Some((count, _)) = used.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                used.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_holder_has_its_own_and_is_forgotten_with_its_last_share() {
        let shares = Shares::of_each(3);
        let taken = async |holder: u8, permits| {
            let mut share = shares.share(holder);
            share.take(permits).now_or_never().map(|()| share)
        };
        let first = taken(1, 2).await.unwrap();
        assert!(taken(1, 2).await.is_none() && taken(2, 3).await.is_some());
        let second = taken(1, 1).await.unwrap();
        drop(first);
        assert!(taken(1, 2).await.is_some() && taken(1, 3).await.is_none(), "one is still out");
        drop(second);
        assert!(shares.used().is_empty());
    }
}
