//! What a process is sent and who hears what it says: the side of it that other threads see.

use crate::lock::Unpoisoned;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::upstream::stdio::process::lines::TooLong;
use crate::wake::Waker;

/// Bytes that a line takes besides its text.
pub(crate) const OVERHEAD: usize = 64;

/// Hears what a child says.
pub(crate) trait Listener: Send + Sync {
    /// It wrote a line. Called on the child's thread: must not wait for a client.
    fn line(&self, line: Vec<u8>);

    /// It wrote a line that can't be held.
    fn long_line(&self, line: &TooLong);

    /// It has ended, so long after its start.
    fn ended(&self, lived: Duration);

    /// Whom it works for, in the log.
    fn name(&self) -> String;
}

/// The child does not read what it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Where lines for a server go. Dropping it ends a process, or leaves a shared one.
pub(crate) trait MessageSink: Send + Sync {
    /// Sends a line, and waits for nothing.
    fn send(&self, line: Vec<u8>) -> Result<(), Full>;
}

/// The place of a process among those that there may be at one time. It is free again when this is dropped.
pub(crate) trait Slot: Send + Sync {
    /// The process has been told to end.
    fn leave(&self);
}

/// What a process's own thread shares with all others.
pub(crate) struct Shared {
    pub(super) pid: AtomicU32,
    pub(super) inbox: Mutex<Inbox>,
    pub(super) waker: Waker,
    pub(super) room: usize,
}

pub(crate) struct Inbox {
    pub(super) lines: VecDeque<Vec<u8>>,
    /// Bytes of the first line that have been written.
    pub(super) sent: usize,
    /// What all lines take together, [`OVERHEAD`] each included.
    pub(super) bytes: usize,
    pub(super) is_ending: bool,
    pub(super) has_ended: bool,
    pub(super) listener: Arc<dyn Listener>,
    /// Lines that others hear as if it had written them.
    pub(super) own_words: Vec<(Arc<dyn Listener>, Vec<u8>)>,
}

impl Shared {
    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unpoisoned()
    }

    pub(crate) fn listener(&self) -> Arc<dyn Listener> {
        self.inbox().listener.clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }
}
