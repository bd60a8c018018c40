//! Buffers the bytes that come from a connection until they are used.

use std::cell::RefCell;
use std::io::{self, Read};
use std::mem::take;
use std::time::Duration;

/// Stands for no timeout.
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Where a connection's bytes come from.
pub trait Source {
    /// Reads bytes into `buffer`. Waits at most `wait`, then fails with `TimedOut`; if `wait` is zero, fails with
    /// `WouldBlock` when no bytes have arrived. Some sources ignore `wait`: the transport of the client has its own
    /// deadline, and a slice never waits.
    fn read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize>;
}

/// Appends what `read` delivers to `buffer`, at most `room` bytes: further bytes belong to another message.
fn append_with(
    buffer: &mut Vec<u8>,
    room: usize,
    read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let old = buffer.len();
    buffer.resize(old + room, 0);
    let result = read(&mut buffer[old..]);
    buffer.truncate(old + result.as_ref().map_or(0, |n| *n));
    result
}

/// Size of the thread-local buffer that bodies are read through. Each thread that reads one has such a buffer.
const AT_A_TIME: usize = 16 << 10;

/// Like [`append_with`], if possibly only few bytes come: reads through a thread-local buffer, so that a connection
/// that waits for the rest uses only memory for what has arrived.
pub(super) fn append_what_comes(
    buffer: &mut Vec<u8>,
    room: usize,
    read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(AT_A_TIME, 0);
        let n = read(&mut scratch[..room.min(AT_A_TIME)])?;
        buffer.extend_from_slice(&scratch[..n]);
        Ok(n)
    })
}

impl Source for &[u8] {
    fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        io::Read::read(self, buffer)
    }
}

/// A source with the bytes that have been read from it and not yet been used.
pub struct Input<S> {
    source: S,
    buffer: Vec<u8>,
    start: usize,
}

/// Bytes requested per read if it is not known how many will come.
pub(super) const STEP: usize = 4 << 10;

thread_local! {
    /// The buffer that was released last, for reuse: most requests need one at the beginning and release it at the end.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The buffer that bodies are read through.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<S: Source> Input<S> {
    /// An input from which nothing has been read yet.
    pub fn new(source: S) -> Input<S> {
        Input { source, buffer: Vec::new(), start: 0 }
    }

    /// Where the bytes come from.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// The bytes that have been read but not consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Drops the first `n` buffered bytes.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Reads more, until the buffer holds at most `size` bytes; fails with `OutOfMemory` if it holds that many already.
    /// 0 means the end of the connection.
    pub fn fill(&mut self, size: usize, wait: Duration) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let old = self.buffer.len();
        // Most heads fit into one [`STEP`]; for larger ones the buffer doubles up to the limit.
        let target = size.min((old * 2).max(STEP));
        if target <= old {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if self.buffer.capacity() == 0 {
            self.buffer = SPARE.take();
        }
        append_with(&mut self.buffer, target - old, |free| self.source.read(free, wait))
    }

    /// Releases the memory of the buffer if the buffer is empty.
    pub fn release(&mut self) {
        if self.buffered().is_empty() {
            let mut buffer = take(&mut self.buffer);
            self.start = 0;
            if buffer.capacity() == STEP {
                buffer.clear();
                SPARE.set(buffer);
            }
        }
    }

    /// Reads like [`Read::read`], from the buffer first, waiting at most `wait`.
    pub(super) fn read(&mut self, out: &mut [u8], wait: Duration) -> io::Result<usize> {
        let ready = self.buffered();
        if ready.is_empty() {
            return self.source.read(out, wait);
        }
        let n = ready.len().min(out.len());
        out[..n].copy_from_slice(&ready[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<S: Source> Read for Input<S> {
    /// Waits without a timeout.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read(out, FOREVER)
    }
}
