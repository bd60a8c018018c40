//! The connection to a client: a socket, with or without TLS. Nothing here blocks, except a read that the caller allows
//! to wait for [`BRIEF`](super::poll::BRIEF).

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use rustls::{ServerConfig, ServerConnection};

use crate::lock::Unpoisoned;

/// A client's connection.
pub struct ClientConnection {
    socket: TcpStream,
    /// The state of TLS; absent if the listener has no TLS.
    cover: Option<Mutex<Cover>>,
}

/// The state of TLS on a connection.
enum Cover {
    /// No byte has arrived yet. The session is created later, so that a silent client uses no memory for it.
    Awaited(Arc<ServerConfig>),
    Tls(Box<Session>),
    /// The client does not use TLS, and gets an answer about this in plain HTTP.
    None,
}

struct Session {
    tls: ServerConnection,
    /// The last read filled its buffer, so that more decrypted bytes may be left.
    has_more: bool,
}

/// How much of the accepted bytes has been handed to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All of it.
    All,
    /// A part of it, so the client is reading.
    Some,
    /// Nothing.
    None,
}

/// Where a handshake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The handshake is complete.
    Done,
    /// The client has to send more.
    NeedsBytes,
    /// The client has to read more.
    NeedsRoom,
    /// The client sent plain HTTP.
    IsPlainHttp,
}

impl ClientConnection {
    /// A connection over `socket` without TLS.
    pub fn plain(socket: TcpStream) -> ClientConnection {
        ClientConnection { socket, cover: None }
    }

    /// A connection over `socket`, with TLS once [`ClientConnection::handshake`] is done.
    pub fn encrypted(socket: TcpStream, config: Arc<ServerConfig>) -> ClientConnection {
        ClientConnection { socket, cover: Some(Mutex::new(Cover::Awaited(config))) }
    }

    /// True if the listener of this connection has TLS.
    pub fn is_encrypted(&self) -> bool {
        self.cover.is_some()
    }

    /// Continues the handshake as far as possible without blocking. After an error the connection is over; if TLS
    /// failed, the client has been sent the alert that says why.
    pub fn handshake(&self) -> io::Result<Handshake> {
        let Some(mut cover) = self.cover() else { return Ok(Handshake::Done) };
        if let Cover::Awaited(config) = &*cover {
            let mut first = [0];
            match recv(&self.socket, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(Handshake::NeedsBytes),
                Err(e) => return Err(e.into()),
                // An HTTP method begins like this; a TLS handshake begins with 22 (RFC 8446 section 5.1).
                Ok(_) if first[0].is_ascii_uppercase() => {
                    *cover = Cover::None;
                    return Ok(Handshake::IsPlainHttp);
                }
                Ok(_) => {
                    let tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                    *cover = Cover::Tls(Box::new(Session { tls, has_more: false }));
                }
            }
        }
        let Cover::Tls(session) = &mut *cover else { return Ok(Handshake::IsPlainHttp) };
        loop {
            if !self.push(session)? {
                return Ok(Handshake::NeedsRoom);
            }
            if !session.tls.is_handshaking() {
                return Ok(Handshake::Done);
            }
            match self.pull(session, RecvFlags::DONTWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Handshake::NeedsBytes),
                Err(e) => return Err(e),
            }
        }
    }

    /// True if the handshake selected `protocol` by ALPN, or no protocol at all (RFC 7301).
    pub fn speaks(&self, protocol: &[u8]) -> bool {
        let cover = self.cover();
        match cover.as_deref() {
            Some(Cover::Tls(session)) => session.tls.alpn_protocol().is_none_or(|agreed| agreed == protocol),
            _ => true,
        }
    }

    /// Reads what has arrived. 0 means the end of the connection, `WouldBlock` that nothing has arrived. With empty
    /// `flags` it waits for up to [`BRIEF`](super::poll::BRIEF).
    pub fn recv(&self, buffer: &mut [u8], mut flags: RecvFlags) -> io::Result<usize> {
        let mut cover = self.cover();
        let Some(Cover::Tls(session)) = cover.as_deref_mut() else { return recv_some(&self.socket, buffer, flags) };
        loop {
            match session.tls.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
                Ok(n) => {
                    session.has_more = n == buffer.len();
                    return Ok(n);
                }
            }
            session.has_more = false;
            self.pull(session, flags)?;
            flags = RecvFlags::DONTWAIT;
            // Sends what TLS may have to answer, such as to a key update. What does not fit is sent with the next
            // bytes.
            self.push(session)?;
        }
    }

    /// True if decrypted bytes may be left, for which the socket does not become readable.
    pub fn has_more(&self) -> bool {
        matches!(self.cover().as_deref(), Some(Cover::Tls(session)) if session.has_more)
    }

    /// True if the client has sent bytes that have not been read.
    pub fn has_bytes(&self) -> bool {
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        self.has_more() || matches!(recv(&self.socket, &mut [0], peek), Ok((1.., _)))
    }

    /// Accepts as many of `bytes` as possible without blocking, possibly none, and returns their number. With TLS, they
    /// are sent for certain only when [`ClientConnection::flush_now`] returns [`Flushed::All`].
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut cover = self.cover();
        let Some(Cover::Tls(session)) = cover.as_deref_mut() else { return send_some(&self.socket, bytes) };
        if !self.push(session)? {
            return Ok(0);
        }
        let n = session.tls.writer().write(bytes)?;
        self.push(session)?;
        Ok(n)
    }

    /// Hands the accepted bytes to the system; returns how much of them it took.
    pub fn flush_now(&self) -> io::Result<Flushed> {
        match self.cover().as_deref_mut() {
            Some(Cover::Tls(session)) => self.flush(session),
            _ => Ok(Flushed::All),
        }
    }

    /// Declares that no more bytes will be sent: with TLS, the next flush sends a close_notify alert (RFC 8446 section
    /// 6.1).
    pub fn say_goodbye(&self) {
        if let Some(Cover::Tls(session)) = self.cover().as_deref_mut() {
            session.tls.send_close_notify();
        }
    }

    /// Ends sending: sends close_notify if the connection has TLS and that was not done before, then shuts down the
    /// sending side of the socket.
    pub fn end(&self) {
        self.say_goodbye();
        let _ = self.flush_now();
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Shuts down the socket in both directions at once; threads that wait for it notice.
    pub fn cut(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends pending TLS records; true if all have been sent.
    fn push(&self, session: &mut Session) -> io::Result<bool> {
        Ok(self.flush(session)? == Flushed::All)
    }

    fn flush(&self, session: &mut Session) -> io::Result<Flushed> {
        let mut flushed = Flushed::None;
        while session.tls.wants_write() {
            match session.tls.write_tls(&mut Raw(&self.socket, RecvFlags::DONTWAIT)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => flushed = Flushed::Some,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(flushed),
                Err(e) => return Err(e),
            }
        }
        Ok(Flushed::All)
    }

    /// Receives and decrypts TLS records.
    fn pull(&self, session: &mut Session, flags: RecvFlags) -> io::Result<usize> {
        let n = session.tls.read_tls(&mut Raw(&self.socket, flags))?;
        if let Err(error) = session.tls.process_new_packets() {
            let _ = self.push(session);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(n)
    }

    fn cover(&self) -> Option<MutexGuard<'_, Cover>> {
        self.cover.as_ref().map(|c| c.lock().unpoisoned())
    }
}

impl AsFd for ClientConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The socket as rustls reads and writes it.
struct Raw<'s>(&'s TcpStream, RecvFlags);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        recv_some(self.0, buffer, self.1)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match send_some(self.0, bytes)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(self.0, pieces, &mut SendAncillaryBuffer::default(), flags) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn recv_some(socket: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    loop {
        match recv(socket, &mut *buffer, flags) {
            Err(Errno::INTR) => {}
            other => return Ok(other?.0),
        }
    }
}

/// Sends without blocking; 0 if the send buffer is full.
fn send_some(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            other => return Ok(other?),
        }
    }
}
