//! Builds the services and the server from the configuration.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::config::Config;
use super::housekeeping::{check_upstream, reload_on_sighup, run_housekeeping, watch_providers, watch_streams};
use super::listen::{Ports, raise_descriptor_limit};
use super::routes::App;
use crate::clock::Clock;
use crate::core::Core;
use crate::http::client::{FETCH_TIMEOUT, Fetcher};
use crate::http::{Handler, Listener, Server};
use crate::interaction::Interactions;
use crate::login::Login;
use crate::login::password::Passwords;
use crate::login::providers::Providers;
use crate::net::client_address::UnnamedProxies;
use crate::net::shutdown::Shutdown;
use crate::oauth::AuthorizationServer;
use crate::resource::admission::Admission;
use crate::resource::open_streams::OpenStreams;
use crate::resource::seen::Seen;
use crate::store::{State, Store};
use crate::thread::spawn;
use crate::tls::acme::renewal::RetryTrigger;
use crate::tls::certificates::StrictTransport;
use crate::tls::https_redirect::HttpsRedirect;
use crate::tokens::{Keys, Secret};
use crate::upstream::Upstream;
use crate::upstream::http::HttpUpstream;
use crate::upstream::stdio::StdioUpstream;
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
}

impl Services {
    /// Builds the services from the configuration and the stored state. The error is one line.
    pub fn new(config: &Config, secret: &Secret, store: Box<dyn Store>, clock: Arc<Clock>) -> Result<Services, String> {
        let unreadable = |e| format!("the state can't be read: {e}");
        let keys = Keys::new(&config.external.origin, secret, &config.previous_secrets);
        let state = Arc::new(State::new(store, clock).map_err(unreadable)?);
        let passwords = Passwords::new(&config.passwords, config.password_queue, &keys, &state).map_err(unreadable)?;
        let fetcher = Fetcher::new(config.outbound_tls.clone(), config.outbound_proxies.clone(), FETCH_TIMEOUT);
        let providers = Providers::new(config.providers.clone(), fetcher, &keys);
        let core = Arc::new(Core { external: config.external.clone(), keys, state, lifetimes: config.lifetimes });
        let login = Arc::new(Login::new(core.clone(), passwords, providers));
        let streams = OpenStreams::default();
        let server = Arc::new(AuthorizationServer::new(core.clone(), login.clone(), streams.clone()));
        Ok(Services { core, login, server, streams })
    }

    /// The request handler of the proxy in front of `upstream`.
    pub fn app(&self, config: &Config, upstream: Arc<dyn Upstream>) -> Result<App, String> {
        let seen = Seen::start(self.core.state.clone()).map_err(|e| format!("no thread could be started: {e}"))?;
        Ok(App {
            core: self.core.clone(),
            server: self.server.clone(),
            interactions: Interactions::new(self.server.clone(), config.auto_select, config.client_url()),
            upstream,
            admission: Admission::new(config.admission),
            seen,
            streams: self.streams.clone(),
            surface: config.surface.clone(),
            mcp_url: config.client_url(),
            unnamed: UnnamedProxies::default(),
        })
    }
}

/// Builds the server and starts the background threads. The returned function serves until `stop` becomes readable.
pub fn build(
    mut config: Config,
    secret: &Secret,
    store: Box<dyn Store>,
    clock: Arc<Clock>,
    ports: Ports,
    shutdown: &Shutdown,
) -> Result<impl FnOnce(&Waker) -> Result<(), String> + use<>, String> {
    raise_descriptor_limit(&mut config);
    let drain_timeout = config.drain_timeout;
    let limits = config.http.clone();
    let services = Services::new(&config, secret, store, clock.clone())?;
    let Services { core, login, server, streams } = &services;
    let upstream = publish(&config, server)?;
    if config.upstream.is_checked {
        let upstream = upstream.clone();
        spawn("upstream check", move || check_upstream(&*upstream))?;
    }
    run_housekeeping(core.clone(), upstream.clone())?;
    watch_streams(login.clone(), streams.clone())?;
    let failed = |e| format!("the server can't be started: {e}");
    let app = services.app(&config, upstream.clone())?;
    let (listeners, retry) = listeners(app, ports, clock)?;
    reload_on_sighup(login.clone(), streams.clone(), retry)?;
    watch_providers(login.clone())?;
    let server = Server::new(listeners, limits, shutdown.clone()).map_err(failed)?;
    Ok(move |stop: &Waker| {
        let served = server.run(stop.as_fd(), drain_timeout).map_err(failed);
        upstream.end();
        served
    })
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

/// Sets up the MCP server that the configuration names: a stdio command or a URL.
fn publish(config: &Config, server: &AuthorizationServer) -> Result<Arc<dyn Upstream>, String> {
    if let Some(stdio) = &config.stdio {
        let upstream = Arc::new(StdioUpstream::new(stdio.clone(), server.login.clone())?);
        let expecting = Arc::downgrade(&upstream);
        server.on_consent(move |user, client| {
            if let Some(upstream) = expecting.upgrade() {
                upstream.expect(user, client);
            }
        });
        return Ok(upstream);
    }
    let url = config.upstream.url.clone().ok_or("no upstream server")?;
    Ok(Arc::new(HttpUpstream::new(url, config.upstream.clone(), &config.external)?))
}
