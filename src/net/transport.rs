//! A connection to a server. Its waits end when the client of the request goes away or the process stops ([`Cancellation`]).

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::net::cancellation::{Cancellation, Cancelled};
use crate::net::poll::BRIEF;

/// An answer that comes within this time, as a rule, is waited for by the thread that leads, for [`BRIEF`].
const QUICK: Duration = Duration::from_millis(1);

/// How long the server takes to answer, on average.
#[derive(Clone, Debug, Default)]
pub(crate) struct LatencyEstimate(Arc<AtomicU64>);

impl LatencyEstimate {
    /// A moving average in microseconds, of which the newest is an eighth.
    fn note(&self, took: Duration) {
        let new = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(1 << 32);
        self.0.store((self.0.load(Relaxed) * 7 + new) / 8, Relaxed);
    }

    fn is_quick(&self) -> bool {
        self.0.load(Relaxed) <= QUICK.as_micros() as u64
    }
}

/// Pauses between two attempts to connect to a Unix socket whose queue is full.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A TCP or Unix socket.
pub(crate) struct Socket {
    fd: OwnedFd,
    latency: LatencyEstimate,
    /// When the request was sent that has no answer yet.
    asked_at: Option<Instant>,
    /// The end of the wait that is going on, if it has one.
    deadline: Option<Instant>,
    /// What else ends it.
    cancellation: Cancellation,
}

impl Socket {
    /// Connects to the first of `addresses` that answers; the time is shared among those that are left.
    pub(crate) fn open_tcp(
        addresses: &[SocketAddr],
        timeout: Duration,
        latency: LatencyEstimate,
        cancellation: &Cancellation,
    ) -> io::Result<Socket> {
        let deadline = Instant::now() + timeout;
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for (i, address) in addresses.iter().enumerate() {
            let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - i) as u32;
            if share.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match connect_tcp(address, share, cancellation) {
                Ok(fd) => return Socket::over(fd, latency, cancellation),
                Err(e) if Cancelled::of(&e).is_some() => return Err(e),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Connects to the socket at `path`. A server whose queue of connections is full is asked again until `timeout`,
    /// since the system offers no way to wait for room there (unix(7): EAGAIN).
    pub(crate) fn open_unix(
        path: &Path,
        timeout: Duration,
        latency: LatencyEstimate,
        cancellation: &Cancellation,
    ) -> io::Result<Socket> {
        let (address, deadline) = (SocketAddrUnix::new(path)?, Instant::now() + timeout);
        let mut pause = FIRST_PAUSE;
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            match connect(&fd, &address) {
                Ok(()) => return Socket::over(fd, latency, cancellation),
                Err(Errno::AGAIN) => {}
                Err(e) => return Err(e.into()),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            cancellation.pause(pause.min(left))?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn over(fd: OwnedFd, latency: LatencyEstimate, cancellation: &Cancellation) -> io::Result<Socket> {
        // It was opened without waiting; a read may wait for BRIEF.
        ioctl_fionbio(&fd, false)?;
        sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(BRIEF))?;
        Ok(Socket { fd, latency, asked_at: None, deadline: None, cancellation: cancellation.clone() })
    }

    /// From now on waits end at `deadline`, or not by themselves.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        self.cancellation.wait(&self.fd, events, self.patience()?)
    }

    /// How long a wait may last from now; `None` when it ends by nothing but an event.
    fn patience(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.map(|d| d.saturating_duration_since(Instant::now()));
        match left.is_some_and(|l| l.is_zero()) {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    }

    fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                other => return Ok(other?.0),
            }
        }
    }

    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// Opens a TCP connection without a call that blocks: the wait ends when the client leaves.
fn connect_tcp(address: &SocketAddr, timeout: Duration, cancellation: &Cancellation) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match connect(&fd, address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            cancellation.wait(&fd, PollFlags::OUT, Some(timeout))?;
            sockopt::socket_error(&fd)??;
        }
        Err(e) => return Err(e.into()),
    }
    sockopt::set_tcp_nodelay(&fd, true)?;
    crate::net::poll::keep_alive(&fd);
    Ok(fd)
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancellation.flush_client()?;
        let mut quick = self.asked_at.is_some() && self.latency.is_quick();
        loop {
            let flags = if std::mem::take(&mut quick) { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            match recv(&self.fd, &mut *buffer, flags) {
                Ok((n, _)) => {
                    if let Some(at) = self.asked_at.take() {
                        self.latency.note(at.elapsed());
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
            match self.send_now(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// TLS over a socket, driven here so that both directions can be watched at once.
pub(crate) struct Tls {
    connection: ClientConnection,
    socket: Socket,
    records: Records,
}

/// Where the received bytes stand between TLS records (RFC 8446 section 5.1): rustls does not tell whether it holds a
/// part of one.
#[derive(Default)]
struct Records {
    header: [u8; 5],
    /// Bytes of the next header that have arrived.
    known: usize,
    /// Bytes of the record that have not.
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

    fn is_between(&self) -> bool {
        self.known == 0 && self.left == 0
    }
}

/// The socket as rustls reads it: what it gets is noted.
struct Noting<'t, R>(R, &'t mut Records);

impl<R: FnMut(&mut [u8]) -> io::Result<usize>> Read for Noting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (self.0)(buffer)?;
        self.1.note(&buffer[..n]);
        Ok(n)
    }
}

/// The socket as rustls writes to it: without waiting.
struct Now<'s>(&'s Socket);

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_now(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

impl Tls {
    /// Hands records to the system; whether all are out.
    fn push(&mut self) -> io::Result<bool> {
        while self.connection.wants_write() {
            if would_block(self.connection.write_tls(&mut Now(&self.socket)))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes in what the server has sent, without waiting; false when that is nothing.
    fn pull_now(&mut self) -> io::Result<bool> {
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
                // The alert that says why.
                let _ = self.push();
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Has the server said anything that nobody has read, or closed?
    fn has_answer(&mut self) -> io::Result<bool> {
        let state = self.process()?;
        Ok(state.plaintext_bytes_to_read() > 0 || state.peer_has_closed())
    }

    /// Comes to an end of the handshake.
    fn shake_hands(&mut self) -> io::Result<()> {
        while self.connection.is_handshaking() {
            let is_out = self.push()?;
            if self.connection.is_handshaking() && !self.pull_now()? {
                self.socket.wait(if is_out { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT })?;
            }
        }
        Ok(())
    }

    /// See [`Transport::send`].
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
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
                // What it said before it hung up can be read.
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
            // What a server does not take that has answered already need not be waited for.
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

/// Is this how writing to a server fails that has hung up?
fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// A socket, perhaps with TLS over it.
pub(crate) enum Transport {
    /// As it is.
    Plain(Socket),
    /// Encrypted.
    Tls(Box<Tls>),
}

/// What a wait for two sides ended with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Either {
    /// The other side has something to be read.
    Other,
    /// The server has answered, or closed.
    Server,
}

impl Transport {
    /// Reads what the server has sent, and waits for it.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.read(buffer),
            Transport::Tls(tls) => tls.read(buffer),
        }
    }

    /// A TLS client connection to `name`, with its handshake done by `deadline`.
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

    /// Is nothing left in the layers between here and the socket?
    pub(crate) fn holds_nothing(&mut self) -> bool {
        match self {
            Transport::Plain(_) => true,
            Transport::Tls(tls) => tls.records.is_between() && matches!(tls.has_answer(), Ok(false)),
        }
    }

    /// Is it worth another request? Bytes that nobody asked for are as bad as the end of the connection.
    pub(crate) fn is_open(&mut self) -> bool {
        if !self.holds_nothing() {
            return false;
        }
        let fd = &self.socket().fd;
        matches!(recv(fd, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
    }

    /// From now on waits end at `deadline`, or not by themselves.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.socket().deadline = deadline;
    }

    /// From now on waits end with `cancellation`.
    pub(crate) fn set_cancellation(&mut self, cancellation: Cancellation) {
        self.socket().cancellation = cancellation;
    }

    /// A request has been sent whole: its answer is timed.
    pub(crate) fn asked(&mut self) {
        self.socket().asked_at = Some(Instant::now());
    }

    /// Sends `bytes`. False when the server answered, or closed, before it had them all: then reading tells why.
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
                // What ended the wait was not room to write, so it was an answer.
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
                // It may be a ticket for later, or a new key.
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
