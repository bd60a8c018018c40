//! The composition root: builds everything, listens, and stops when told.

use std::fs;
use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::admission::Admission;
use crate::clock::Clock;
use crate::config::{Config, log_settings};
use crate::context::Context;
use crate::data::{load_secret, open_store, prepare_directory};
use crate::flags::{self, FLAGS, Flag, Invocation, Settings};
use crate::guard::Seen;
use crate::healthcheck::leave_note;
use crate::http::server::bind;
use crate::http::{Handler, Listener, Server};
use crate::login::providers::{configure_anew, recheck};
use crate::net::drain::Drain;
use crate::net::trusted::UnnamedProxies;
use crate::observe;
use crate::privileges::{self, Needs};
use crate::routes::App;
use crate::store::Store;
use crate::thread::spawn;
use crate::tls::acme::renewal::Nudge;
use crate::tls::certificates::StrictTransport;
use crate::tls::configure::{self, Source};
use crate::tls::front::Front;
use crate::tls::plain_port::PlainPort;
use crate::tokens::Secret;
use crate::upstream::Upstream;
use crate::upstream::http::HttpUpstream;
use crate::upstream::stdio::StdioUpstream;
use crate::url::Listen;

/// Pause between two sweeps of expired rows.
const COLLECT_EVERY: Duration = Duration::from_secs(3_600);
/// Pause between two looks at the clock, so that a jump is noticed while nobody asks.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(30);
/// Pauses between two questions whether the MCP server is there, as long as it is not.
const FIRST_CHECK_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_CHECK_PAUSE: Duration = Duration::from_secs(60);
/// Descriptors besides those of connections: listener, store, epoll and event descriptors, standard streams.
const OWN_DESCRIPTORS: usize = 24;

/// Descriptors of a child process: three pipes, its end, its bell, and those of its session.
const CHILD_DESCRIPTORS: usize = 7;

/// Publishes the upstream server of `settings` until the process is told to stop. The error is one line.
pub fn run(settings: Settings) -> Result<(), String> {
    start_log(&settings);
    warn_of_lookalikes();
    let is_unsure = settings.external_url == Settings::default().external_url || settings.listen.is_none();
    let mut config = Config::for_serving(settings)?;
    prepare_directory(&config.data_path)?;
    let plain = listen("--listen (LISTEN)", config.listen)?;
    let tls = config.tls.as_ref().map(|tls| listen("--tls-listen (TLS_LISTEN)", tls.listen)).transpose()?;
    if let Some(user) = config.stdio.as_mut().and_then(|stdio| stdio.user.as_mut()) {
        // A user of the system without an entry of its own, as in --stdio-user 1000:1000.
        user.make_home(&std::env::temp_dir()).unwrap_or_else(|e| {
            log::warn!(error:% = e; "no home could be made for the user of --stdio-user (STDIO_USER): the MCP server runs without one");
        });
    }
    privileges::drop_unneeded(needs(&config))?;
    let stop = stop_signal()?;
    let store = open_store(&config.data_path)?;
    let secret = match &config.secret {
        Some(secret) => secret.clone(),
        None => load_secret(&config.data_path)?,
    };
    let clock = Arc::new(Clock::system());
    let front = |tls| Front::prepare(tls, &config.external, &config.data_path, &config.outbound_proxies, &clock);
    let tls = tls.zip(config.tls.as_ref().map(front).transpose()?);
    let ports = Ports { plain, tls };
    leave_note(&config, &ports)?;
    let drain = new_drain()?;
    warn_of_traps(&config, &ports, is_unsure);
    let client_url = config.client_url();
    let upstream = config.upstream_name();
    let front = ports.tls.as_ref().map_or(&ports.plain, |(socket, _)| socket);
    let listens = front.local_addr().map(|a| a.to_string()).unwrap_or_default();
    let server = build(config, &secret, store, clock, ports, &drain)?;
    log::info!(listen = listens.as_str(), upstream = upstream.as_str(); "ready: give this URL to MCP clients: {client_url}");
    server(&stop)?;
    log::info!("stopped");
    Ok(())
}

/// What the process goes on to do once its ports are open.
fn needs(config: &Config) -> Needs {
    // Certificates, or files that variables name, which are read again with SIGHUP.
    let certificates = config.tls.as_ref().is_some_and(|tls| matches!(tls.source, Source::Files(_)));
    let is_named = |f: &Flag| std::env::var_os(format!("{}_FILE", f.env)).is_some_and(|v| !v.is_empty());
    // To connect to a socket is to write to it.
    let has_socket = config.upstream.url.as_ref().is_some_and(|url| url.socket.is_some());
    Needs {
        reads_others: certificates || FLAGS.iter().any(is_named),
        writes_others: has_socket || !is_all_roots(&config.data_path),
        has_children: config.stdio.is_some(),
        // A child that is root as well would lose them too, and servers may count on them.
        hands_rights_on: config.stdio.as_ref().is_some_and(|s| s.user.is_none()),
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
        log::error!(place = place.as_str(), error = text; "a fault of this program; please report it");
    }));
}

/// Becomes readable with the first SIGTERM or SIGINT; the second ends the process at once.
pub fn stop_signal() -> Result<OwnedFd, String> {
    let failed = |e: &dyn std::fmt::Display| format!("signals can't be handled: {e}");
    let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| failed(&e))?;
    let writer = stop.try_clone().map_err(|e| failed(&e))?;
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).map_err(|e| failed(&e))?;
    spawn("signals", move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                std::process::exit(128 + signal);
            }
            log::info!("told to stop: requests may finish, streams end; a second signal stops at once");
            let _ = rustix::io::write(&writer, &1u64.to_ne_bytes());
        }
    })?;
    Ok(stop)
}

/// A drain switch, with its error as a line.
pub fn new_drain() -> Result<Drain, String> {
    Drain::new().map_err(|e| format!("no event descriptor could be made: {e}"))
}

/// Where the program listens.
pub struct Ports {
    /// Without TLS.
    pub plain: TcpListener,
    /// With TLS, and what it shows.
    pub tls: Option<(TcpListener, Front)>,
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

/// Puts the parts together; the result runs until `stop` becomes readable.
pub fn build(
    mut config: Config,
    secret: &Secret,
    store: Box<dyn Store>,
    clock: Arc<Clock>,
    ports: Ports,
    drain: &Drain,
) -> Result<impl FnOnce(&OwnedFd) -> Result<(), String> + use<>, String> {
    raise_descriptor_limit(&mut config);
    let drain_timeout = config.drain_timeout;
    let limits = config.http.clone();
    let admission = Admission::new(config.admission);
    let context =
        Context::new(config, secret, store, clock.clone()).map_err(|e| format!("the state can't be read: {e}"))?;
    let context = Arc::new(context);
    let seen = Seen::start(context.state.clone()).map_err(|e| format!("no thread could be started: {e}"))?;
    let upstream: Arc<dyn Upstream> = publish(&context)?.into();
    if context.config.upstream.is_checked {
        let upstream = upstream.clone();
        spawn("upstream check", move || check_upstream(&*upstream))?;
    }
    keep_house(context.clone(), upstream.clone())?;
    let watched = context.clone();
    // A thread of its own: providers may be slow.
    spawn("streams", move || {
        loop {
            std::thread::sleep(LOOK_AT_CLOCK_EVERY);
            recheck::look_after_streams(&watched);
        }
    })?;
    let failed = |e| format!("the server can't be started: {e}");
    let unnamed = UnnamedProxies::default();
    let app = App { context: context.clone(), upstream: upstream.clone(), admission, seen, unnamed };
    let (listeners, nudge) = listeners(app, ports, clock)?;
    watch_providers(context, nudge)?;
    let server = Server::new(listeners, limits, drain.clone()).map_err(failed)?;
    Ok(move |stop: &OwnedFd| {
        let served = server.run(stop.as_fd(), drain_timeout).map_err(failed);
        upstream.end();
        served
    })
}

/// The application on its port, and with TLS, what the plain port answers.
fn listeners(app: App, ports: Ports, clock: Arc<Clock>) -> Result<(Vec<Listener>, Option<Arc<Nudge>>), String> {
    let plain = |handler: Box<dyn Handler>| Listener { socket: ports.plain, handler, tls: None };
    let Some((socket, front)) = ports.tls else { return Ok((vec![plain(Box::new(app))], None)) };
    let config = &app.context.config;
    let (challenges, certificates) = (front.challenges.clone(), front.certificates.clone());
    let (origin, trusted_proxies) = (config.external.origin.clone(), config.trusted_proxies.clone());
    let port = plain(Box::new(PlainPort { challenges, origin, trusted_proxies }));
    let tls = Some(certificates.server_config()?);
    let handler = Box::new(StrictTransport { handler: app, certificates });
    Ok((vec![Listener { socket, handler, tls }, port], front.look_after(clock)?))
}

/// The MCP server that the configuration names.
fn publish(context: &Arc<Context>) -> Result<Box<dyn Upstream>, String> {
    let config = &context.config;
    if let Some(stdio) = &config.stdio {
        return Ok(Box::new(StdioUpstream::new(stdio.clone(), context.clone())?));
    }
    let url = config.upstream.url.clone().ok_or("no upstream server")?;
    Ok(Box::new(HttpUpstream::new(url, config.upstream.clone(), &config.external)?))
}

/// Says in the log what keeps clients from the MCP server, until it is there.
fn check_upstream(upstream: &dyn Upstream) {
    let (mut pause, mut told) = (FIRST_CHECK_PAUSE, None);
    while let Err(trouble) = upstream.check() {
        if told.as_ref() != Some(&trouble) {
            log::warn!(seen = trouble.seen.as_str(); "{}", trouble.what);
            told = Some(trouble);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_CHECK_PAUSE);
    }
    match told {
        Some(_) => log::info!("the MCP server answers now"),
        None => log::debug!("the MCP server answers"),
    }
}

/// Sweeps expired rows, closes what upstream is not used, and watches the clock.
fn keep_house(context: Arc<Context>, upstream: Arc<dyn Upstream>) -> Result<(), String> {
    spawn("housekeeping", move || {
        let mut since_sweep = Duration::ZERO;
        loop {
            std::thread::sleep(LOOK_AT_CLOCK_EVERY);
            context.now();
            upstream.tidy();
            since_sweep += LOOK_AT_CLOCK_EVERY;
            if since_sweep >= COLLECT_EVERY {
                since_sweep = Duration::ZERO;
                if let Ok(removed @ 1..) = context.state.collect() {
                    log::debug!(removed = removed; "expired state was removed");
                }
            }
        }
    })
}

/// Looks at providers now and then. With SIGHUP, reads the lists of who may enter again, and has a certificate that could
/// not be obtained tried for again.
fn watch_providers(context: Arc<Context>, nudge: Option<Arc<Nudge>>) -> Result<(), String> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGHUP]).map_err(|e| format!("signals can't be handled: {e}"))?;
    let reloaded = context.clone();
    spawn("reload", move || {
        for _ in signals.forever() {
            reload(&reloaded);
            if let Some(nudge) = &nudge {
                nudge.nudge();
            }
        }
    })?;
    if context.providers.all().is_empty() {
        return Ok(());
    }
    spawn("providers", move || {
        loop {
            std::thread::sleep(context.providers.look());
        }
    })
}

fn reload(context: &Context) {
    let settings = match flags::of_process() {
        Ok(Invocation::Serve(settings) | Invocation::Demo(settings)) => settings,
        Ok(_) => return,
        Err(e) => {
            return log::error!(error = e.as_str(); "SIGHUP: the options can't be read again; nothing has changed");
        }
    };
    match configure_anew(&settings) {
        Ok(configs) if configs.is_empty() => {
            log::info!(
                "SIGHUP: no provider is configured, so there are no lists of who may sign in; for everything else, restart"
            );
        }
        Ok(configs) => {
            context.providers.replace_rules(&configs);
            log::info!("SIGHUP: the lists of who may sign in have been read again; for everything else, restart");
            recheck::look_after_streams(context);
        }
        Err(e) => {
            log::error!(error = e.as_str(); "SIGHUP: the lists of who may sign in can't be read again; nothing has changed")
        }
    }
}

/// Connections need descriptors, and requests and streams need one each for their upstream side. What the system does not
/// give, the bound on connections follows.
fn raise_descriptor_limit(config: &mut Config) {
    let connections = config.http.connections;
    let children = config.stdio.as_ref().map_or(0, |s| s.max_children * CHILD_DESCRIPTORS);
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

/// An argument of `command` that is a directory with `data` in it.
fn published_data(command: &[std::ffi::OsString], data: &std::path::Path) -> Option<String> {
    let data = data.canonicalize().ok()?;
    let holds = |word: &std::ffi::OsString| {
        let path = std::path::Path::new(word).canonicalize().ok()?;
        (path.is_dir() && data.starts_with(path)).then(|| word.to_string_lossy().into_owned())
    };
    command.iter().skip(1).find_map(holds)
}

/// Names variables that somebody may have set for this program and that it does not read.
fn warn_of_lookalikes() {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (variable, advice) in flags::lookalikes(names) {
        log::warn!(variable = variable.as_str(), advice = advice.as_str(); "a variable of the environment looks like an option of this program, but is none: it has no effect");
    }
}

/// `is_unsure` where the external URL or the address to listen on was not given.
fn warn_of_traps(config: &Config, ports: &Ports, is_unsure: bool) {
    if let Some(notice) = configure::notice(&config.tls_notice) {
        log::info!("{notice}");
    }
    if config.stdio.as_ref().is_some_and(|s| s.user.is_none()) {
        log::warn!(
            "the MCP server runs under the same user as this proxy: if it can be made to read any file, it can read {} and make itself tokens; give it a user of its own with --stdio-user (STDIO_USER)",
            config.data_path.join("secret").display()
        );
    }
    if let Some(stdio) = &config.stdio
        && let Some(shown) = published_data(&stdio.command, &config.data_path)
    {
        log::warn!(directory = shown.as_str();
            "the MCP server is given a directory that has the data of this proxy in it: whoever may use the server may read the key that signs tokens; publish another directory, or keep the data elsewhere with --data-path (DATA_PATH)");
    }
    let external = &config.external;
    if !external.secure && !external.is_loopback() {
        log::warn!(url = external.origin.as_str(); "--external-url (EXTERNAL_URL) is plain http: passwords and tokens can be read on the way; use https");
    }
    let Ok(address) = ports.plain.local_addr() else { return };
    let port = address.port();
    // A port that is listened to for others may be published under another number, as containers' are.
    let is_direct = is_unsure || (address.ip().is_loopback() && external.is_loopback());
    if is_direct && !external.secure && external.port != port {
        log::warn!(
            "--external-url (EXTERNAL_URL) is {}, but the port is {port}: clients will look in the wrong place; did you mean --external-url http://{}:{port}, or --listen :{} (LISTEN)?",
            external.origin,
            external.host,
            external.port
        );
    }
}
