//! Ends waits early: when the client of a request goes away, or when the process should stop. One `poll` waits for all
//! of these, so no extra thread has to watch.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::client_handle::ClientHandle;
use super::poll::timespec;

/// Why a wait ended early; travels inside [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The client closed its connection.
    ClientGone,
    /// The process is about to end.
    ShuttingDown,
}

impl Cancelled {
    /// The cancellation inside `error`, if that is what it is.
    pub fn of(error: &io::Error) -> Option<Cancelled> {
        error.get_ref()?.downcast_ref::<Cancelled>().copied()
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cancelled::ClientGone => "the client went away",
            Cancelled::ShuttingDown => "the process is stopping",
        })
    }
}

impl std::error::Error for Cancelled {}

/// What may end a wait early.
#[derive(Clone, Debug, Default)]
pub struct Cancellation {
    client: Option<ClientHandle>,
    is_stream: bool,
}

impl Cancellation {
    /// Only its own timeout ends the wait: for requests to other servers that can't be repeated.
    pub fn none() -> Cancellation {
        Cancellation::default()
    }

    /// The wait ends when `client` goes away, or in the second step of a shutdown, when everything ends.
    pub fn of_request(client: &ClientHandle) -> Cancellation {
        Cancellation { client: Some(client.clone()), is_stream: false }
    }

    /// The wait ends when `client` goes away, or in the first step of a shutdown, when streams end.
    pub fn of_stream(client: &ClientHandle) -> Cancellation {
        Cancellation { client: Some(client.clone()), is_stream: true }
    }

    /// Waits until `socket` is ready for `events`; `TimedOut` when it is not in time.
    pub fn wait(&self, socket: impl AsFd, events: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
        match self.wait_for(&[(socket.as_fd(), events)], timeout)? {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Waits for `time`, unless it is cancelled.
    pub fn pause(&self, time: Duration) -> io::Result<()> {
        self.wait_for(&[], Some(time)).map(drop)
    }

    /// Waits until one of two sockets can be read; true if the second one can. `TimedOut` if neither can in time.
    pub fn wait_for_either(
        &self,
        first: BorrowedFd<'_>,
        second: BorrowedFd<'_>,
        timeout: Duration,
    ) -> io::Result<bool> {
        match self.wait_for(&[(second, PollFlags::IN), (first, PollFlags::IN | PollFlags::RDHUP)], Some(timeout))? {
            Some(i) => Ok(i == 0),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends what is queued for the client. This must be done before any wait, so that nothing is held back.
    pub fn flush_client(&self) -> io::Result<()> {
        match &self.client {
            Some(client) => client.flush().map_err(|_| io::Error::other(Cancelled::ClientGone)),
            None => Ok(()),
        }
    }

    /// The first of `sockets` that is ready, in their order; `None` when the time is up.
    fn wait_for(
        &self,
        sockets: &[(BorrowedFd<'_>, PollFlags)],
        timeout: Option<Duration>,
    ) -> io::Result<Option<usize>> {
        self.flush_client()?;
        crate::blocking::announce();
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            let mut fds = Vec::with_capacity(4);
            fds.extend(sockets.iter().map(|(socket, events)| PollFd::from_borrowed_fd(*socket, *events)));
            if let Some(client) = &self.client {
                fds.push(PollFd::from_borrowed_fd(client.shutdown().event(self.is_stream), PollFlags::IN));
                fds.push(PollFd::from_borrowed_fd(client.connection().as_fd(), PollFlags::RDHUP));
            }
            let left = deadline.map(|d| timespec(d.saturating_duration_since(Instant::now())));
            match poll(&mut fds, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(0) => return Ok(None),
                Ok(_) => {}
            }
            // A ready socket takes precedence over a cancellation, so that what has arrived is passed on.
            let ready = fds.iter().position(|fd| !fd.revents().is_empty()).unwrap_or(fds.len());
            if ready < sockets.len() {
                return Ok(Some(ready));
            }
            let is_shutdown = ready == sockets.len();
            return Err(io::Error::other(if is_shutdown { Cancelled::ShuttingDown } else { Cancelled::ClientGone }));
        }
    }
}
