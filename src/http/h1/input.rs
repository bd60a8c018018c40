//! Bytes that come from a connection, and those of them that have not been used.

use std::cell::RefCell;
use std::io::{self, Read};
use std::mem::take;
use std::time::Duration;

/// A wait without an end of its own.
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Where a connection's bytes come from.
pub trait Source {
    /// Reads bytes into `buffer`, waiting at most `wait`: with zero, `WouldBlock` says that none are there.
    fn read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize>;
}

/// Appends what `read` puts into `room` bytes behind `buffer`: never more, since what follows is another message.
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

/// One read into a thread's own memory, of which every thread has so much.
const AT_A_TIME: usize = 16 << 10;

/// Likewise for bytes of which few may come: they are read into memory of the thread's, so that a connection that waits
/// for the rest has no more than what has arrived.
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

/// Bytes asked for at a time, where no more are known to come.
pub(super) const STEP: usize = 4 << 10;

thread_local! {
    /// The buffer that was released last: most requests begin with one and end with none.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Bodies are read through it.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<S: Source> Input<S> {
    /// Nothing read yet.
    pub fn new(source: S) -> Input<S> {
        Input { source, buffer: Vec::new(), start: 0 }
    }

    /// Where the bytes come from.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// What has been read and not been consumed.
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

    /// Reads more into the buffer, up to `size` bytes in it altogether. 0 means the end of the connection.
    pub fn fill(&mut self, size: usize, wait: Duration) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let old = self.buffer.len();
        // Most heads fit the first step; a large one grows towards the limit.
        let target = size.min((old * 2).max(STEP));
        if target <= old {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if self.buffer.capacity() == 0 {
            self.buffer = SPARE.take();
        }
        append_with(&mut self.buffer, target - old, |free| self.source.read(free, wait))
    }

    /// Gives the buffer's memory back while nothing is in it.
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
    /// Waits for as long as it takes.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read(out, FOREVER)
    }
}
