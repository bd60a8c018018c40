//! Opens the listening sockets, and fits the connection limit to the limit of open files.

use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::config::Config;
use crate::http::server::{ListeningSocket, bind};
use crate::tls::manager::CertificateManager;
use crate::url::Listen;

/// File descriptors besides those of connections: listener, store, epoll and event descriptors, standard streams.
const OWN_DESCRIPTORS: usize = 24;
/// File descriptors per child process: three pipes, those that control it and report its end, its waker, and those of
/// its session.
const CHILD_DESCRIPTORS: usize = 7;

/// No more child processes than this are counted on; the system would not have room for them.
const MAX_CHILDREN: usize = 100_000;

/// The listening sockets.
pub struct Ports {
    /// Without TLS.
    pub plain: ListeningSocket,
    /// With TLS, and its certificate.
    pub tls: Option<(ListeningSocket, CertificateManager)>,
    /// For the operator: metrics and health.
    pub metrics: Option<ListeningSocket>,
}

/// The sockets that a service manager has opened for this process (systemd.socket(5)).
#[derive(Default)]
pub struct PassedSockets(Vec<TcpListener>);

impl PassedSockets {
    /// Takes them from the environment; none if no service manager has passed any.
    pub fn take() -> Result<PassedSockets, String> {
        // The library also takes descriptors that are meant for whoever comes: those of another program, perhaps.
        if std::env::var_os("LISTEN_PID").is_none_or(|pid| pid.is_empty()) {
            return Ok(PassedSockets::default());
        }
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let refuse = |e: &dyn std::fmt::Display| {
                format!(
                    "socket {index} that the service manager passes on (LISTEN_FDS) can't be used: {e}; it has to be one for streams with ListenStream=, over TCP"
                )
            };
            let socket = passed.take_tcp_listener(index).map_err(|e| refuse(&e))?;
            let socket = socket.ok_or_else(|| refuse(&"there is none"))?;
            // MCP servers are not to have it.
            fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(|e| refuse(&e))?;
            if !socket_acceptconn(&socket).map_err(|e| refuse(&e))? {
                return Err(refuse(&"it does not listen (Accept=yes is not for this program)"));
            }
            sockets.push(socket);
        }
        Ok(PassedSockets(sockets))
    }

    /// The one with this port. Which address it has is the service manager's business.
    fn with_port(&mut self, port: u16) -> Option<TcpListener> {
        let is_it = |socket: &TcpListener| socket.local_addr().is_ok_and(|address| address.port() == port);
        let place = self.0.iter().position(is_it)?;
        Some(self.0.swap_remove(place))
    }

    /// Refuses sockets that nothing is served on: whoever connects there would wait for ever.
    pub fn check_all_are_used(&self) -> Result<(), String> {
        let Some(port) = self.0.iter().find_map(|socket| socket.local_addr().ok()) else { return Ok(()) };
        Err(format!(
            "the service manager passes on a socket at port {} too many: no option, or only one, has that port: --listen (LISTEN), --tls-listen (TLS_LISTEN), --metrics-listen (METRICS_LISTEN)",
            port.port()
        ))
    }
}

/// The listening socket that `option` named: one that was passed on with this port, or else a new one. The error says what to do.
pub fn listen(option: &str, listen: Listen, passed: &mut PassedSockets) -> Result<ListeningSocket, String> {
    let port = listen.port;
    if let Some(socket) = passed.with_port(port) {
        return ListeningSocket::passed(socket)
            .map_err(|e| format!("{option}: the socket that the service manager passes on can't be used: {e}"));
    }
    bind(&listen.candidates()).map(ListeningSocket::own).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            let other = if port == 8080 { 8081 } else { 8080 };
            match listen.address.filter(|a| a.is_loopback()) {
                _ if option.starts_with("--tls") => format!("{option}: port {port} is in use by another program, perhaps a proxy that still runs; end that, or choose another port, such as :{}", if port == 8443 { 8444 } else { 8443 }),
                Some(_) => format!("{option}: port {port} is in use by another program, perhaps a proxy that still runs; end that, or choose another port, such as --external-url http://localhost:{other} (EXTERNAL_URL)"),
                None => format!("{option}: port {port} is in use by another program, perhaps a proxy that still runs; end that, or choose another port, such as :{other}"),
            }
        }
        io::ErrorKind::PermissionDenied => format!(
            "{option}: port {port} needs a right that this user does not have; choose one from 1024 up, such as :8080, or grant the right: sudo setcap cap_net_bind_service=+ep {}",
            std::env::current_exe().map_or("mcp-auth-proxy".into(), |p| p.display().to_string())
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{option}: {} is no address of this machine; take one that 'ip address' shows, or :{port} for all",
            listen.address.map(|a| a.to_string()).unwrap_or_default()
        ),
        _ => format!("{option}: can't listen on port {port}: {e}"),
    })
}

/// Raises the limit of open files to what the configuration needs: one for each connection, one for the upstream side
/// of each request and stream, and those of child processes. If the system allows fewer, lowers the connection limit.
pub(super) fn raise_descriptor_limit(config: &mut Config) {
    let connections = config.http.connections;
    let children =
        config.servers.stdio().map(|stdio| stdio.max_children.min(MAX_CHILDREN) * CHILD_DESCRIPTORS).sum::<usize>();
    let upstream = config.admission.requests + config.admission.streams + children;
    let wanted = (connections + upstream + OWN_DESCRIPTORS) as u64;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|c| c < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |m| m.min(wanted)));
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let got = getrlimit(Resource::Nofile).current.unwrap_or(wanted);
    if got < wanted {
        let free = usize::try_from(got).unwrap_or(usize::MAX).saturating_sub(OWN_DESCRIPTORS);
        let possible = free.saturating_sub(upstream).max(free / 2).clamp(1, connections);
        let level = if possible < connections / 2 { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, open_files = got, connections = possible; "the limit of open files leaves room for fewer connections than --max-connections (MAX_CONNECTIONS)");
        config.http.connections = possible;
    }
}
