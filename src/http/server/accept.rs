//! Listening sockets, accepting connections, shutting down.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustls::ServerConfig;

use super::connection::{Connection, Services};
use super::connection_table::Key;
use super::handler::{Handler, Limits};
use super::poller::{Event, Poller};
use super::wait::{Next, Wait, WaitFor};
use super::workers::{self, Outcome, Workers};
use crate::net::client_connection::ClientConnection;
use crate::net::shutdown::Shutdown;
use crate::observe::log::Episode;

const BACKLOG: i32 = 1_024;
/// Connections accepted before requests get their turn.
const ACCEPTED_IN_A_ROW: usize = 64;
/// Pause after a connection could not be accepted.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A server that has its sockets and is ready to run.
pub struct Server {
    shared: Arc<Shared>,
}

/// A listening socket and its handler.
pub struct Listener {
    /// The listening socket.
    pub socket: TcpListener,
    /// Handles the requests that come in through it.
    pub handler: Box<dyn Handler>,
    /// Present if clients must use TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

struct Shared {
    listeners: Vec<Listener>,
    limits: Limits,
    shutdown: Shutdown,
    poller: Poller,
    workers: Arc<Workers>,
    trouble: Episode,
}

/// Binds to the first of `candidates` that this machine has. It does not listen yet: connections are refused until
/// [`Server::new`].
///
/// An IPv6 wildcard address also accepts IPv4, whatever the default of the system is.
pub fn bind(candidates: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in candidates {
        match bind_one(*address) {
            Ok(listener) => return Ok(listener),
            Err(e) if matches!(e.raw_os_error(), Some(97 | 99)) => last = e, // EAFNOSUPPORT, EADDRNOTAVAIL
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    // Accepted connections inherit these options.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(crate::net::poll::BRIEF))?;
    crate::net::poll::keep_alive(&socket);
    net::bind(&socket, &address)?;
    Ok(TcpListener::from(socket))
}

impl Server {
    /// A server on `listeners`, which share one set of limits. From now on clients can connect; their requests are
    /// answered once [`Server::run`] is called.
    pub fn new(listeners: Vec<Listener>, limits: Limits, shutdown: Shutdown) -> io::Result<Server> {
        let poller = Poller::new(&limits)?;
        for (listener_index, listener) in listeners.iter().enumerate() {
            net::listen(&listener.socket, BACKLOG)?;
            // Non-blocking, because another worker may have accepted the connection that this one was woken for.
            listener.socket.set_nonblocking(true)?;
            poller.add_listener(&listener.socket, listener_index)?;
        }
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
            let shared = shared.clone();
            let run = move || shared.upgrade().map_or(Outcome::End, |s| s.lead());
            let workers = Workers::new(limits.workers, run);
            Shared { listeners, limits, shutdown, poller, workers, trouble: Episode::default() }
        });
        Ok(Server { shared })
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
    fn services(&self, listener_index: usize) -> Services<'_> {
        Services {
            handler: &*self.listeners[listener_index].handler,
            limits: &self.limits,
            shutdown: &self.shutdown,
            workers: &self.workers,
        }
    }

    /// Takes one event from the poller and handles it. A leader calls this in a loop.
    fn lead(&self) -> Outcome {
        match self.poller.next(workers::IDLE) {
            Event::Ready(key, mut connection) => {
                self.workers.is_busy();
                let services = self.services(connection.listener_index());
                let mut next = connection.go_on(true, &services);
                // Saves two system calls and a thread switch for each request of a quick client.
                while matches!(next, Next::Wait(Wait { for_what: WaitFor::Request, .. }))
                    && connection.is_brisk()
                    && self.workers.am_alone()
                {
                    next = match connection.await_request(&self.limits) {
                        Some(true) => connection.go_on(false, &services),
                        Some(false) => Next::Close,
                        None => break,
                    };
                }
                self.settle(key, connection, next);
                Outcome::Worked
            }
            Event::Arrivals(listener_index) => {
                self.workers.is_busy();
                self.accept(listener_index);
                Outcome::Worked
            }
            Event::Timeout => Outcome::Timeout,
            Event::End => Outcome::End,
        }
    }

    fn settle(&self, key: Key, mut connection: Box<Connection>, mut next: Next) {
        while let Next::Wait(wait) = next {
            match self.poller.park(key, connection, wait) {
                None => return,
                // The event came before the connection was back in the table.
                Some(called) => connection = called,
            }
            next = connection.go_on(true, &self.services(connection.listener_index()));
        }
        self.poller.forget(key, connection);
    }

    fn accept(&self, listener_index: usize) {
        let listener = &self.listeners[listener_index];
        for _ in 0..ACCEPTED_IN_A_ROW {
            match net::accept_with(&listener.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    if self.trouble.ends() {
                        log::info!("connections are accepted again");
                    }
                    self.take_in(TcpStream::from(socket), listener_index);
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => {
                    if self.trouble.begins() {
                        log::error!(error:% = e; "connections can't be accepted; trying again (raise the limit of open files, or lower --max-connections (MAX_CONNECTIONS))");
                    }
                    crate::blocking::announce();
                    std::thread::sleep(BACK_OFF);
                    break;
                }
            }
        }
        self.poller.listen(&listener.socket, listener_index);
    }

    fn take_in(&self, socket: TcpStream, listener_index: usize) {
        let listener = &self.listeners[listener_index];
        // A connection that was reset before it was accepted has no peer any more.
        let Ok(peer) = socket.peer_addr() else { return };
        let peer = peer.ip().to_canonical();
        let socket = match &listener.tls {
            None => ClientConnection::plain(socket),
            Some(config) => ClientConnection::encrypted(socket, config.clone()),
        };
        log::trace!(address:% = peer, tls = listener.tls.is_some(); "a connection was opened");
        let (connection, wait) = Connection::new(socket, peer, listener_index, &self.limits);
        self.poller.admit(connection, wait, peer, listener.handler.exempt(peer));
    }

    fn shut_down(&self, timeout: Duration) {
        self.shutdown.begin();
        for listener in &self.listeners {
            self.poller.remove_listener(&listener.socket);
            // Frees the port at once, although the descriptor stays open as long as the workers live.
            let _ = net::shutdown(&listener.socket, net::Shutdown::Both);
        }
        self.poller.shut_down();
        let left = self.poller.wait_until_empty(Instant::now() + timeout);
        if left > 0 {
            log::warn!(connections = left; "requests were still running when --drain-timeout (DRAIN_TIMEOUT) ran out; their connections are closed");
            self.shutdown.finish();
            self.poller.wait_until_empty(Instant::now() + Duration::from_millis(500));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wildcard_listens_on_both_families() {
        let listener = bind(&crate::url::Listen { address: None, port: 0 }.candidates()).unwrap();
        net::listen(&listener, BACKLOG).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            if let Err(e) = TcpStream::connect((host, port)) {
                assert!(host == "::1" && listener.local_addr().unwrap().is_ipv4(), "{host}: {e}");
            }
        }
    }
}
