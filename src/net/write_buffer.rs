//! Bytes that are queued for a client. They are sent before the thread waits for anything, and otherwise as late as
//! possible, so that a head, the first bytes of a body and its end often go out in one write.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::client_connection::{ClientConnection, Flushed};

/// From this many bytes on, the buffer is flushed at once.
const FULL: usize = 32 << 10;
/// A client that reads slower than this on average, in bytes per second, is cut off. One pause as long as the write
/// timeout is allowed in addition.
const SLOWEST: u64 = 1 << 10;

/// Bytes that have not been sent, and how long writes have waited for the client.
#[derive(Default)]
pub(super) struct WriteBuffer {
    bytes: Vec<u8>,
    start: usize,
    sent: u64,
    /// How long writes have waited for the client in all.
    waited: Duration,
}

impl WriteBuffer {
    /// Adds `range` of `buffer`. Returns a buffer for the next piece, possibly a different one, and true if the write
    /// buffer should be flushed now.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>, range: Range<usize>) -> (Vec<u8>, bool) {
        if self.start == self.bytes.len() {
            buffer.truncate(range.end);
            std::mem::swap(&mut self.bytes, &mut buffer);
            self.start = range.start;
        } else {
            self.bytes.extend_from_slice(&buffer[range]);
        }
        (buffer, self.bytes.len() - self.start >= FULL)
    }

    /// Sends everything. Fails with `TimedOut` if the client leaves bytes unread for longer than `patience`, or reads
    /// too slowly.
    pub(super) fn flush(&mut self, client: &ClientConnection, patience: Duration) -> io::Result<()> {
        while self.start < self.bytes.len() {
            match client.send_now(&self.bytes[self.start..])? {
                0 => self.wait(client, patience)?,
                n => {
                    self.start += n;
                    self.sent += n as u64;
                }
            }
        }
        while client.flush_now()? != Flushed::All {
            self.wait(client, patience)?;
        }
        Ok(())
    }

    fn wait(&mut self, client: &ClientConnection, patience: Duration) -> io::Result<()> {
        let begun = Instant::now();
        let slowest = (patience + Duration::from_secs(self.sent / SLOWEST)).saturating_sub(self.waited);
        super::poll::wait_until(client, PollFlags::OUT, begun + patience.min(slowest))?;
        self.waited += begun.elapsed();
        Ok(())
    }
}
