//! The connection to a client: a socket, perhaps with TLS over it. Nothing here waits, except where a caller asks for a
//! read that waits for [`BRIEF`](super::poll::BRIEF).

use crate::lock::Unpoisoned;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use rustls::{ServerConfig, ServerConnection};

/// A client's connection.
pub struct ClientConnection {
    socket: TcpStream,
    /// Absent where the port speaks no TLS.
    cover: Option<Mutex<Cover>>,
}

/// How far TLS has come.
enum Cover {
    /// Not a byte has arrived: a silent client costs no memory for a session.
    Awaited(Arc<ServerConfig>),
    Tls(Box<Session>),
    /// The client does not speak TLS, and is told so in the clear.
    None,
}

struct Session {
    tls: ServerConnection,
    /// The last read filled its buffer, so that decrypted bytes may be left.
    has_more: bool,
}

/// How much of what was taken is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All of it.
    All,
    /// A part: the client reads.
    Some,
    /// Nothing.
    None,
}

/// Where a handshake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It is over.
    Done,
    /// The client has to send more.
    NeedsBytes,
    /// The client has to read more.
    NeedsRoom,
    /// The client sent plain HTTP.
    IsPlainHttp,
}

impl ClientConnection {
    /// Over `socket` as it is.
    pub fn plain(socket: TcpStream) -> ClientConnection {
        ClientConnection { socket, cover: None }
    }

    /// Over `socket`, with TLS once [`ClientConnection::handshake`] is done.
    pub fn encrypted(socket: TcpStream, config: Arc<ServerConfig>) -> ClientConnection {
        ClientConnection { socket, cover: Some(Mutex::new(Cover::Awaited(config))) }
    }

    /// Does this port speak TLS?
    pub fn is_encrypted(&self) -> bool {
        self.cover.is_some()
    }

    /// Takes the handshake as far as it goes without waiting. An error is the end of the connection; the client has
    /// been sent the alert that says why.
    pub fn handshake(&self) -> io::Result<Handshake> {
        let Some(mut cover) = self.cover() else { return Ok(Handshake::Done) };
        if let Cover::Awaited(config) = &*cover {
            let mut first = [0];
            match recv(&self.socket, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(Handshake::NeedsBytes),
                Err(e) => return Err(e.into()),
                // A method; a TLS record of a handshake begins with 22 (RFC 8446 section 5.1).
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

    /// Is `protocol` what the handshake settled on, or was none named (RFC 7301)?
    pub fn speaks(&self, protocol: &[u8]) -> bool {
        let cover = self.cover();
        match cover.as_deref() {
            Some(Cover::Tls(session)) => session.tls.alpn_protocol().is_none_or(|agreed| agreed == protocol),
            _ => true,
        }
    }

    /// Reads what is there; 0 means the end, `WouldBlock` that nothing is. With empty `flags` it waits for
    /// [`BRIEF`](super::poll::BRIEF).
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
            // Perhaps an answer to a key update; what does not fit goes with the next bytes.
            self.push(session)?;
        }
    }

    /// May decrypted bytes be left of which the socket knows nothing?
    pub fn has_more(&self) -> bool {
        matches!(self.cover().as_deref(), Some(Cover::Tls(session)) if session.has_more)
    }

    /// Has the client sent anything that has not been read?
    pub fn has_bytes(&self) -> bool {
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        self.has_more() || matches!(recv(&self.socket, &mut [0], peek), Ok((1.., _)))
    }

    /// Takes what it can of `bytes` without waiting: perhaps nothing. With TLS, what was taken is sent when
    /// [`ClientConnection::flush_now`] says so.
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

    /// Hands what was taken to the system; how much of it went.
    pub fn flush_now(&self) -> io::Result<Flushed> {
        match self.cover().as_deref_mut() {
            Some(Cover::Tls(session)) => self.flush(session),
            _ => Ok(Flushed::All),
        }
    }

    /// No more bytes will be sent, and the next flush says so within TLS (RFC 8446 section 6.1).
    pub fn say_goodbye(&self) {
        if let Some(Cover::Tls(session)) = self.cover().as_deref_mut() {
            session.tls.send_close_notify();
        }
    }

    /// No more bytes will be sent: says so within TLS, if it has not been said, and then to the system.
    pub fn end(&self) {
        self.say_goodbye();
        let _ = self.flush_now();
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends the connection at once, both ways; whoever waits for it notices.
    pub fn cut(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends records; whether all are out.
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

    /// Receives records.
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

/// The socket as TLS sees it.
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

/// 0 when there is no room.
fn send_some(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            other => return Ok(other?),
        }
    }
}
