//! The word that the process is about to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Tells threads that the process is about to end.
///
/// Two levels: *streams* end at once, so that clients reconnect elsewhere; *everything* ends when the time is up.
#[derive(Clone)]
pub struct Shutdown(Arc<State>);

struct State {
    begun: AtomicBool,
    streams: OwnedFd,
    everything: OwnedFd,
}

impl Shutdown {
    /// Not draining.
    pub fn new() -> io::Result<Shutdown> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Shutdown(Arc::new(State { begun: AtomicBool::new(false), streams: event()?, everything: event()? })))
    }

    pub(crate) fn begin(&self) {
        self.0.begun.store(true, Ordering::SeqCst);
        signal(&self.0.streams);
    }

    pub(crate) fn finish(&self) {
        signal(&self.0.everything);
    }

    pub(crate) fn begun(&self) -> bool {
        self.0.begun.load(Ordering::SeqCst)
    }

    /// Readable once streams, or else everything, should end.
    pub fn event(&self, streams: bool) -> BorrowedFd<'_> {
        if streams { self.0.streams.as_fd() } else { self.0.everything.as_fd() }
    }
}

fn signal(event: &OwnedFd) {
    // Failing would mean that the counter is full: then it is readable already.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}
