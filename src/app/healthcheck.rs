//! `mcp-auth-proxy healthcheck`: checks the running proxy, for container images that have no other program to do so.
//!
//! The proxy writes its listen address to a file in the data directory (the note), since a container's health check
//! does not see the proxy's command line.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::app::config::Config;
use crate::app::control::command::check_ready;
use crate::app::listen::Ports;
use crate::data_dir;
use crate::flags::Settings;
use crate::http::client::{Client, Outgoing};
use crate::http::h1::head::Framing;
use crate::net::cancellation::Cancellation;
use crate::net::tls::unverified_config;
use crate::url::UpstreamUrl;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
const NOTE: &str = "listening";
const ASKED: &str = "/.idp/healthz";

/// The file in the data directory: where the proxy listens.
#[derive(Serialize, Deserialize)]
struct Note {
    address: SocketAddr,
    /// The host of the external URL if `address` serves TLS, else `None`.
    tls: Option<String>,
}

/// Writes the note. The error is one line.
pub fn leave_note(config: &Config, ports: &Ports) -> Result<(), String> {
    let socket: &TcpListener = ports.tls.as_ref().map_or(&ports.plain, |(socket, _)| socket);
    let address = socket.local_addr().map_err(|e| format!("the port is not known: {e}"))?;
    let note = Note { address, tls: ports.tls.as_ref().map(|_| config.external.host.clone()) };
    let text = serde_json::to_string(&note).map_err(|e| e.to_string())?;
    data_dir::write_durably(&config.data_path.join(NOTE), &text)
        .map_err(|e| format!("--data-path (DATA_PATH): {} can't be written: {e}", config.data_path.display()))
}

/// Sends a request to the proxy whose data directory `settings` name, and asks it whether it is ready, if that is wanted. The
/// error says what is wrong.
pub fn run(settings: &Settings, wants_ready: bool) -> Result<(), String> {
    let data_path = Path::new(&settings.data_path);
    ask(data_path)?;
    if wants_ready { check_ready(data_path) } else { Ok(()) }
}

/// Sends a request to the proxy that has this data directory.
pub(super) fn ask(data_path: &Path) -> Result<(), String> {
    let path = data_path.join(NOTE);
    let text = data_dir::read_private(&path).map_err(|e| {
        format!("no proxy has left a note in {}: {e}; name its directory with --data-path (DATA_PATH)", path.display())
    })?;
    let note: Note = serde_json::from_slice(&text).map_err(|_| format!("{} is malformed", path.display()))?;
    let address = reachable(note.address);
    let scheme = if note.tls.is_some() { "https" } else { "http" };
    let tls = match note.tls {
        None => None,
        // The request stays on this machine, so any certificate is accepted.
        Some(host) => {
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string()).map_err(|e| e.to_string())?;
            Some((unverified_config()?, name))
        }
    };
    let client = Arc::new(Client::new(UpstreamUrl::parse(&format!("{scheme}://{address}"))?, tls, PATIENCE, PATIENCE));
    let unhealthy = |why: &dyn std::fmt::Display| format!("the proxy at {scheme}://{address} is not well: {why}");
    let fields = HeaderMap::from_iter([(http::header::CONNECTION, HeaderValue::from_static("close"))]);
    let outgoing = Outgoing {
        cancellation: Cancellation::none(),
        method: &Method::GET,
        target: ASKED,
        fields: &fields,
        held: &[],
        rest: None,
        framing: Framing::None,
        is_repeatable: &|| true,
    };
    let mut answer = client.exchange(outgoing).map_err(|e| unhealthy(&e))?;
    let body = answer.body.read_all(1 << 16, Instant::now() + PATIENCE).map_err(|e| unhealthy(&e))?;
    if !answer.status.is_success() {
        return Err(unhealthy(&format!("it answers {}", answer.status)));
    }
    match body.as_slice() {
        b"ok\n" => Ok(()),
        _ => Err(unhealthy(&"its answer is not that of this program")),
    }
}

/// The address to connect to, on this machine, for a socket that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        // A socket on all IPv6 addresses accepts IPv4 connections too.
        true => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        false => address,
    }
}
