//! Reads request bodies that have not fully arrived yet.

use std::io;
use std::mem::take;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::RecvFlags;

use crate::http::body::{Arriving, HELD};
use crate::http::h1::framing::{Framed, Progress};
use crate::http::h1::input::{Input, Source};
use crate::net::client_connection::{ClientConnection, Flushed};

/// Reads from the client's socket without blocking first; waits in `poll` only if nothing has arrived.
pub(super) struct SocketSource {
    pub(super) socket: Arc<ClientConnection>,
    /// The next read blocks for the receive timeout of the socket ([`BRIEF`](crate::net::poll::BRIEF)) first.
    pub(super) in_person: bool,
}

impl Source for SocketSource {
    fn read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            let flags = if take(&mut self.in_person) { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            match self.socket.recv(buffer, flags) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !wait.is_zero() => {
                    crate::net::poll::wait_until(&*self.socket, PollFlags::IN, begun + wait)?;
                }
                other => return other,
            }
        }
    }
}

/// How much of a body has arrived.
pub(super) enum Collected {
    Whole,
    /// [`HELD`] bytes, the most that are buffered; more follows.
    Full,
    Missing,
}
pub(super) use Collected::{Full, Missing, Whole};

pub(super) fn take_what_is_there(
    input: &mut Input<SocketSource>,
    progress: &mut Progress,
    held: &mut Vec<u8>,
) -> io::Result<Collected> {
    let mut framed = Framed::of_what_is_there(input, progress);
    while held.len() < HELD {
        match framed.append(held, HELD - held.len()) {
            Ok(0) => return Ok(Whole),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Missing),
            Err(e) => return Err(e),
        }
    }
    Ok(if progress.is_done() { Whole } else { Full })
}

/// RFC 9110 section 10.1.1.
pub(super) fn send_continue(socket: &ClientConnection) -> io::Result<()> {
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    match socket.send_now(CONTINUE)? {
        n if n == CONTINUE.len() && socket.flush_now()? == Flushed::All => Ok(()),
        // The send buffer is full: the client has not read earlier answers, so it can't be waiting for this one.
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// A body that sends `100 Continue` before the first read, if the client expects it.
pub(super) struct Continuing<'c, 'i> {
    pub(super) expects: bool,
    pub(super) socket: &'c ClientConnection,
    pub(super) inner: Framed<'i, SocketSource>,
    pub(super) is_under_way: Arc<AtomicBool>,
}

impl Continuing<'_, '_> {
    fn ask(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.expects) { send_continue(self.socket) } else { Ok(()) }
    }

    fn note(&self) {
        self.is_under_way.store(!self.inner.is_done(), Ordering::Relaxed);
    }
}

impl io::Read for Continuing<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ask()?;
        let result = self.inner.read(buffer);
        self.note();
        result
    }
}

impl Arriving for Continuing<'_, '_> {
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ask()?;
        let result = self.inner.read_now(buffer);
        self.note();
        result
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn deadline(&self) -> Instant {
        self.inner.deadline()
    }

    fn is_under_way(&self) -> Arc<AtomicBool> {
        self.is_under_way.clone()
    }
}
