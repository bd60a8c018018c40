//! Waiting for one socket, and what every socket here is set to.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

/// How long a thread waits in one read, without `poll` and so without anything to end the wait: an answer or a request
/// that comes at once costs one system call. The system knows no shorter time.
pub const BRIEF: Duration = Duration::from_millis(4);

/// A pause for `poll` and its like.
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

/// Has the system ask a silent peer whether it is still there: a laptop that fell asleep says no goodbye, and a stream
/// that nobody writes to would be held for it for ever. Gone after some two minutes. A listening socket hands it on to
/// those that it accepts.
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
