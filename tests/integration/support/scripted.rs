//! A server whose every byte is the test's, over TCP, TLS or a Unix socket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::PATIENCE;
use super::proxy::{Proxy, Scratch, arguments, command, free_port};
use super::tls::Authority;

/// How the server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Tcp,
    Tls,
    Unix,
}

impl Over {
    pub(crate) const ALL: [Over; 3] = [Over::Tcp, Over::Tls, Over::Unix];
}

/// One connection to it.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Wire {
    /// How long a read may wait.
    pub(crate) fn set_patience(&self, time: Duration) {
        match self {
            Wire::Tcp(socket) => socket.set_read_timeout(Some(time)),
            Wire::Tls(stream) => stream.sock.set_read_timeout(Some(time)),
            Wire::Unix(socket) => socket.set_read_timeout(Some(time)),
        }
        .unwrap();
    }

    /// Ends the connection so that the other side is told of an error.
    pub(crate) fn reset(self) {
        let linger = |socket: &TcpStream| {
            rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
        };
        match &self {
            Wire::Tcp(socket) => linger(socket),
            Wire::Tls(stream) => linger(&stream.sock),
            Wire::Unix(_) => {}
        }
    }

    /// Ends TLS in order, where there is any.
    pub(crate) fn close(mut self) {
        if let Wire::Tls(stream) = &mut self {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }

    /// The head of the next request.
    pub(crate) fn head(&mut self) -> Option<String> {
        super::tls::head(self)
    }

    /// Writes what there is; the proxy may have gone away on purpose.
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.write_all(bytes.as_ref()).and_then(|()| self.flush()).is_ok()
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Wire::Tcp(socket) => socket.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
            Wire::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Wire::Tcp(socket) => socket.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
            Wire::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Wire::Tls(stream) => stream.flush(),
            _ => Ok(()),
        }
    }
}

/// The server, and what a proxy has to be told of it.
pub(crate) struct Scripted {
    url: String,
    scratch: Scratch,
}

impl Scripted {
    /// Has each connection played by `play`, on a thread of its own.
    pub(crate) fn start(over: Over, play: impl Fn(Wire) + Send + Sync + 'static) -> Scripted {
        let (scratch, play) = (Scratch::new(), Arc::new(play));
        let take = move |wire: Wire| {
            wire.set_patience(PATIENCE);
            let play = play.clone();
            std::thread::spawn(move || play(wire));
        };
        if over == Over::Unix {
            let path = scratch.path("mcp.sock");
            let listener = UnixListener::bind(&path).unwrap();
            std::thread::spawn(move || {
                listener.incoming().map_while(Result::ok).for_each(|socket| take(Wire::Unix(socket)));
            });
            return Scripted { url: format!("unix:{path}"), scratch };
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let authority = Authority::new();
        std::fs::write(scratch.path("ca.pem"), &authority.certificate).unwrap();
        let (certificate, key) = authority.certificate(&["localhost"]);
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                socket.set_nodelay(true).unwrap();
                take(match over {
                    Over::Tls => {
                        let connection = ServerConnection::new(config.clone()).unwrap();
                        Wire::Tls(Box::new(StreamOwned::new(connection, socket)))
                    }
                    _ => Wire::Tcp(socket),
                });
            }
        });
        let url = match over {
            Over::Tls => format!("https://localhost:{port}"),
            _ => format!("http://127.0.0.1:{port}"),
        };
        Scripted { url, scratch }
    }

    /// A proxy before it.
    pub(crate) fn proxy(&self, args: &[&str]) -> Proxy {
        let (data, port) = (Arc::new(Scratch::new()), free_port());
        let mut command = command();
        command.args(arguments(&data, port)).args(args);
        if self.url.starts_with("https") {
            command.args(["--ca-file", &self.scratch.path("ca.pem")]);
        }
        command.arg(&self.url);
        Proxy::spawn(command, port, data)
    }
}
