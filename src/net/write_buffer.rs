//! What is on its way to a client. It is sent before the thread waits for anything else, and otherwise as late as
//! possible: a head, the first bytes of a body and its end often travel in one write.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::client_connection::{ClientConnection, Flushed};

/// More than this is sent without waiting for more.
const FULL: usize = 32 << 10;
/// A client that reads slower than this on average, in bytes a second, is cut off. It has one pause of the write timeout
/// for free.
const SLOWEST: u64 = 1 << 10;

/// Bytes that have not been sent, and how long the client has let us wait.
#[derive(Default)]
pub(super) struct WriteBuffer {
    bytes: Vec<u8>,
    start: usize,
    sent: u64,
    /// How long writes have waited for the client in all.
    waited: Duration,
}

impl WriteBuffer {
    /// Adds `range` of `buffer`, and gives a buffer back for the next piece, perhaps another one; true when this should be
    /// flushed at once.
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

    /// Sends all of it. The client may leave nothing unread for longer than `patience`.
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
