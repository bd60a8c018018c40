//! Opens the listening sockets, and fits the connection limit to the limit of open files.

use std::io;
use std::net::TcpListener;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::config::Config;
use crate::http::server::bind;
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
    pub plain: TcpListener,
    /// With TLS, and its certificate.
    pub tls: Option<(TcpListener, CertificateManager)>,
    /// For the operator: metrics and health.
    pub metrics: Option<TcpListener>,
}

/// Opens the listening socket that `option` named; the error says what to do.
pub fn listen(option: &str, listen: Listen) -> Result<TcpListener, String> {
    let port = listen.port;
    bind(&listen.candidates()).map_err(|e| match e.kind() {
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
