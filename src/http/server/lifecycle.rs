//! Starts the server, runs it, and shuts it down when the process should stop.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net;
use rustls::ServerConfig;

use super::connection::Services;
use super::handler::{Handler, Limits};
use super::listening::ListeningSocket;
use super::poller::Poller;
use super::workers::{Outcome, Workers};
use crate::net::shutdown::Shutdown;
use crate::observe::log::Episode;

const BACKLOG: i32 = 1_024;
/// How long to wait for the connections to close after requests have been told to end.
const CLOSING: Duration = Duration::from_millis(500);

/// A server that has its sockets and is ready to run.
pub struct Server {
    shared: Arc<Shared>,
}

/// A listening socket and its handler.
pub struct Listener {
    /// The listening socket.
    pub socket: ListeningSocket,
    /// Handles the requests that come in through it.
    pub handler: Box<dyn Handler>,
    /// Present if clients must use TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// What all threads of the server share.
pub(super) struct Shared {
    pub(super) listeners: Vec<Listener>,
    pub(super) limits: Limits,
    pub(super) shutdown: Shutdown,
    pub(super) poller: Poller,
    pub(super) workers: Arc<Workers>,
    pub(super) cannot_accept: Episode,
}

impl Server {
    /// A server on `listeners`, which share one set of limits. From now on clients can connect; their requests are
    /// answered once [`Server::run`] is called.
    pub fn new(listeners: Vec<Listener>, limits: Limits, shutdown: Shutdown) -> io::Result<Server> {
        let poller = Poller::new(&limits)?;
        for (listener_index, listener) in listeners.iter().enumerate() {
            net::listen(&*listener.socket, BACKLOG)?;
            // Non-blocking, because another worker may have accepted the connection that this one was woken for.
            listener.socket.set_nonblocking(true)?;
            poller.add_listener(&listener.socket, listener_index)?;
        }
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
            let shared = shared.clone();
            let run = move || shared.upgrade().map_or(Outcome::End, |s| s.lead());
            let workers = Workers::new(limits.workers, run);
            Shared { listeners, limits, shutdown, poller, workers, cannot_accept: Episode::default() }
        });
        Ok(Server { shared })
    }

    /// Counts its connections: those that wait for a request, those that have begun one or wait until an answer is read,
    /// and those whose request is being answered.
    pub fn connections(&self) -> impl Fn() -> [usize; 3] + Send + Sync + use<> {
        let shared = Arc::downgrade(&self.shared);
        move || shared.upgrade().map_or([0; 3], |shared| shared.poller.connections())
    }

    /// Serves until `stop` becomes readable, which means that the process should stop. Then lets requests finish within
    /// `drain_timeout`.
    pub fn run(self, stop: BorrowedFd<'_>, drain_timeout: Duration) -> io::Result<()> {
        let shared = self.shared;
        shared.workers.start()?;
        let keeper = shared.clone();
        std::thread::Builder::new().name("poller".into()).spawn(move || {
            keeper.poller.look_after_deadlines(|key, mut connection| {
                let next = connection.time_is_up(&keeper.services(connection.listener_index()));
                keeper.settle(key, connection, next);
            });
        })?;
        for (listener_index, listener) in shared.listeners.iter().enumerate() {
            shared.poller.listen(&listener.socket, listener_index);
        }
        while poll(&mut [PollFd::from_borrowed_fd(stop, PollFlags::IN)], None) == Err(Errno::INTR) {}
        shared.shut_down(drain_timeout);
        shared.poller.end();
        shared.workers.end();
        Ok(())
    }
}

impl Shared {
    /// What a connection needs that was accepted on the listener with the index `listener_index`.
    pub(super) fn services(&self, listener_index: usize) -> Services<'_> {
        Services {
            handler: &*self.listeners[listener_index].handler,
            limits: &self.limits,
            shutdown: &self.shutdown,
            workers: &self.workers,
        }
    }

    /// Accepts no more connections, closes the idle ones, and lets the requests that are running finish within `timeout`.
    /// Event streams end at once.
    fn shut_down(&self, timeout: Duration) {
        self.shutdown.begin();
        for listener in &self.listeners {
            self.poller.remove_listener(&listener.socket);
            // Frees the port at once, although the descriptor stays open as long as the workers live. Whoever has passed
            // the socket on keeps it, and those who connect meanwhile wait for the next process.
            if !listener.socket.is_passed {
                let _ = net::shutdown(&*listener.socket, net::Shutdown::Both);
            }
        }
        self.poller.shut_down();
        let left = self.poller.wait_until_empty(Instant::now() + timeout);
        if left > 0 {
            log::warn!(connections = left; "requests were still running when --drain-timeout (DRAIN_TIMEOUT) ran out; their connections are closed");
            self.shutdown.finish();
            self.poller.wait_until_empty(Instant::now() + CLOSING);
        }
    }
}
