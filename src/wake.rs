//! Wakes a thread that waits in `poll` or `epoll`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// An event file descriptor: readable from [`Waker::wake`] until [`Waker::clear`].
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// Not woken yet.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes the threads that wait. If none does, the next wait returns at once.
    pub fn wake(&self) {
        // The write fails only if the counter is full; the descriptor is readable then anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Resets the descriptor: the next wait lasts until the next [`Waker::wake`].
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
