//! Accepts connections.

use std::net::TcpStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, SocketFlags};

use super::connection::Connection;
use super::lifecycle::Shared;
use crate::net::client_connection::ClientConnection;

/// Connections accepted before requests get their turn.
const ACCEPTED_IN_A_ROW: usize = 64;
/// Pause after a connection could not be accepted.
const BACK_OFF: Duration = Duration::from_millis(50);

impl Shared {
    /// Accepts the connections that have arrived on a listening socket, a limited number in a row.
    pub(super) fn accept(&self, listener_index: usize) {
        let listener = &self.listeners[listener_index];
        for _ in 0..ACCEPTED_IN_A_ROW {
            match net::accept_with(&*listener.socket, SocketFlags::CLOEXEC) {
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
