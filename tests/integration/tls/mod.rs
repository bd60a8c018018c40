//! TLS at the front, from outside.

mod acme;
mod files;
mod server;
mod trouble;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::support::pebble::Pebble;
use crate::support::proxy::{PASSWORD, Proxy, Scratch, command, free_port};
use crate::support::tls::Authority;
use crate::support::tls_client;
use crate::support::wire::{Reply, Transport};

pub(crate) const HOST: &str = "mcp.example.com";
const METADATA: &str = "/.well-known/oauth-authorization-server";

/// A proxy that speaks TLS.
pub(crate) struct TlsProxy {
    pub proxy: Proxy,
    pub port: u16,
}

impl Transport for TlsProxy {
    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        tls_client::ask(self.port, HOST, method, target, headers, body)
            .unwrap_or_else(|| panic!("no answer to {method} {target}; log:\n{}", self.proxy.log()))
    }

    fn origin(&self) -> String {
        format!("https://{HOST}")
    }
}

/// The command line of a proxy for `host` on two ports of this machine.
pub(crate) fn line(data: &Scratch, host: &str, plain: u16, tls: u16) -> Command {
    let mut command = command();
    command
        .args(["--external-url", &format!("https://{host}"), "--data-path", &data.path("data"), "--password", PASSWORD])
        .args(["--listen", &format!("127.0.0.1:{plain}"), "--tls-listen", &format!("127.0.0.1:{tls}")]);
    command
}

/// A proxy before `upstream` with certificate files of its own in its scratch directory.
pub(crate) fn with_files(authority: &Authority, upstream: u16, args: &[&str]) -> TlsProxy {
    let data = Arc::new(Scratch::new());
    let (chain, key) = authority.certificate(&[HOST]);
    std::fs::write(data.path("c.pem"), chain).unwrap();
    std::fs::write(data.path("k.pem"), key).unwrap();
    let (plain, port) = (free_port(), free_port());
    let mut command = line(&data, HOST, plain, port);
    command.args(["--tls-cert-file", &data.path("c.pem"), "--tls-key-file", &data.path("k.pem")]);
    command.args(args).arg(format!("http://127.0.0.1:{upstream}"));
    TlsProxy { proxy: Proxy::spawn(command, plain, data), port }
}

/// A proxy that obtains its certificate from `pebble`, on the ports where that looks.
pub(crate) fn with_pebble(pebble: &Pebble, data: &Arc<Scratch>, args: &[&str]) -> TlsProxy {
    with_pebble_on(pebble, data, HOST, pebble.http_port, pebble.tls_port, args)
}

pub(crate) fn with_pebble_on(
    pebble: &Pebble,
    data: &Arc<Scratch>,
    host: &str,
    plain: u16,
    port: u16,
    args: &[&str],
) -> TlsProxy {
    let mut command = line(data, host, plain, port);
    command.args(["--tls-accept-tos", "--acme-ca-file", &pebble.ca_file()]);
    if !args.contains(&"--tls-directory-url") {
        command.args(["--tls-directory-url", &pebble.directory()]);
    }
    command.args(args).arg("http://127.0.0.1:1");
    TlsProxy { proxy: Proxy::spawn(command, plain, data.clone()), port }
}

/// Clients that ask without pause, each on a new connection or on one that it keeps.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn start(port: u16) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = [true, false].map(|keeps| {
            let (stop, answered) = (stop.clone(), answered.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    match request(port, kept.take()) {
                        Ok(connection) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            kept = keeps.then_some(connection);
                        }
                        Err(e) => failures.push(e),
                    }
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                failures
            })
        });
        Load { stop, answered, threads: threads.into() }
    }

    /// Stops; how many requests were answered, and what went wrong with the others.
    pub(crate) fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

type Kept = crate::support::wire::Connection<tls_client::Stream>;

fn request(port: u16, kept: Option<Kept>) -> Result<Kept, String> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => tls_client::connect(port, HOST).map_err(|e| format!("no connection: {e}"))?,
    };
    let bytes = crate::support::wire::request("GET", METADATA, HOST, &[], b"");
    std::io::Write::write_all(&mut connection.socket, &bytes).map_err(|e| format!("not sent: {e}"))?;
    match connection.reply(false) {
        Some(reply) if reply.status == 200 => Ok(connection),
        other => Err(format!("not answered: {other:?}")),
    }
}
