//! Tells threads that the process is about to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::wake::Waker;

/// The signal that the process is about to end.
///
/// It has two steps: first, *streams* end at once, so that clients reconnect elsewhere; later, when the time for
/// requests to finish is over, *everything* ends.
#[derive(Clone)]
pub struct Shutdown(Arc<State>);

struct State {
    has_begun: AtomicBool,
    streams: Waker,
    everything: Waker,
}

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> io::Result<Shutdown> {
        let has_begun = AtomicBool::new(false);
        Ok(Shutdown(Arc::new(State { has_begun, streams: Waker::new()?, everything: Waker::new()? })))
    }

    /// Begins the shutdown: streams end.
    pub(crate) fn begin(&self) {
        self.0.has_begun.store(true, Ordering::SeqCst);
        self.0.streams.wake();
    }

    /// Ends everything that is still going on.
    pub(crate) fn finish(&self) {
        self.0.everything.wake();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::SeqCst)
    }

    /// A descriptor that becomes readable when streams should end, or without `streams`, when everything should end.
    pub(super) fn event(&self, streams: bool) -> BorrowedFd<'_> {
        if streams { self.0.streams.as_fd() } else { self.0.everything.as_fd() }
    }
}
