//! A connection to a server: a socket, perhaps with TLS over it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::cancellation::Cancellation;
use super::socket::{Socket, is_over, would_block};
use super::tls_socket::{Records, Tls};

/// A socket, perhaps with TLS over it.
pub(crate) enum Transport {
    /// Without TLS.
    Plain(Socket),
    /// With TLS.
    Tls(Box<Tls>),
}

/// Which side ended a wait for two sides.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Either {
    /// The other side has something to be read.
    Other,
    /// The server has answered, or closed.
    Server,
}

impl Transport {
    /// Reads what the server has sent; waits if there is nothing.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.read(buffer),
            Transport::Tls(tls) => tls.read(buffer),
        }
    }

    /// Opens TLS to `name` over `socket`. Waits for the handshake, until `deadline` at the latest.
    pub(crate) fn encrypted(
        socket: Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        deadline: Instant,
    ) -> io::Result<Transport> {
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut tls = Tls { connection, socket, records: Records::default() };
        tls.socket.set_deadline(Some(deadline));
        tls.shake_hands()?;
        Ok(Transport::Tls(Box::new(tls)))
    }

    fn socket(&mut self) -> &mut Socket {
        match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(tls) => &mut tls.socket,
        }
    }

    /// True if the TLS layer holds no unread data and no part of a record.
    pub(crate) fn holds_nothing(&mut self) -> bool {
        match self {
            Transport::Plain(_) => true,
            Transport::Tls(tls) => tls.records.is_between() && matches!(tls.has_answer(), Ok(false)),
        }
    }

    /// True if the connection can be used for another request. Unexpected bytes from the server rule that out, just as
    /// the end of the connection does.
    pub(crate) fn is_open(&mut self) -> bool {
        if !self.holds_nothing() {
            return false;
        }
        let fd = &self.socket().fd;
        matches!(recv(fd, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
    }

    /// Sets the deadline of further waits; with `None` they have no timeout.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.socket().deadline = deadline;
    }

    /// Sets the cancellation that ends further waits early.
    pub(crate) fn set_cancellation(&mut self, cancellation: Cancellation) {
        self.socket().cancellation = cancellation;
    }

    /// Called when a request has been sent completely: starts to measure the time to its answer.
    pub(crate) fn asked(&mut self) {
        self.socket().asked_at = Some(Instant::now());
    }

    /// Sends `bytes`. False if the server answered or closed before it had received all of them; reading then tells
    /// why.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        let socket = match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(tls) => return tls.send(bytes),
        };
        let mut waited = false;
        while !bytes.is_empty() {
            match would_block(socket.send_now(bytes)) {
                Ok(Some(n)) => {
                    bytes = &bytes[n..];
                    waited = false;
                }
                Err(e) if is_over(&e) => return Ok(false),
                // The wait ended although there is no room to write, so an answer has come.
                Ok(None) if waited => return Ok(false),
                Ok(None) => {
                    socket.wait(PollFlags::OUT | PollFlags::IN)?;
                    waited = true;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Waits until `other` can be read or the server has answered, whichever is first; `TimedOut` at `deadline`.
    pub(crate) fn wait_for_either(&mut self, other: BorrowedFd<'_>, deadline: Instant) -> io::Result<Either> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let socket = self.socket();
            if !socket.cancellation.wait_for_either(other, socket.fd.as_fd(), left)? {
                return Ok(Either::Other);
            }
            match self {
                Transport::Plain(_) => return Ok(Either::Server),
                // The bytes may be only a session ticket or a key update, not an answer.
                Transport::Tls(tls) => match tls.pull_now() {
                    Ok(_) if !tls.has_answer()? => {}
                    Ok(_) => return Ok(Either::Server),
                    Err(e) if is_over(&e) => return Ok(Either::Server),
                    Err(e) => return Err(e),
                },
            }
        }
    }
}
