//! Wakes a thread that waits in `poll`.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFlags, eventfd};

use crate::net::cancellation;

/// An event descriptor that stays readable from a ring until it is cleared.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        Ok(Bell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // Failing would mean that the counter is full: then it is readable already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    /// Waits for a ring on behalf of a client: also ends when the client goes away or the process stops.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<()> {
        cancellation::wait(self.0.as_fd(), PollFlags::IN, Some(timeout))?;
        self.clear();
        Ok(())
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Those who wait for something to change, each on behalf of a client: a wait ends when that goes away.
#[derive(Debug, Default)]
pub(super) struct WaitList(Mutex<Vec<Arc<Bell>>>);

impl WaitList {
    /// From here on each ring is heard.
    pub(super) fn join(&self) -> io::Result<Waiting<'_>> {
        let bell = Arc::new(Bell::new()?);
        self.bells().push(bell.clone());
        Ok(Waiting { list: self, bell })
    }

    pub(super) fn ring(&self) {
        self.bells().iter().for_each(|bell| bell.ring());
    }

    fn bells(&self) -> MutexGuard<'_, Vec<Arc<Bell>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// One who waits.
pub(super) struct Waiting<'w> {
    list: &'w WaitList,
    bell: Arc<Bell>,
}

impl Waiting<'_> {
    /// Waits for a ring: see [`Bell::wait`].
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<()> {
        self.bell.wait(timeout)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.list.bells().retain(|bell| !Arc::ptr_eq(bell, &self.bell));
    }
}

/// A lock that may be held for seconds: those who wait for it give up when their clients go away.
#[derive(Default)]
pub(super) struct PatientMutex<T> {
    value: Mutex<T>,
    waiting: WaitList,
}

impl<T> PatientMutex<T> {
    /// Waits for at most `patience`.
    pub(super) fn lock(&self, patience: Duration) -> io::Result<PatientGuard<'_, T>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(guard) = self.try_lock() {
                return Ok(guard);
            }
            let waiting = self.waiting.join()?;
            // It may have been let go of before anybody would have rung.
            if let Some(guard) = self.try_lock() {
                return Ok(guard);
            }
            waiting.wait(deadline.saturating_duration_since(Instant::now()))?;
        }
    }

    pub(super) fn try_lock(&self) -> Option<PatientGuard<'_, T>> {
        let guard = match self.value.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(PatientGuard { guard: Some(guard), waiting: &self.waiting })
    }
}

pub(super) struct PatientGuard<'p, T> {
    /// Present until it is dropped.
    guard: Option<MutexGuard<'p, T>>,
    waiting: &'p WaitList,
}

impl<T> Deref for PatientGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("it is there until the end")
    }
}

impl<T> DerefMut for PatientGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("it is there until the end")
    }
}

impl<T> Drop for PatientGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        self.waiting.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patient_lock_is_handed_on_and_waited_for_no_longer_than_told() {
        let lock = PatientMutex::<u32>::default();
        let held = lock.try_lock().unwrap();
        let late = lock.lock(Duration::from_millis(5)).err().unwrap();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            let waiting = (0..4).map(|_| {
                scope.spawn(|| {
                    for _ in 0..100 {
                        *lock.lock(Duration::from_secs(30)).unwrap() += 1;
                    }
                })
            });
            let waiting: Vec<_> = waiting.collect();
            drop(held);
            waiting.into_iter().for_each(|thread| thread.join().unwrap());
        });
        assert_eq!(*lock.try_lock().unwrap(), 400);
        assert!(lock.waiting.bells().is_empty());
    }
}
