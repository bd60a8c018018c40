//! Builds the services and the server from the configuration.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::access_log::AccessLog;
use super::audit_log::AuditLog;
use super::client_names::ClientNames;
use super::config::Config;
use super::control::rotation::{KeyRotation, Secrets};
use super::control::{self, Control};
use super::echo::Echo;
use super::health::Health;
use super::housekeeping::{check_upstream, run_housekeeping, watch_providers, watch_streams};
use super::listen::{Ports, raise_descriptor_limit};
use super::logs::Logs;
use super::monitoring::{ConnectionCount, Monitoring};
use super::publish::{self, Publisher};
use super::reload::{Reload, reload_on_sighup};
use super::request_record::{Sink, Sinks};
use super::rights::Rights;
use super::routes::App;
use crate::clock::{Clock, Timestamp};
use crate::core::Core;
use crate::data_dir;
use crate::http::client::{Documents, FETCH_TIMEOUT, Fetcher, Source};
use crate::http::server::ListeningSocket;
use crate::http::{Handler, Listener, Server};
use crate::interaction::Interactions;
use crate::login::Login;
use crate::login::api_keys::ApiKeys;
use crate::login::issuers::Issuers;
use crate::login::password::Passwords;
use crate::login::providers::Providers;
use crate::net::client_address::UnnamedProxies;
use crate::net::shutdown::Shutdown;
use crate::oauth::AuthorizationServer;
use crate::oauth::clients::Clients;
use crate::observe::events::{self, Event, Kind, Subscriber};
use crate::observe::metrics::{self, EventCounter, Metrics};
use crate::resource::admission::Admission;
use crate::resource::identity_fields::{AssertionKey, IdentityFields};
use crate::resource::open_streams::OpenStreams;
use crate::resource::protected::Published;
use crate::resource::rate_limits::RateLimits;
use crate::resource::seen::Seen;
use crate::store::{State, Store};
use crate::thread::spawn;
use crate::tls::acme::renewal::RetryTrigger;
use crate::tls::certificates::{Certificates, StrictTransport};
use crate::tls::https_redirect::HttpsRedirect;
use crate::tokens::Keys;
use crate::tokens::signing::SigningKey;
use crate::wake::Waker;

/// The services that are built before the proxy accepts connections.
pub struct Services {
    /// Issuer, keys, state and lifetimes.
    pub core: Arc<Core>,
    /// The ways to sign in.
    pub login: Arc<Login>,
    /// The authorization server.
    pub server: Arc<AuthorizationServer>,
    /// Event streams that are open.
    pub streams: OpenStreams,
    /// Tells upstream who the user is.
    pub identity_fields: Option<Arc<IdentityFields>>,
}

impl Services {
    /// Builds the services from the configuration and the stored state. The error is one line.
    pub fn new(
        config: &Config,
        secrets: &Secrets,
        store: Box<dyn Store>,
        clock: Arc<Clock>,
    ) -> Result<Services, String> {
        let unreadable = |e| format!("the state can't be read: {e}");
        let keys = Keys::new(&config.external.origin, &secrets.current, &secrets.verifying(clock.now()));
        let state = Arc::new(State::new(store, clock).map_err(unreadable)?);
        let passwords = Passwords::new(&config.passwords, config.password_queue, &keys, &state).map_err(unreadable)?;
        let fetcher = Fetcher::new(config.outbound_tls.clone(), config.outbound_proxies.clone(), FETCH_TIMEOUT);
        let providers = Providers::new(config.providers.clone(), fetcher, &keys);
        let fetcher = Fetcher::new(config.outbound_tls.clone(), config.outbound_proxies.clone(), FETCH_TIMEOUT);
        let issuers = Issuers::new(config.issuers.clone(), fetcher);
        let api_keys = ApiKeys::new(config.has_api_keys, &state).map_err(unreadable)?;
        let source = Source::new(config.outbound_tls.clone(), config.outbound_proxies.clone(), &config.external.host);
        let clients = Clients::new(config.clients.clone(), Documents::new(source));
        let seen = Seen::start(state.clone()).map_err(|e| format!("no thread could be started: {e}"))?;
        let (external, site) = (config.external.clone(), config.site.clone());
        let core = Arc::new(Core { external, site, keys, state, lifetimes: config.lifetimes });
        let login = Arc::new(Login::new(core.clone(), passwords, providers, config.groups.clone(), issuers, api_keys));
        let streams = OpenStreams::default();
        let resources = Published::new(publish::resources(&config.servers, &core.external, &login)?);
        let (assertions, identity_fields) = identity_fields(config, &core)?;
        let server = AuthorizationServer::new(
            core.clone(),
            login.clone(),
            clients,
            seen,
            assertions,
            streams.clone(),
            resources,
        );
        Ok(Services { core, login, server: Arc::new(server), streams, identity_fields })
    }

    /// Who learns of requests that have ended; `None` if nobody does.
    fn sinks(&self, config: &Config, open: &Logs, metrics: Option<Arc<Metrics>>) -> Option<Arc<Sinks>> {
        let mut logs: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(lines) = &open.access {
            logs.push(Box::new(AccessLog::new(lines.clone(), config.monitoring.access_log_format)));
        }
        let has_arguments = config.monitoring.audit.as_ref().is_some_and(|audit| audit.has_arguments);
        if let Some(lines) = &open.audit {
            logs.push(Box::new(AuditLog::new(lines.clone(), has_arguments)));
        }
        let is_wanted = !logs.is_empty() || metrics.is_some();
        is_wanted.then(|| {
            Arc::new(Sinks {
                logs,
                names: ClientNames::new(self.core.clone()),
                has_arguments,
                required: open.required().cloned(),
                metrics,
            })
        })
    }

    /// The listener for the operator.
    fn monitoring(
        &self,
        socket: ListeningSocket,
        metrics: Arc<Metrics>,
        health: Health,
        connections: Arc<OnceLock<ConnectionCount>>,
    ) -> Listener {
        let is_local = socket.local_addr().is_ok_and(|at| at.ip().is_loopback());
        let streams = self.streams.clone();
        let handler = Box::new(Monitoring { metrics, health, streams, connections, is_local });
        Listener { socket, handler, tls: None }
    }

    /// The request handler of the proxy.
    pub fn app(&self, config: &Config, sinks: Option<Arc<Sinks>>) -> App {
        let admission = Admission::new(config.admission);
        admission.share_among(config.servers.all.len());
        App {
            core: self.core.clone(),
            server: self.server.clone(),
            interactions: Interactions::new(self.server.clone(), config.auto_select),
            admission,
            rate_limits: Arc::new(RateLimits::new(config.rate_limits.clone())),
            identity_fields: self.identity_fields.clone(),
            streams: self.streams.clone(),
            surface: config.surface.clone(),
            unnamed: UnnamedProxies::default(),
            echo: Echo::default(),
            sinks,
        }
    }
}

/// The key of identity assertions, if they are on, and what is told upstream about users, if anything is.
#[allow(clippy::type_complexity, reason = "two parts that are made together")]
fn identity_fields(
    config: &Config,
    core: &Arc<Core>,
) -> Result<(Option<Arc<AssertionKey>>, Option<Arc<IdentityFields>>), String> {
    let names = &config.identity_fields;
    let key = match &names.assertion {
        Some(_) => Some(Arc::new(assertion_key(config, core.now())?)),
        None => None,
    };
    let field = names.assertion.clone().zip(key.clone());
    let is_told = field.is_some() || !names.mapping.is_empty();
    let fields = is_told.then(|| Arc::new(IdentityFields::new(core.clone(), field, names.mapping.clone())));
    Ok((key, fields))
}

/// The key of identity assertions, from the data directory if anything is kept there.
fn assertion_key(config: &Config, now: Timestamp) -> Result<AssertionKey, String> {
    let key = match config.is_kept {
        true => data_dir::load_assertion_key(&config.data_path, now)?,
        false => SigningKey::generate(None, now)?,
    };
    Ok(AssertionKey::new(key))
}

/// Builds the server and starts the background threads. The returned function serves until `stop` becomes readable.
pub fn build(
    mut config: Config,
    secrets: Secrets,
    store: Box<dyn Store>,
    clock: Arc<Clock>,
    mut ports: Ports,
    shutdown: &Shutdown,
) -> Result<impl FnOnce(&Waker) -> Result<(), String> + use<>, String> {
    raise_descriptor_limit(&mut config);
    let drain_timeout = config.drain_timeout;
    let limits = config.http.clone();
    let started = Instant::now();
    let services = Services::new(&config, &secrets, store, clock.clone())?;
    let Services { login, server, streams, .. } = &services;
    let published = server.resources.clone();
    start_threads(&config, &services)?;
    let failed = |e| format!("the server can't be started: {e}");
    let certificates = ports.tls.as_ref().map(|(_, front)| front.certificates.clone());
    let (connections, logs) = (Arc::<OnceLock<ConnectionCount>>::default(), Logs::open(&config.monitoring)?);
    let health = Health { server: server.clone(), certificates: certificates.clone(), logs: logs.clone() };
    let monitoring = ports.metrics.take().map(|socket| {
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), certificates.is_some()));
        (metrics.clone(), services.monitoring(socket, metrics, health.clone(), connections.clone()))
    });
    let metrics = monitoring.as_ref().map(|(metrics, _)| metrics.clone());
    let sinks = services.sinks(&config, &logs, metrics.clone());
    tell_events(&config, &logs, metrics);
    let app = services.app(&config, sinks);
    let reload = changeable(&mut config, &services, &app, &logs, certificates.clone());
    let (mut listeners, retry) = listeners(app, ports, clock)?;
    listeners.extend(monitoring.map(|(_, listener)| listener));
    let reload = reload_on_sighup(Reload { retry, ..reload })?;
    if config.is_kept {
        let (server, streams) = (services.server.clone(), streams.clone());
        let rotation = rotation(&services, &config, secrets);
        let control = Control { server, streams, certificates, health, rotation, reload, started };
        control::server::start(control, &config.data_path)?;
    }
    watch_providers(login.clone())?;
    let server = Server::new(listeners, limits, shutdown.clone()).map_err(failed)?;
    let _ = connections.set(Box::new(server.connections()));
    Ok(move |stop: &Waker| {
        let served = server.run(stop.as_fd(), drain_timeout).map_err(failed);
        published.now().all().iter().for_each(|resource| resource.upstream.end());
        if served.is_ok() {
            Event::new(Kind::Stopped).tell();
        }
        logs.flush();
        served
    })
}

/// What a reload can change.
fn changeable(
    config: &mut Config,
    services: &Services,
    app: &App,
    logs: &Logs,
    certificates: Option<Arc<Certificates>>,
) -> Reload {
    let publisher = Publisher {
        login: services.login.clone(),
        published: services.server.resources.clone(),
        admission: app.admission.clone(),
        streams: services.streams.clone(),
        rights: Rights::of(&config.servers),
        current: config.servers.clone(),
        is_checked: config.is_checked,
        patience: config.drain_timeout,
    };
    let files = config.tls.as_ref().and_then(|tls| tls.files().cloned());
    Reload {
        publisher,
        rate_limits: app.rate_limits.clone(),
        logs: logs.clone(),
        certificates: certificates.zip(files),
        retry: None,
        given: std::mem::take(&mut config.given),
    }
}

/// Starts the threads that look after servers, streams and the store.
fn start_threads(config: &Config, services: &Services) -> Result<(), String> {
    let Services { core, login, server, streams, .. } = services;
    let published = server.resources.clone();
    for resource in published.now().all().iter().filter(|_| config.is_checked) {
        let (name, upstream) = (resource.name.clone(), Arc::downgrade(&resource.upstream));
        spawn("upstream check", move || check_upstream(&name, &upstream))?;
    }
    publish::warm_up(published.now().all())?;
    run_housekeeping(core.clone(), published.clone())?;
    watch_streams(login.clone(), streams.clone(), published)
}

/// Says who learns of events that matter for security, and tells the first.
fn tell_events(config: &Config, logs: &Logs, metrics: Option<Arc<Metrics>>) {
    let mut subscribers: Vec<Box<dyn Subscriber>> = Vec::new();
    if let Some((lines, audit)) = logs.audit.clone().zip(config.monitoring.audit.as_ref()) {
        subscribers.push(Box::new(AuditLog::new(lines, audit.has_arguments)));
    }
    if let Some(metrics) = metrics {
        metrics::install(metrics.clone());
        subscribers.push(Box::new(EventCounter(metrics)));
    }
    events::subscribe(subscribers);
    Event::new(Kind::Started).with("version", env!("CARGO_PKG_VERSION")).tell();
}

fn rotation(services: &Services, config: &Config, secrets: Secrets) -> KeyRotation {
    KeyRotation {
        server: services.server.clone(),
        identity_fields: services.identity_fields.clone(),
        data: config.data_path.clone(),
        secrets: Mutex::new(secrets),
    }
}

/// The listeners. Without TLS, `app` is on the plain port; with TLS, it is on the TLS port, and the plain port
/// redirects to https. Starts the certificate thread, and returns its retry trigger.
fn listeners(app: App, ports: Ports, clock: Arc<Clock>) -> Result<(Vec<Listener>, Option<Arc<RetryTrigger>>), String> {
    let plain = |handler: Box<dyn Handler>| Listener { socket: ports.plain, handler, tls: None };
    let Some((socket, front)) = ports.tls else { return Ok((vec![plain(Box::new(app))], None)) };
    let (challenges, certificates) = (front.challenges.clone(), front.certificates.clone());
    let (origin, trusted_proxies) = (app.core.external.origin.clone(), app.surface.trusted_proxies.clone());
    let port = plain(Box::new(HttpsRedirect { challenges, origin, trusted_proxies }));
    let tls = Some(certificates.server_config()?);
    let handler = Box::new(StrictTransport { handler: app, certificates });
    Ok((vec![Listener { socket, handler, tls }, port], front.look_after(clock)?))
}
