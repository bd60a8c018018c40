//! The command that publishes an MCP server: prepares, listens, and serves until a signal comes. What happens to requests
//! then is in [`http::server`](crate::http::server).

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::assemble::build;
use super::config::Config;
use super::config::monitoring::log_settings;
use super::config::servers::ServerConfig;
use super::control::rotation::Secrets;
use super::healthcheck::leave_note;
use super::listen::{PassedSockets, Ports, listen};
use super::rights::Rights;
use super::service_manager;
use super::warnings::{warn_of_lookalikes, warn_of_traps};
use crate::clock::{Clock, Timestamp};
use crate::data_dir::{Use, load_previous_secrets, load_secret, open_store, prepare_directory};
use crate::flags::{FLAGS, Flag, Settings};
use crate::net::shutdown::Shutdown;
use crate::observe;
use crate::privileges::{self, Needs};
use crate::thread::spawn;
use crate::tls::config::Source;
use crate::tls::manager::CertificateManager;
use crate::wake::Waker;

/// Publishes the upstream server of `settings` until SIGTERM or SIGINT. The error is one line.
pub fn run(settings: Settings) -> Result<(), String> {
    // Until it is handled, SIGHUP would end the process.
    let _ = signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)));
    start_log(&settings);
    warn_of_lookalikes();
    let is_unsure = settings.external_url == Settings::default().external_url || settings.listen.is_none();
    let mut config = Config::for_serving(settings)?;
    for note in &config.notes {
        log::log!(note.level, "{}", note.text);
    }
    prepare_directory(&config.data_path)?;
    let mut passed = PassedSockets::take()?;
    let mut open = |option: &str, at| listen(option, at, &mut passed);
    let plain = open("--listen (LISTEN)", config.listen)?;
    let tls = config.tls.as_ref().map(|tls| open("--tls-listen (TLS_LISTEN)", tls.listen)).transpose()?;
    let metrics = config.monitoring.listen.map(|at| open("--metrics-listen (METRICS_LISTEN)", at)).transpose()?;
    passed.check_all_are_used()?;
    config.servers.make_homes();
    privileges::drop_unneeded(needs(&config))?;
    let stop = stop_signal()?;
    let store = open_store(&config.data_path, Use::Serve)?;
    let clock = Arc::new(Clock::system());
    let secrets = secrets(&config, clock.now())?;
    let front =
        |tls| CertificateManager::prepare(tls, &config.external, &config.data_path, &config.outbound_proxies, &clock);
    let tls = tls.zip(config.tls.as_ref().map(front).transpose()?);
    let ports = Ports { plain, tls, metrics };
    leave_note(&config, &ports)?;
    let shutdown = new_shutdown()?;
    warn_of_traps(&config, &ports, is_unsure);
    let ready = ready(&config);
    let front = ports.tls.as_ref().map_or(&ports.plain, |(socket, _)| socket);
    let listens = front.local_addr().map(|a| a.to_string()).unwrap_or_default();
    let data_path = config.data_path.clone();
    let server = build(config, secrets, store, clock, ports, &shutdown)?;
    for (url, server, upstream) in ready {
        log::info!(listen = listens.as_str(), server = server.as_str(), upstream = upstream.as_str(); "ready: give this URL to MCP clients: {url}");
    }
    service_manager::is_ready(data_path)?;
    server(&stop)?;
    Ok(())
}

/// The secrets: those of the environment, or those in the data directory. Previous ones of the environment verify too, for
/// as long as they are there.
fn secrets(config: &Config, now: Timestamp) -> Result<Secrets, String> {
    let of_environment = config.previous_secrets.iter().map(|secret| (secret.clone(), Timestamp::MAX));
    let (current, mut previous) = match &config.secret {
        Some(secret) => (secret.clone(), Vec::new()),
        None => (load_secret(&config.data_path)?, load_previous_secrets(&config.data_path, now)?),
    };
    previous.extend(of_environment);
    Ok(Secrets { current, previous, is_from_environment: config.secret.is_some() })
}

/// For each server, the URL for clients, its name, and its own URL or program.
fn ready(config: &Config) -> Vec<(String, String, String)> {
    let url = |server: &ServerConfig| format!("{}{}{}", config.external.origin, server.base, server.endpoint);
    config.servers.all.iter().map(|server| (url(server), server.name.clone(), server.shown())).collect()
}

/// What the process still needs root's privileges for once its ports are open.
fn needs(config: &Config) -> Needs {
    // Certificate files are read again when they change, and the files of `_FILE` variables on SIGHUP. They may belong
    // to other users.
    let certificates = config.tls.as_ref().is_some_and(|tls| matches!(tls.source, Source::Files(_)));
    let is_named = |f: &Flag| std::env::var_os(format!("{}_FILE", f.env)).is_some_and(|v| !v.is_empty());
    let rights = Rights::of(&config.servers);
    Needs {
        reads_others: certificates || config.env_file.is_some() || FLAGS.iter().any(is_named),
        // Connecting to a Unix socket needs write permission for it.
        writes_others: rights.has_socket || !is_all_roots(&config.data_path),
        has_children: rights.has_children,
        // A child that also runs as root would lose the privileges too, and MCP servers may rely on them.
        hands_rights_on: rights.hands_on,
    }
}

/// Does everything in the data directory belong to root?
fn is_all_roots(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let mut below = fs::read_dir(path).into_iter().flatten().flatten();
    found.uid() == 0 && (!found.is_dir() || below.all(|entry| is_all_roots(&entry.path())))
}

/// Starts the log and sends panics there: one line, no backtrace.
pub fn start_log(settings: &Settings) {
    let (format, level) = log_settings(settings, io::stderr().is_terminal());
    observe::log::init(format, level);
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("no message");
        log::error!(place = place.as_str(), error = text; "internal error: a thread panicked; please report it");
    }));
}

/// A waker that becomes readable on the first SIGTERM or SIGINT. The second signal ends the process at once.
pub fn stop_signal() -> Result<Arc<Waker>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("signals can't be handled: {e}");
    let stop = Arc::new(Waker::new().map_err(|e| failed(&e))?);
    let told = stop.clone();
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).map_err(|e| failed(&e))?;
    spawn("signals", move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                std::process::exit(128 + signal);
            }
            service_manager::stops();
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            log::info!(signal = name; "stopping: requests in flight may finish, event streams end now; a second signal stops at once");
            told.wake();
        }
    })?;
    Ok(stop)
}

/// A [`Shutdown`] that has not begun. The error is one line.
pub fn new_shutdown() -> Result<Shutdown, String> {
    Shutdown::new().map_err(|e| format!("no event descriptor could be made: {e}"))
}
