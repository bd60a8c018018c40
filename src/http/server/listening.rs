//! Listening sockets: bound here, or passed on by a service manager.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::os::fd::AsFd;

use rustix::net::sockopt::Timeout;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use crate::net::poll::{BRIEF, keep_alive};

/// A listening socket.
#[derive(Debug)]
pub struct ListeningSocket {
    listener: TcpListener,
    /// Another process has it, too, and goes on listening with it when this one ends.
    pub is_passed: bool,
}

impl ListeningSocket {
    /// A socket of this process alone.
    pub fn own(listener: TcpListener) -> ListeningSocket {
        ListeningSocket { listener, is_passed: false }
    }

    /// A socket that a service manager has passed on.
    pub fn passed(listener: TcpListener) -> io::Result<ListeningSocket> {
        set_options(&listener)?;
        Ok(ListeningSocket { listener, is_passed: true })
    }
}

impl Deref for ListeningSocket {
    type Target = TcpListener;

    fn deref(&self) -> &TcpListener {
        &self.listener
    }
}

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
    set_options(&socket)?;
    net::bind(&socket, &address)?;
    Ok(TcpListener::from(socket))
}

/// Sets what accepted connections inherit.
fn set_options(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(BRIEF))?;
    keep_alive(socket);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

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
