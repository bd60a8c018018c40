//! The body of a request, as a handler reads it.

use std::io::{self, Read};
use std::mem::take;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::h1::framing::BodyError;
use super::h1::head::Framing;

/// A body up to this size is held until it is whole, so that nobody who sends it slowly holds a thread.
pub const HELD: usize = 64 << 10;

/// The part of a request body that is still on its way.
pub trait Arriving: Read {
    /// Reads what is there; `WouldBlock` says that nothing is.
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// The socket that it comes from.
    fn socket(&self) -> BorrowedFd<'_>;

    /// When the next bytes must be there.
    fn deadline(&self) -> Instant;

    /// True until the last byte has been read. Lives longer than the body, for those who keep account of uploads.
    fn is_under_way(&self) -> Arc<AtomicBool>;
}

/// A request body that a handler may read.
pub struct Body<'c> {
    /// What has arrived before the handler was called, from `at` on.
    held: Vec<u8>,
    at: usize,
    rest: Option<&'c mut dyn Arriving>,
    framing: Framing,
}

impl<'c> Body<'c> {
    /// A body of which `held` has arrived; `rest` delivers what follows, if anything does.
    pub fn new(held: Vec<u8>, rest: Option<&'c mut dyn Arriving>, framing: Framing) -> Body<'c> {
        Body { held, at: 0, rest, framing }
    }

    /// What is still on its way, behind what [`Body::hold`] took.
    pub fn arriving(&mut self) -> Option<&mut (dyn Arriving + 'c)> {
        self.rest.as_deref_mut()
    }

    /// How the client delimited it.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Takes what can be held: all of a short body, and then `true`, or the first [`HELD`] bytes or more of a long one.
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
