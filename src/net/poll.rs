//! Waiting for one socket, and the options that all sockets share.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

/// How long a thread may block in one read without `poll`, during which nothing can end the wait early. An answer or a
/// request that comes within this time costs only one system call. The system supports no shorter time.
pub const BRIEF: Duration = Duration::from_millis(4);

/// The timeout in the form that `poll` and `epoll` need.
pub fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

/// Waits until `socket` is ready for `events`; `TimedOut` when it is not by `deadline`.
pub fn wait_until(socket: impl AsFd, events: PollFlags, deadline: Instant) -> io::Result<()> {
    crate::blocking::announce();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match poll(&mut [PollFd::new(&socket, events)], Some(&timespec(left))) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Enables TCP keep-alive: the system checks whether a silent peer is still there, and ends the connection after about
/// two minutes if it is not. A laptop that falls asleep does not close its connections, and a stream on which nothing
/// is sent would stay open for ever. Connections inherit this from their listening socket.
pub fn keep_alive(socket: impl AsFd) {
    let idle = Duration::from_secs(60);
    let settings = [
        sockopt::set_socket_keepalive(&socket, true),
        sockopt::set_tcp_keepidle(&socket, idle),
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(15)),
        sockopt::set_tcp_keepcnt(&socket, 4),
    ];
    if let Some(error) = settings.into_iter().find_map(Result::err) {
        log::debug!(error:% = error; "TCP keep-alive could not be set");
    }
}
