//! A TLS client that takes every certificate and says which it was shown.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use mcp_auth_proxy::net::tls::unverified_config;
use mcp_auth_proxy::tls::x509::CertificateInfo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::PATIENCE;
use super::wire::{Connection, Reply, request};

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection to `port` whose handshake asks for `host`; the handshake is over.
pub(crate) fn connect(port: u16, host: &str) -> std::io::Result<Connection<Stream>> {
    connect_with(port, host, unverified_config().unwrap())
}

pub(crate) fn connect_with(port: u16, host: &str, config: Arc<ClientConfig>) -> std::io::Result<Connection<Stream>> {
    shake_hands(TcpStream::connect(("127.0.0.1", port))?, host, config)
}

/// The handshake over a socket that is open already.
pub(crate) fn over(socket: TcpStream, host: &str) -> std::io::Result<Connection<Stream>> {
    shake_hands(socket, host, unverified_config().unwrap())
}

fn shake_hands(socket: TcpStream, host: &str, config: Arc<ClientConfig>) -> std::io::Result<Connection<Stream>> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_string()).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Connection::new(stream))
}

/// What the certificate says that `port` shows for `host`.
pub(crate) fn shown(port: u16, host: &str) -> Option<CertificateInfo> {
    let connection = connect(port, host).ok()?;
    CertificateInfo::of(connection.socket.conn.peer_certificates()?.first()?)
}

/// One request on a connection of its own.
pub(crate) fn ask(
    port: u16,
    host: &str,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Option<Reply> {
    let mut connection = connect(port, host).ok()?;
    connection.socket.write_all(&request(method, target, host, fields, body)).ok()?;
    connection.reply(method == "HEAD")
}

/// Reads to the end; whether the server ended the session as TLS wants it, and not by cutting the connection.
pub(crate) fn ends_cleanly(stream: &mut Stream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok()
}
