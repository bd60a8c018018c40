//! A connection to a server. Its waits end when the client goes away or the process stops ([`interrupt`]).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::http::body::Source;
use crate::net::{BRIEF, interrupt};

/// An answer that comes within this time, as a rule, is waited for by the thread that leads, for [`BRIEF`].
const QUICK: Duration = Duration::from_millis(1);

/// How long the server takes to answer, on average.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<AtomicU64>);

impl Pace {
    /// A moving average in microseconds, of which the newest is an eighth.
    fn note(&self, took: Duration) {
        let new = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(1 << 32);
        self.0.store((self.0.load(Relaxed) * 7 + new) / 8, Relaxed);
    }

    fn is_quick(&self) -> bool {
        self.0.load(Relaxed) <= QUICK.as_micros() as u64
    }
}

/// A TCP or Unix socket.
pub(crate) struct Socket {
    fd: OwnedFd,
    pace: Pace,
    /// When the request was sent that has no answer yet.
    asked_at: Option<Instant>,
    /// The end of the wait that is going on, if it has one.
    deadline: Option<Instant>,
}

impl Socket {
    /// Connects to the first of `addresses` that answers; the time is shared among those that are left.
    pub(crate) fn open_tcp(addresses: &[SocketAddr], timeout: Duration, pace: Pace) -> io::Result<Socket> {
        crate::blocking::announce();
        let deadline = Instant::now() + timeout;
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for (i, address) in addresses.iter().enumerate() {
            let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - i) as u32;
            if share.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match TcpStream::connect_timeout(address, share) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    crate::net::keep_alive(&socket);
                    return Socket::over(socket.into(), pace);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Connects to the socket at `path`.
    pub(crate) fn open_unix(path: &Path, pace: Pace) -> io::Result<Socket> {
        Socket::over(UnixStream::connect(path)?.into(), pace)
    }

    fn over(fd: OwnedFd, pace: Pace) -> io::Result<Socket> {
        sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(BRIEF))?;
        Ok(Socket { fd, pace, asked_at: None, deadline: None })
    }

    /// From now on waits end at `deadline`, or not by themselves.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let left = self.deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if left.is_some_and(|l| l.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        interrupt::wait(self.fd.as_fd(), events, left)
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::send_first()?;
        let mut quick = self.asked_at.is_some() && self.pace.is_quick();
        loop {
            let flags = if std::mem::take(&mut quick) { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            match recv(&self.fd, &mut *buffer, flags) {
                Ok((n, _)) => {
                    if let Some(at) = self.asked_at.take() {
                        self.pace.note(at.elapsed());
                    }
                    return Ok(n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket, perhaps with TLS over it.
pub(crate) enum Wire {
    /// As it is.
    Plain(Socket),
    /// Encrypted.
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Wire {
    /// A TLS client connection to `name`; the handshake takes place with the first byte.
    pub(crate) fn encrypted(socket: Socket, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Wire> {
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Wire::Tls(Box::new(StreamOwned::new(connection, socket))))
    }

    fn socket(&mut self) -> &mut Socket {
        match self {
            Wire::Plain(socket) => socket,
            Wire::Tls(stream) => &mut stream.sock,
        }
    }

    /// Is it worth another request? Bytes that nobody asked for are as bad as the end of the connection.
    pub(crate) fn is_open(&mut self) -> bool {
        let fd = &self.socket().fd;
        matches!(recv(fd, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
    }

    /// From now on waits end at `deadline`, or not by themselves.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.socket().set_deadline(deadline);
    }

    /// A request has been sent whole: its answer is timed.
    pub(crate) fn asked(&mut self) {
        self.socket().asked_at = Some(Instant::now());
    }

    /// Sends `bytes`. False when the server answered, or closed, before it had them all: then reading tells why.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        let socket = match self {
            Wire::Plain(socket) => socket,
            // What can be read may belong to the handshake.
            Wire::Tls(stream) => return stream.write_all(bytes).and_then(|()| stream.flush()).map(|()| true),
        };
        let mut waited = false;
        while !bytes.is_empty() {
            match send(&socket.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => {
                    bytes = &bytes[n..];
                    waited = false;
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
                // What ended the wait was not room to write, so it was an answer.
                Err(Errno::AGAIN) if waited => return Ok(false),
                Err(Errno::AGAIN) => {
                    socket.wait(PollFlags::OUT | PollFlags::IN)?;
                    waited = true;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }
}

impl Source for Wire {
    fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}
