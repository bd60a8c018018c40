//! What the I/O thread of a process shares with other threads: the lines queued for the process, and the listener for
//! its output.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::lock::Unpoisoned;
use crate::upstream::stdio::process::lines::TooLong;
use crate::wake::Waker;

/// Bytes counted for each line in addition to its text.
pub(crate) const OVERHEAD: usize = 64;

/// Receives the output of a child.
pub(crate) trait Listener: Send + Sync {
    /// The child wrote a line. Called on the child's I/O thread, so it must not wait for a client.
    fn line(&self, line: Vec<u8>);

    /// The child wrote a line that is longer than the limit.
    fn long_line(&self, line: &TooLong);

    /// The child has exited, `lived` after its start.
    fn ended(&self, lived: Duration);

    /// The name to log for what the child works for, such as a session.
    fn name(&self) -> String;
}

/// The queue is full, because the child does not read its stdin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Takes lines for a server. Dropping it ends the process, or detaches from a shared one.
pub(crate) trait MessageSink: Send + Sync {
    /// Queues a line without blocking.
    fn send(&self, line: Vec<u8>) -> Result<(), Full>;
}

/// One of the limited number of processes that may exist at one time. Dropping it makes room for another process.
pub(crate) trait Slot: Send + Sync {
    /// Notes that the process has been told to end, so that its slot will be free soon.
    fn leave(&self);
}

/// What the I/O thread of a process shares with other threads.
pub(crate) struct Shared {
    /// The name of the server, for the log.
    pub(crate) server: String,
    pub(super) pid: AtomicU32,
    pub(super) inbox: Mutex<Inbox>,
    pub(super) waker: Waker,
    pub(super) room: usize,
}

pub(crate) struct Inbox {
    pub(super) lines: VecDeque<Vec<u8>>,
    /// Bytes of the first line that have been written.
    pub(super) sent: usize,
    /// Total size of all lines, with [`OVERHEAD`] added for each.
    pub(super) bytes: usize,
    pub(super) is_ending: bool,
    pub(super) has_ended: bool,
    pub(super) listener: Arc<dyn Listener>,
    /// Lines from the proxy itself, to be passed to a listener as if the process had written them.
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
