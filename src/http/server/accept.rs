//! Binds listening sockets and accepts connections.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::connection::Connection;
use super::lifecycle::Shared;
use crate::net::client_connection::ClientConnection;

/// Connections accepted before requests get their turn.
const ACCEPTED_IN_A_ROW: usize = 64;
/// Pause after a connection could not be accepted.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Binds to the first of `candidates` that this machine has. It does not listen yet: connections are refused until
/// [`Server::new`](super::Server::new).
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

impl Shared {
    /// Accepts the connections that have arrived on a listening socket, a limited number in a row.
    pub(super) fn accept(&self, listener_index: usize) {
        let listener = &self.listeners[listener_index];
        for _ in 0..ACCEPTED_IN_A_ROW {
            match net::accept_with(&listener.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    if self.cannot_accept.ends() {
                        log::info!("connections are accepted again");
                    }
                    self.take_in(TcpStream::from(socket), listener_index);
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => {
                    if self.cannot_accept.begins() {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wildcard_listens_on_both_families() {
        let listener = bind(&crate::url::Listen { address: None, port: 0 }.candidates()).unwrap();
        net::listen(&listener, 8).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            if let Err(e) = TcpStream::connect((host, port)) {
                assert!(host == "::1" && listener.local_addr().unwrap().is_ipv4(), "{host}: {e}");
            }
        }
    }
}
