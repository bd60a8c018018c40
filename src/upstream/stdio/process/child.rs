//! The handle on one child process: starts it, sends it lines, and ends it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, Weak};

use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::environment::{Launch, command};
use crate::upstream::stdio::process::inbox::{Full, Inbox, Listener, MessageSink, OVERHEAD, Shared, Slot};
use crate::upstream::stdio::process::io_loop::{IoLoop, Process};
use crate::wake::Waker;

/// Stack size of a child's I/O thread, in bytes.
const STACK: usize = 256 << 10;

/// A running child process. Dropping it starts an orderly shutdown of the process.
pub(crate) struct Child {
    shared: Arc<Shared>,
    /// Weak, since the I/O thread holds the slot until the process has exited.
    slot: Weak<dyn Slot>,
}

impl Child {
    /// Starts a child for `owner`. `listener` gets its output; `slot` is held until it has exited.
    pub(crate) fn start(
        launch: &Launch,
        owner: Option<&Owner>,
        listener: Arc<dyn Listener>,
        slot: Arc<dyn Slot>,
    ) -> io::Result<Child> {
        let (control, theirs) = UnixStream::pair()?;
        let (to_read, stdin) = io::pipe()?;
        let waker = Waker::new()?;
        let process = Process(command(launch, owner).stdin(OwnedFd::from(theirs)).spawn()?);
        let inbox = Inbox {
            lines: VecDeque::new(),
            sent: 0,
            bytes: 0,
            is_ending: false,
            has_ended: false,
            listener,
            own_words: Vec::new(),
        };
        let pid = AtomicU32::new(process.0.id());
        let shared = Arc::new(Shared {
            server: launch.server.clone(),
            pid,
            inbox: Mutex::new(inbox),
            waker,
            room: launch.buffer,
        });
        let child = Child { shared: shared.clone(), slot: Arc::downgrade(&slot) };
        let io_loop = IoLoop::new(shared, process, control, stdin, slot)?;
        // The I/O loop starts the server only now, when everything that is needed to end it exists.
        let begin = move || io_loop.run(to_read.into());
        std::thread::Builder::new().name("child".into()).stack_size(STACK).spawn(begin)?;
        Ok(child)
    }

    /// The server's process id, or the supervisor's until the supervisor has reported the server's.
    pub(crate) fn pid(&self) -> u32 {
        self.shared.pid()
    }

    /// Queues a line for the child without blocking. Fails when the inbox is full, because the child does not read.
    pub(crate) fn send(&self, mut line: Vec<u8>) -> Result<(), Full> {
        let mut inbox = self.shared.inbox();
        line.push(b'\n');
        let size = line.len() + OVERHEAD;
        if inbox.bytes + size > self.shared.room {
            return Err(Full);
        }
        inbox.bytes += size;
        inbox.lines.push_back(line);
        drop(inbox);
        self.shared.waker.wake();
        Ok(())
    }

    /// Passes `line` to `listener` on the child's I/O thread, where no lock is held.
    pub(crate) fn deliver(&self, listener: Arc<dyn Listener>, line: Vec<u8>) {
        self.shared.inbox().own_words.push((listener, line));
        self.shared.waker.wake();
    }

    /// Replaces the listener for all further output; false when the child has exited and there will be none.
    pub(crate) fn hand_over(&self, listener: Arc<dyn Listener>) -> bool {
        let mut inbox = self.shared.inbox();
        inbox.listener = listener;
        !inbox.has_ended
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.shared.inbox().has_ended
    }

    /// Starts an orderly shutdown and returns: stdin is closed, then comes SIGTERM, then SIGKILL, for the child and all
    /// of its descendants.
    pub(crate) fn end(&self) {
        self.shared.inbox().is_ending = true;
        self.shared.waker.wake();
        if let Some(slot) = self.slot.upgrade() {
            slot.leave();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

impl MessageSink for Child {
    fn send(&self, line: Vec<u8>) -> Result<(), Full> {
        Child::send(self, line)
    }
}
