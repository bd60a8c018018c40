//! The body of an answer.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use super::idle::{Connection, IdleConnections};
use crate::http::h1::framing::{Framed, Progress};
use crate::http::h1::head::Framing;
use crate::net::cancellation::Cancellation;

/// Bytes per read of an answer, or of a request body that is streamed.
pub(super) const PIECE: usize = 16 << 10;

/// The body of an answer, read on demand. When it has been read completely, its connection is kept for another request.
pub(crate) struct IncomingBody {
    /// Absent once the body has ended.
    connection: Option<Connection>,
    /// Absent when the body ends with the connection.
    progress: Option<Progress>,
    /// The pool that the connection goes back to; absent if it can't be used again.
    home: Option<Arc<IdleConnections>>,
}

impl IncomingBody {
    pub(super) fn new(
        connection: Connection,
        framing: Option<Framing>,
        home: Option<Arc<IdleConnections>>,
    ) -> IncomingBody {
        let progress = framing.map(Progress::of_answer);
        let mut body = IncomingBody { connection: Some(connection), progress, home };
        body.end_if_done();
        body
    }

    fn end_if_done(&mut self) {
        if !self.progress.as_ref().is_some_and(Progress::is_done) {
            return;
        }
        // Bytes after the end of the answer belong to no request, so the connection is not used again.
        let is_clean = |c: &mut Connection| c.buffered().is_empty() && c.source_mut().holds_nothing();
        if let (Some(mut connection), Some(home)) = (self.connection.take(), self.home.take())
            && is_clean(&mut connection)
        {
            home.put(connection);
        }
    }
}

impl IncomingBody {
    /// Sets what ends its waits early from now on.
    pub(crate) fn set_cancellation(&mut self, cancellation: Cancellation) {
        if let Some(connection) = &mut self.connection {
            connection.source_mut().set_cancellation(cancellation);
        }
    }

    /// Sets the deadline for the rest of the body; reading after it fails with `TimedOut`.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        if let Some(connection) = &mut self.connection {
            connection.source_mut().set_deadline(Some(deadline));
        }
    }

    /// Reads the whole body. Fails with `FileTooLarge` if it has more than `limit` bytes, and with `TimedOut` at
    /// `deadline`.
    pub(crate) fn read_all(&mut self, limit: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            self.set_deadline(deadline);
            match self.read(&mut piece)? {
                0 => return Ok(out),
                n if out.len() + n > limit => return Err(io::ErrorKind::FileTooLarge.into()),
                n => out.extend_from_slice(&piece[..n]),
            }
        }
    }
}

impl Read for IncomingBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &mut self.connection else { return Ok(0) };
        let result = match &mut self.progress {
            Some(progress) => Framed::new(connection, progress).read(buffer),
            None => connection.read(buffer),
        };
        match result {
            Ok(0) if self.progress.is_none() => self.connection = None,
            Ok(_) => self.end_if_done(),
            Err(_) => self.connection = None,
        }
        result
    }
}
