//! TLS over a socket to a server.

use std::io::{self, Read, Write};

use rustix::event::PollFlags;
use rustls::ClientConnection;

use super::socket::{Socket, is_over, would_block};

/// TLS over a socket, driven here so that both directions can be watched at once.
pub(crate) struct Tls {
    pub(super) connection: ClientConnection,
    pub(super) socket: Socket,
    pub(super) records: Records,
}

/// Tracks the boundaries of TLS records in the received bytes (RFC 8446 section 5.1), because rustls does not tell
/// whether it holds a part of a record.
#[derive(Default)]
pub(super) struct Records {
    header: [u8; 5],
    /// Bytes of the next header that have arrived.
    known: usize,
    /// Bytes of the current record that have not arrived.
    left: usize,
}

impl Records {
    fn note(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = self.left.min(bytes.len());
                self.left -= n;
                bytes = &bytes[n..];
                continue;
            }
            let n = (self.header.len() - self.known).min(bytes.len());
            self.header[self.known..self.known + n].copy_from_slice(&bytes[..n]);
            self.known += n;
            bytes = &bytes[n..];
            if self.known == self.header.len() {
                self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.known = 0;
            }
        }
    }

    pub(super) fn is_between(&self) -> bool {
        self.known == 0 && self.left == 0
    }
}

/// The socket as rustls reads it; the received bytes are reported to [`Records`].
struct Noting<'t, R>(R, &'t mut Records);

impl<R: FnMut(&mut [u8]) -> io::Result<usize>> Read for Noting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (self.0)(buffer)?;
        self.1.note(&buffer[..n]);
        Ok(n)
    }
}

/// The socket as rustls writes to it, without blocking.
struct Now<'s>(&'s Socket);

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_now(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    /// Sends pending TLS records without blocking; true if all have been sent.
    pub(super) fn push(&mut self) -> io::Result<bool> {
        while self.connection.wants_write() {
            if would_block(self.connection.write_tls(&mut Now(&self.socket)))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads and processes what the server has sent, without blocking; false if there is nothing.
    pub(super) fn pull_now(&mut self) -> io::Result<bool> {
        let socket = &self.socket;
        let read = self.connection.read_tls(&mut Noting(|b: &mut [u8]| socket.recv_now(b), &mut self.records));
        let Some(n) = would_block(read)? else { return Ok(false) };
        self.process()?;
        if n == 0 && self.connection.is_handshaking() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(true) }
    }

    fn process(&mut self) -> io::Result<rustls::IoState> {
        match self.connection.process_new_packets() {
            Ok(state) => Ok(state),
            Err(error) => {
                // Sends the alert that tells the server the reason.
                let _ = self.push();
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// True if the server has sent data that has not been read, or has closed the connection.
    pub(super) fn has_answer(&mut self) -> io::Result<bool> {
        let state = self.process()?;
        Ok(state.plaintext_bytes_to_read() > 0 || state.peer_has_closed())
    }

    /// Completes the handshake.
    pub(super) fn shake_hands(&mut self) -> io::Result<()> {
        while self.connection.is_handshaking() {
            let is_out = self.push()?;
            if self.connection.is_handshaking() && !self.pull_now()? {
                self.socket.wait(if is_out { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT })?;
            }
        }
        Ok(())
    }

    /// See [`Transport::send`](super::transport::Transport::send).
    pub(super) fn send(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        loop {
            if !bytes.is_empty() {
                bytes = &bytes[self.connection.writer().write(bytes)?..];
            }
            let is_out = match self.push() {
                Err(e) if is_over(&e) && !self.connection.is_handshaking() => return Ok(false),
                other => other?,
            };
            if is_out && bytes.is_empty() && !self.connection.is_handshaking() {
                return Ok(true);
            }
            let is_news = match self.pull_now() {
                // What the server sent before it closed can still be read.
                Err(e) if is_over(&e) && !self.connection.is_handshaking() => return Ok(false),
                other => other?,
            };
            if is_news {
                if !self.connection.is_handshaking() && self.has_answer()? {
                    return Ok(false);
                }
                continue;
            }
            if is_out && !bytes.is_empty() && !self.connection.is_handshaking() {
                continue;
            }
            let events = if is_out { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            self.socket.wait(events)?;
        }
    }
}

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(n) = would_block(self.connection.reader().read(buffer))? {
                return Ok(n);
            }
            // If the server has closed the connection, it takes no more bytes, but its answer can still be read.
            let is_out = match self.push() {
                Err(e) if is_over(&e) => true,
                other => other?,
            };
            if !is_out {
                if !self.pull_now()? {
                    self.socket.wait(PollFlags::IN | PollFlags::OUT)?;
                }
                continue;
            }
            let socket = &mut self.socket;
            self.connection.read_tls(&mut Noting(|b: &mut [u8]| socket.read(b), &mut self.records))?;
            self.process()?;
        }
    }
}
