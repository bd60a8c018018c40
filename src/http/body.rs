//! The body of a request, as a handler reads it.

use std::io::{self, Read};
use std::mem::take;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::h1::framing::BodyError;
use super::h1::head::Framing;

/// If its handler needs it, a body up to this size is buffered completely before the handler is called, so that a
/// client that sends slowly does not occupy a thread.
pub const HELD: usize = 64 << 10;

/// The part of a request body that has not arrived yet.
pub trait Arriving: Read {
    /// Reads what has arrived, without blocking; `WouldBlock` if nothing has.
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// The socket that it comes from.
    fn socket(&self) -> BorrowedFd<'_>;

    /// The deadline for the next bytes.
    fn deadline(&self) -> Instant;

    /// True until the last byte has been read or the handler has answered. The flag outlives the body, so that other
    /// threads can tell whether an upload is still going on.
    fn is_under_way(&self) -> Arc<AtomicBool>;
}

/// A request body that a handler may read.
pub struct Body<'c> {
    /// What had arrived when the handler was called; the first `at` bytes have been read.
    held: Vec<u8>,
    at: usize,
    rest: Option<&'c mut dyn Arriving>,
    framing: Framing,
}

impl<'c> Body<'c> {
    /// A body whose beginning, `held`, has arrived; `rest` delivers the remainder, if there is one.
    pub fn new(held: Vec<u8>, rest: Option<&'c mut dyn Arriving>, framing: Framing) -> Body<'c> {
        Body { held, at: 0, rest, framing }
    }

    /// The remainder that has not arrived, after what [`Body::hold`] returned.
    pub fn arriving(&mut self) -> Option<&mut (dyn Arriving + 'c)> {
        self.rest.as_deref_mut()
    }

    /// How the client delimited it.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The whole body, if it had arrived when the handler was called and nothing of it has been read.
    pub fn whole(&self) -> Option<&[u8]> {
        (self.rest.is_none() && self.at == 0).then_some(&self.held[..])
    }

    /// Reads what can be buffered: a short body completely, with `true`; of a longer one the first [`HELD`] bytes or
    /// more, with `false`.
    pub fn hold(&mut self) -> io::Result<(Vec<u8>, bool)> {
        let mut held = take(&mut self.held);
        held.drain(..take(&mut self.at));
        let Some(rest) = &mut self.rest else { return Ok((held, true)) };
        let room = (HELD + 1).saturating_sub(held.len()) as u64;
        let whole = rest.take(room).read_to_end(&mut held)? < room as usize;
        Ok((held, whole))
    }

    /// Reads all of it, or fails with [`BodyError::TooLarge`] past `limit` bytes.
    pub fn read_all(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        if matches!(self.framing, Framing::Length(n) if n > limit as u64) {
            return Err(BodyError::TooLarge.into());
        }
        let mut out = Vec::new();
        self.take(limit as u64 + 1).read_to_end(&mut out)?;
        if out.len() > limit { Err(BodyError::TooLarge.into()) } else { Ok(out) }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = &self.held[self.at..];
        if !ready.is_empty() {
            let n = ready.len().min(buffer.len());
            buffer[..n].copy_from_slice(&ready[..n]);
            self.at += n;
            return Ok(n);
        }
        self.rest.as_mut().map_or(Ok(0), |rest| rest.read(buffer))
    }
}
