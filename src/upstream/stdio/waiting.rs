//! Waiting for another thread on behalf of a client, which may disconnect meanwhile.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::lock::Unpoisoned;
use crate::net::cancellation::Cancellation;
use crate::wake::Waker;

/// Waits until `waker` is woken, and clears it. Fails with `TimedOut` after `timeout`.
pub(crate) fn wait_for(waker: &Waker, timeout: Duration, cancellation: &Cancellation) -> io::Result<()> {
    cancellation.wait(waker, PollFlags::IN, Some(timeout))?;
    waker.clear();
    Ok(())
}

/// Threads that wait for a change, each on behalf of a client. A wait ends early when its client disconnects.
#[derive(Debug, Default)]
pub(crate) struct WaitList(Mutex<Vec<Arc<Waker>>>);

impl WaitList {
    /// Adds the caller to the list; it does not miss a [`WaitList::wake`] from here on.
    pub(crate) fn join(&self) -> io::Result<Waiting<'_>> {
        let waker = Arc::new(Waker::new()?);
        self.wakers().push(waker.clone());
        Ok(Waiting { list: self, waker })
    }

    pub(crate) fn wake(&self) {
        self.wakers().iter().for_each(|waker| waker.wake());
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Arc<Waker>>> {
        self.0.lock().unpoisoned()
    }
}

/// An entry in a [`WaitList`], removed on drop.
pub(crate) struct Waiting<'w> {
    list: &'w WaitList,
    waker: Arc<Waker>,
}

impl Waiting<'_> {
    /// Waits until the list is woken: see [`wait_for`].
    pub(crate) fn wait(&self, timeout: Duration, cancellation: &Cancellation) -> io::Result<()> {
        wait_for(&self.waker, timeout, cancellation)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.list.wakers().retain(|waker| !Arc::ptr_eq(waker, &self.waker));
    }
}

/// A lock that may be held for seconds. Waiting for it has a timeout and ends early when the client disconnects.
#[derive(Default)]
pub(crate) struct TimedMutex<T> {
    value: Mutex<T>,
    waiting: WaitList,
}

impl<T> TimedMutex<T> {
    /// Waits for at most `patience`.
    pub(crate) fn lock(&self, patience: Duration, cancellation: &Cancellation) -> io::Result<TimedGuard<'_, T>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(guard) = self.try_lock() {
                return Ok(guard);
            }
            let waiting = self.waiting.join()?;
            // The lock may have been released before this thread joined the list, so it would not be woken.
            if let Some(guard) = self.try_lock() {
                return Ok(guard);
            }
            waiting.wait(deadline.saturating_duration_since(Instant::now()), cancellation)?;
        }
    }

    pub(crate) fn try_lock(&self) -> Option<TimedGuard<'_, T>> {
        let guard = match self.value.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(TimedGuard { guard: Some(guard), waiting: &self.waiting })
    }
}

pub(crate) struct TimedGuard<'p, T> {
    /// `None` only during drop.
    guard: Option<MutexGuard<'p, T>>,
    waiting: &'p WaitList,
}

impl<T> Deref for TimedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("it is there until the end")
    }
}

impl<T> DerefMut for TimedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("it is there until the end")
    }
}

impl<T> Drop for TimedGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        self.waiting.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patient_lock_is_handed_on_and_waited_for_no_longer_than_told() {
        let lock = TimedMutex::<u32>::default();
        let held = lock.try_lock().unwrap();
        let late = lock.lock(Duration::from_millis(5), &Cancellation::none()).err().unwrap();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            let waiting = (0..4).map(|_| {
                scope.spawn(|| {
                    for _ in 0..100 {
                        *lock.lock(Duration::from_secs(30), &Cancellation::none()).unwrap() += 1;
                    }
                })
            });
            let waiting: Vec<_> = waiting.collect();
            drop(held);
            waiting.into_iter().for_each(|thread| thread.join().unwrap());
        });
        assert_eq!(*lock.try_lock().unwrap(), 400);
        assert!(lock.waiting.wakers().is_empty());
    }
}
