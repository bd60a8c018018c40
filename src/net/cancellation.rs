//! Waiting for one socket while others may end the wait: the client that a request is made for may go away, and the
//! process may be told to stop. One `poll` watches all of them, so no thread has to watch on behalf of another.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::client_connection::ClientConnection;
use crate::net::shutdown::Shutdown;

thread_local! {
    static INTEREST: RefCell<Option<Interest>> = const { RefCell::new(None) };
    static STREAMING: Cell<bool> = const { Cell::new(false) };
    static UNDISTURBED: Cell<bool> = const { Cell::new(false) };
}

struct Interest {
    client: Arc<ClientConnection>,
    drain: Shutdown,
}

/// Why a wait ended early; travels inside [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The client closed its connection.
    ClientGone,
    /// The process is about to end.
    ShuttingDown,
}

impl Cancelled {
    /// The interruption inside `error`, if that is what it is.
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

/// Runs `work`, in which waits of this thread end when `client` goes away or everything is told to end.
pub fn on_behalf_of<R>(client: Arc<ClientConnection>, drain: Shutdown, work: impl FnOnce() -> R) -> R {
    INTEREST.set(Some(Interest { client, drain }));
    let result = work();
    INTEREST.set(None);
    result
}

/// Runs `work`, whose waits go on even if the client has gone: what it asks of others can't be asked twice.
pub fn undisturbed<R>(work: impl FnOnce() -> R) -> R {
    let interest = INTEREST.take();
    let before = UNDISTURBED.replace(true);
    let result = work();
    UNDISTURBED.set(before);
    INTEREST.set(interest);
    result
}

/// The connection of the client on whose behalf this thread works.
pub fn client() -> Option<Arc<ClientConnection>> {
    INTEREST.with_borrow(|interest| interest.as_ref().map(|i| i.client.clone()))
}

/// Runs `wait`, which also ends as soon as streams are told to end.
pub fn as_stream<R>(wait: impl FnOnce() -> R) -> R {
    STREAMING.set(true);
    let result = wait();
    STREAMING.set(false);
    result
}

/// Waits until `socket` is ready for `events`.
pub fn wait(socket: BorrowedFd<'_>, events: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
    match wait_for(&[(socket, events)], timeout)? {
        Some(_) => Ok(()),
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Waits for so long.
pub fn pause(time: Duration) -> io::Result<()> {
    wait_for(&[], Some(time)).map(drop)
}

/// Waits until one of two sockets can be read; whether the second can. `TimedOut` when neither can.
pub fn wait_for_either(first: BorrowedFd<'_>, second: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    match wait_for(&[(second, PollFlags::IN), (first, PollFlags::IN | PollFlags::RDHUP)], Some(timeout))? {
        Some(i) => Ok(i == 0),
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The first of `sockets` that is ready, in their order; `None` when the time is up.
fn wait_for(sockets: &[(BorrowedFd<'_>, PollFlags)], timeout: Option<Duration>) -> io::Result<Option<usize>> {
    send_first()?;
    crate::blocking::announce();
    let deadline = timeout.map(|t| Instant::now() + t);
    INTEREST.with_borrow(|interest| {
        loop {
            let mut fds = Vec::with_capacity(4);
            fds.extend(sockets.iter().map(|(socket, events)| PollFd::from_borrowed_fd(*socket, *events)));
            if let Some(interest) = interest {
                fds.push(PollFd::from_borrowed_fd(interest.drain.event(STREAMING.get()), PollFlags::IN));
                fds.push(PollFd::from_borrowed_fd(interest.client.as_fd(), PollFlags::RDHUP));
            }
            let left = deadline.map(|d| super::poll::timespec(d.saturating_duration_since(Instant::now())));
            match poll(&mut fds, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(0) => return Ok(None),
                Ok(_) => {}
            }
            // What has arrived is passed on before the wait is called off.
            let ready = fds.iter().position(|fd| !fd.revents().is_empty()).unwrap_or(fds.len());
            if ready < sockets.len() {
                return Ok(Some(ready));
            }
            let is_drain = ready == sockets.len();
            return Err(io::Error::other(if is_drain { Cancelled::ShuttingDown } else { Cancelled::ClientGone }));
        }
    })
}

/// Sends what is on its way to the client, as must be done before any wait.
pub fn send_first() -> io::Result<()> {
    match super::write_buffer::flush() {
        Err(_) if !UNDISTURBED.get() => Err(io::Error::other(Cancelled::ClientGone)),
        _ => Ok(()),
    }
}
