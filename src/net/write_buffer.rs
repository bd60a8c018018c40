//! What is on its way to the client that the thread works for. It is sent before the thread waits for anything else,
//! and else as late as possible: a head, the first bytes of a body and its end often travel in one write.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::client_connection::{ClientConnection, Flushed};

/// More than this is sent without waiting for more.
const FULL: usize = 32 << 10;
/// Slower than this on average, beyond the first pause that is allowed, is no client but a siege: bytes a second.
const SLOWEST: u64 = 1 << 10;

thread_local! {
    static OUTBOX: RefCell<Option<Outbox>> = const { RefCell::new(None) };
}

struct Outbox {
    client: Arc<ClientConnection>,
    patience: Duration,
    bytes: Vec<u8>,
    start: usize,
    sent: u64,
    /// How long writes have waited for the client in all.
    waited: Duration,
}

/// From here on, this thread's bytes go to `client`, which may leave none of them unread for longer than `patience`.
pub fn open(client: Arc<ClientConnection>, patience: Duration) {
    OUTBOX.set(Some(Outbox { client, patience, bytes: Vec::new(), start: 0, sent: 0, waited: Duration::ZERO }));
}

/// Sends what is left and ends what [`open`] began.
pub fn close() -> io::Result<()> {
    let result = flush();
    OUTBOX.set(None);
    result
}

/// Adds `range` of `buffer`, and gives a buffer back for the next piece: perhaps another one.
pub fn put(buffer: Vec<u8>, range: Range<usize>) -> io::Result<Vec<u8>> {
    OUTBOX.with_borrow_mut(|outbox| {
        let Some(outbox) = outbox else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut buffer = buffer;
        if outbox.start == outbox.bytes.len() {
            buffer.truncate(range.end);
            std::mem::swap(&mut outbox.bytes, &mut buffer);
            outbox.start = range.start;
        } else {
            outbox.bytes.extend_from_slice(&buffer[range]);
        }
        if outbox.bytes.len() - outbox.start >= FULL { outbox.flush().map(|()| buffer) } else { Ok(buffer) }
    })
}

/// Sends what there is. Nothing happens on threads that work for no client.
pub fn flush() -> io::Result<()> {
    OUTBOX.with_borrow_mut(|outbox| outbox.as_mut().map_or(Ok(()), Outbox::flush))
}

impl Outbox {
    fn flush(&mut self) -> io::Result<()> {
        while self.start < self.bytes.len() {
            match self.client.send_now(&self.bytes[self.start..])? {
                0 => self.wait()?,
                n => {
                    self.start += n;
                    self.sent += n as u64;
                }
            }
        }
        while self.client.flush_now()? != Flushed::All {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        let slowest = (self.patience + Duration::from_secs(self.sent / SLOWEST)).saturating_sub(self.waited);
        super::poll::wait_until(&*self.client, PollFlags::OUT, begun + self.patience.min(slowest))?;
        self.waited += begun.elapsed();
        Ok(())
    }
}
