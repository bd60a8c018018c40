//! How threads learn that the process is about to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::wake::Waker;

/// Tells threads that the process is about to end.
///
/// It comes in two steps: *streams* end at once, so that clients reconnect elsewhere; *everything* ends when the time for
/// requests to finish is up.
#[derive(Clone)]
pub struct Shutdown(Arc<State>);

struct State {
    has_begun: AtomicBool,
    streams: Waker,
    everything: Waker,
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> io::Result<Shutdown> {
        let has_begun = AtomicBool::new(false);
        Ok(Shutdown(Arc::new(State { has_begun, streams: Waker::new()?, everything: Waker::new()? })))
    }

    /// Ends streams.
    pub(crate) fn begin(&self) {
        self.0.has_begun.store(true, Ordering::SeqCst);
        self.0.streams.wake();
    }

    /// Ends everything.
    pub(crate) fn finish(&self) {
        self.0.everything.wake();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::SeqCst)
    }

    /// Readable once streams, or else everything, should end.
    pub(super) fn event(&self, streams: bool) -> BorrowedFd<'_> {
        if streams { self.0.streams.as_fd() } else { self.0.everything.as_fd() }
    }
}
