//! A TCP or Unix socket to a server. Its waits end when the client of the request goes away or the process stops
//! ([`Cancellation`]).

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
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

use super::cancellation::{Cancellation, Cancelled};
use super::poll::BRIEF;

/// If a server usually answers within this time, the thread waits for the answer in a blocking read of up to [`BRIEF`]
/// and so stays a leader.
const QUICK: Duration = Duration::from_millis(1);

/// How long the server takes to answer, on average.
#[derive(Clone, Debug, Default)]
pub(crate) struct LatencyEstimate(Arc<AtomicU64>);

impl LatencyEstimate {
    /// Updates the moving average, in microseconds; the newest value counts for an eighth.
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
    pub(super) fd: OwnedFd,
    latency: LatencyEstimate,
    /// When the request was sent whose answer has not come yet.
    pub(super) asked_at: Option<Instant>,
    /// When waits fail with `TimedOut`, if at all.
    pub(super) deadline: Option<Instant>,
    /// What else ends waits.
    pub(super) cancellation: Cancellation,
}

impl Socket {
    /// Connects to the first of `addresses` that answers. Each attempt gets an equal share of the time that is left.
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

    /// Connects to the socket at `path`. While the queue of the server is full, tries again until `timeout`, because
    /// the system offers no way to wait for room in it (unix(7): EAGAIN).
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
        // The socket was opened as non-blocking. From now on a read may block for BRIEF.
        ioctl_fionbio(&fd, false)?;
        sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(BRIEF))?;
        Ok(Socket { fd, latency, asked_at: None, deadline: None, cancellation: cancellation.clone() })
    }

    /// Sets the deadline of further waits; with `None` they have no timeout.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    pub(super) fn wait(&self, events: PollFlags) -> io::Result<()> {
        self.cancellation.wait(&self.fd, events, self.patience()?)
    }

    /// How long a wait may last from now: `None` without a deadline; fails with `TimedOut` after it.
    fn patience(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.map(|d| d.saturating_duration_since(Instant::now()));
        match left.is_some_and(|l| l.is_zero()) {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    }

    pub(super) fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                other => return Ok(other?.0),
            }
        }
    }

    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// Opens a TCP connection without a blocking call, so that the wait can be cancelled when the client goes away.
pub(super) fn connect_tcp(address: &SocketAddr, timeout: Duration, cancellation: &Cancellation) -> io::Result<OwnedFd> {
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

/// True if writing failed because the server has closed the connection.
pub(super) fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

pub(super) fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}
