//! Listening sockets, the accept loop, the registry of connections, draining.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::connection::{self, Progress};
use super::{Handler, Limits, address_group};
use crate::observe::log::Episode;

/// Stack of a connection's thread: pages that are not touched cost nothing.
const STACK: usize = 256 << 10;
const BACKLOG: i32 = 1_024;

/// Tells threads that the process is about to end.
///
/// Two levels: *streams* end at once, so that clients reconnect elsewhere; *everything* ends when the time is up.
#[derive(Clone)]
pub struct Drain(Arc<DrainState>);

struct DrainState {
    begun: AtomicBool,
    streams: OwnedFd,
    everything: OwnedFd,
}

impl Drain {
    /// Not draining.
    pub fn new() -> io::Result<Drain> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Drain(Arc::new(DrainState { begun: AtomicBool::new(false), streams: event()?, everything: event()? })))
    }

    fn begin(&self) {
        self.0.begun.store(true, Ordering::SeqCst);
        signal(&self.0.streams);
    }

    fn finish(&self) {
        signal(&self.0.everything);
    }

    fn begun(&self) -> bool {
        self.0.begun.load(Ordering::SeqCst)
    }

    /// Readable once streams, or else everything, should end.
    pub fn event(&self, streams: bool) -> BorrowedFd<'_> {
        if streams { self.0.streams.as_fd() } else { self.0.everything.as_fd() }
    }
}

fn signal(event: &OwnedFd) {
    // Failing would mean that the counter is full: then it is readable already.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// A server that has its sockets and is ready to run.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    handler: Box<dyn Handler>,
    limits: Limits,
    drain: Drain,
    registry: Mutex<Registry>,
    all_gone: Condvar,
}

#[derive(Default)]
struct Registry {
    connections: HashMap<u64, Arc<Connection>>,
    per_address: HashMap<IpAddr, usize>,
}

struct Connection {
    socket: Arc<TcpStream>,
    /// One of `IDLE`, `BUSY`, `CLOSING`: drain and worker agree on it before either acts.
    phase: AtomicU8,
    draining: Drain,
}

/// Between requests: may be closed at any time.
const IDLE: u8 = 0;
/// A request has begun.
const BUSY: u8 = 1;
/// Closed by the drain.
const CLOSING: u8 = 2;

impl Progress for Connection {
    fn idle(&self) -> bool {
        self.phase.store(IDLE, Ordering::SeqCst);
        !self.is_draining()
    }

    fn busy(&self) -> bool {
        self.phase.compare_exchange(IDLE, BUSY, Ordering::SeqCst, Ordering::SeqCst) != Err(CLOSING)
    }

    fn is_draining(&self) -> bool {
        self.draining.begun()
    }
}

/// Opens a listening socket on the first of `candidates` that the machine has.
///
/// An IPv6 wildcard also takes IPv4, whatever the system's default is.
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
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

impl Server {
    /// A server on `listener`; nothing is accepted before [`Server::run`].
    pub fn new(listener: TcpListener, handler: impl Handler, limits: Limits, drain: Drain) -> Server {
        let shared =
            Shared { handler: Box::new(handler), limits, drain, registry: Mutex::default(), all_gone: Condvar::new() };
        Server { listener, shared: Arc::new(shared) }
    }

    /// Accepts until told to drain, then lets requests finish within `drain_timeout`.
    ///
    /// `stop` becomes readable when the process is told to stop.
    pub fn run(self, stop: BorrowedFd<'_>, drain_timeout: Duration) {
        self.accept_until(stop);
        drop(self.listener);
        self.shared.drain(drain_timeout);
    }

    fn accept_until(&self, stop: BorrowedFd<'_>) {
        let trouble = Episode::default();
        // A socket that another process took from the queue must not block the loop.
        let _ = self.listener.set_nonblocking(true);
        loop {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
            if poll(&mut fds, None).is_err() {
                continue;
            }
            if !fds[1].revents().is_empty() {
                return;
            }
            match self.listener.accept() {
                Ok((socket, peer)) => {
                    if trouble.ends() {
                        log::info!("connections are accepted again");
                    }
                    let _ = socket.set_nonblocking(false);
                    crate::net::keep_alive(&socket);
                    self.shared.clone().start(socket, peer.ip().to_canonical());
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(e) => {
                    if trouble.begins() {
                        log::error!(error:% = e; "connections can't be accepted; trying again until it works (raise the limit of open files, or lower --max-connections (MAX_CONNECTIONS))");
                    }
                    let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                    let mut fds = [PollFd::from_borrowed_fd(stop, PollFlags::IN)];
                    let _ = poll(&mut fds, Some(&pause));
                }
            }
        }
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn start(self: Arc<Self>, socket: TcpStream, peer: IpAddr) {
        let group = (!self.handler.exempt(peer)).then(|| address_group(peer));
        let Some(id) = self.register(socket, group) else {
            log::debug!(address:% = peer; "a connection was closed at once: there are too many");
            return;
        };
        let shared = self.clone();
        let run = move || {
            let connection = shared.registry().connections.get(&id).cloned();
            if let Some(connection) = connection {
                connection::serve(&connection.socket, peer, &*shared.handler, &shared.limits, &*connection);
            }
            shared.forget(id, group);
        };
        if let Err(e) = std::thread::Builder::new().name("connection".into()).stack_size(STACK).spawn(run) {
            log::error!(error:% = e; "a connection was closed: no thread could be started for it");
            self.forget(id, group);
        }
    }

    fn register(&self, socket: TcpStream, group: Option<IpAddr>) -> Option<u64> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut registry = self.registry();
        if registry.connections.len() >= self.limits.connections {
            return None;
        }
        if let Some(group) = group {
            let count = registry.per_address.entry(group).or_default();
            if *count >= self.limits.connections_per_address {
                return None;
            }
            *count += 1;
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let connection =
            Connection { socket: Arc::new(socket), phase: AtomicU8::new(IDLE), draining: self.drain.clone() };
        registry.connections.insert(id, Arc::new(connection));
        Some(id)
    }

    fn forget(&self, id: u64, group: Option<IpAddr>) {
        let mut registry = self.registry();
        registry.connections.remove(&id);
        if let Some(group) = group
            && let Some(count) = registry.per_address.get_mut(&group)
        {
            *count -= 1;
            if *count == 0 {
                registry.per_address.remove(&group);
            }
        }
        if registry.connections.is_empty() {
            self.all_gone.notify_all();
        }
    }

    fn drain(&self, timeout: Duration) {
        self.drain.begin();
        let deadline = Instant::now() + timeout;
        if !self.wait_until_gone(deadline) {
            let left = self.registry().connections.len();
            log::warn!(connections = left; "requests were still running when --drain-timeout (DRAIN_TIMEOUT) ran out; they are cut");
            self.drain.finish();
            self.wait_until_gone(Instant::now() + Duration::from_millis(500));
        }
    }

    fn wait_until_gone(&self, deadline: Instant) -> bool {
        let mut registry = self.registry();
        loop {
            for connection in registry.connections.values() {
                let idle = connection.phase.compare_exchange(IDLE, CLOSING, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                if idle {
                    let _ = connection.socket.shutdown(Shutdown::Read);
                }
            }
            if registry.connections.is_empty() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let step = left.min(Duration::from_millis(100));
            registry = self.all_gone.wait_timeout(registry, step).unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wildcard_listens_on_both_families() {
        let listener = bind(&crate::config::Listen { address: None, port: 0 }.candidates()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            if let Err(e) = TcpStream::connect((host, port)) {
                assert!(host == "::1" && listener.local_addr().unwrap().is_ipv4(), "{host}: {e}");
            }
        }
    }
}
