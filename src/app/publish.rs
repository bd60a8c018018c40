//! Publishes MCP servers: at the start, and anew when the servers file is read again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::servers::{Backend, ServerConfig, Servers};
use super::housekeeping::check_upstream;
use super::rights::Rights;
use crate::login::Login;
use crate::observe::events::{Event, Kind};
use crate::resource::admission::Admission;
use crate::resource::open_streams::OpenStreams;
use crate::resource::protected::{ProtectedResource, ProtectedResources, Published};
use crate::resource::stream_recheck;
use crate::thread::spawn;
use crate::upstream::Upstream;
use crate::upstream::http::HttpUpstream;
use crate::upstream::stdio::StdioUpstream;
use crate::url::ExternalUrl;

/// Pause between the starts of servers.
const BETWEEN_STARTS: Duration = Duration::from_millis(250);
/// How often it is looked whether the requests of a server that is not published any more have been answered.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Sets up the servers. None of them is asked anything yet.
pub(super) fn resources(
    servers: &Servers,
    external: &ExternalUrl,
    login: &Arc<Login>,
) -> Result<ProtectedResources, String> {
    let all: Result<Vec<_>, String> = servers
        .all
        .iter()
        .map(|server| Ok(resource(server, &external.origin, upstream(server, external, login)?)))
        .collect();
    Ok(table(servers, all?))
}

fn table(servers: &Servers, mut all: Vec<ProtectedResource>) -> ProtectedResources {
    match all.pop() {
        Some(only) if !servers.is_file => ProtectedResources::one(only),
        last => ProtectedResources::several(all.into_iter().chain(last).map(Arc::new).collect()),
    }
}

fn upstream(server: &ServerConfig, external: &ExternalUrl, login: &Arc<Login>) -> Result<Arc<dyn Upstream>, String> {
    let made: Result<Arc<dyn Upstream>, String> = match &server.backend {
        Backend::Stdio(stdio) => StdioUpstream::new(stdio.clone(), login.clone()).map(|made| Arc::new(made) as _),
        Backend::Http(http) => HttpUpstream::new(http.clone(), external).map(|made| Arc::new(made) as _),
    };
    made.map_err(|why| match server.name.as_str() {
        "" => why,
        name => format!("--servers (SERVERS): server '{name}': {why}"),
    })
}

fn resource(server: &ServerConfig, origin: &str, upstream: Arc<dyn Upstream>) -> ProtectedResource {
    ProtectedResource {
        name: server.name.clone(),
        base: server.base.clone(),
        urls: ProtectedResource::urls_of(origin, &server.base, &server.endpoint),
        title: server.title.clone(),
        description: server.description.clone(),
        rules: server.rules.clone(),
        is_legacy: server.is_legacy,
        max_requests: server.max_requests,
        upstream,
    }
}

/// Starts what should be ready before the first request. Of several servers, one after the other: a small machine could not
/// start all of them at once.
pub(super) fn warm_up(resources: &[Arc<ProtectedResource>]) -> Result<(), String> {
    if let [only] = resources {
        only.upstream.warm_up();
        return Ok(());
    }
    let all: Vec<_> = resources.iter().map(|resource| Arc::downgrade(&resource.upstream)).collect();
    spawn("warm-up", move || {
        for upstream in all {
            if let Some(upstream) = upstream.upgrade() {
                upstream.warm_up();
            }
            std::thread::sleep(BETWEEN_STARTS);
        }
    })
}

/// Servers that are set up and not published yet.
pub(super) struct Prepared {
    servers: Servers,
    all: Vec<ProtectedResource>,
    /// The names of those that were set up anew.
    fresh: Vec<String>,
}

impl Prepared {
    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }
}

/// Publishes other servers while requests are answered.
pub(super) struct Publisher {
    pub(super) login: Arc<Login>,
    pub(super) published: Published,
    pub(super) admission: Admission,
    pub(super) streams: OpenStreams,
    /// The servers that are published now.
    pub(super) current: Servers,
    /// The rights that were kept at the start.
    pub(super) rights: Rights,
    /// Ask new servers whether they answer.
    pub(super) is_checked: bool,
    /// How long requests in flight of a server that goes may take.
    pub(super) patience: Duration,
}

impl Publisher {
    /// Sets up `servers`, to be published instead of the current ones. A server whose way to be reached has not changed goes
    /// on with its sessions and connections.
    pub(super) fn prepare(&self, mut servers: Servers) -> Result<Prepared, String> {
        self.rights.check(&Rights::of(&servers))?;
        servers.make_homes();
        let external = &self.login.core.external;
        let (old, before) = (self.published.now(), &self.current);
        let kept = |server: &ServerConfig| {
            let same = before.all.iter().find(|known| known.name == server.name)?;
            let upstream = old.all().iter().find(|resource| resource.name == server.name)?.upstream.clone();
            same.backend.is_same(&server.backend).then_some(upstream)
        };
        let (mut all, mut fresh) = (Vec::new(), Vec::new());
        for server in &servers.all {
            let upstream = match kept(server) {
                Some(upstream) => upstream,
                None => {
                    fresh.push(server.name.clone());
                    upstream(server, external, &self.login)?
                }
            };
            all.push(resource(server, &external.origin, upstream));
        }
        Ok(Prepared { servers, all, fresh })
    }

    /// Publishes what was prepared.
    pub(super) fn publish(&mut self, prepared: Prepared) {
        let Prepared { servers, all, fresh } = prepared;
        let (old, before) = (self.published.now(), &self.current);
        for (server, resource) in servers.all.iter().zip(&all) {
            if let Backend::Stdio(stdio) = &server.backend {
                resource.upstream.set_limits(stdio.limits());
            }
        }
        let known = |name: &str| before.all.iter().find(|server| server.name == name);
        let (restarted, added): (Vec<_>, Vec<_>) = fresh.iter().cloned().partition(|name| known(name).is_some());
        let is_changed = |server: &&ServerConfig| {
            known(&server.name).is_some_and(|before| {
                let same = ServerConfig { backend: server.backend.clone(), ..before.clone() } == **server;
                !same || !before.backend.is_same_but_for_share(&server.backend)
            })
        };
        let changed: Vec<_> = servers.all.iter().filter(is_changed).map(|server| server.name.clone()).collect();
        let is_gone = |name: &str| !servers.all.iter().any(|server| server.name == name);
        let removed: Vec<_> = before.all.iter().map(|s| s.name.clone()).filter(|name| is_gone(name)).collect();

        self.published.replace(table(&servers, all));
        self.admission.share_among(servers.all.len());
        self.current = servers;
        for name in removed.iter().chain(&restarted) {
            if let Some(resource) = old.all().iter().find(|resource| resource.name == *name) {
                retire(resource, self.streams.clone(), self.patience);
            }
        }
        drop(old);
        let now = self.published.now();
        let is_fresh = |resource: &&Arc<ProtectedResource>| fresh.contains(&resource.name);
        let fresh: Vec<_> = now.all().iter().filter(is_fresh).cloned().collect();
        or_log(warm_up(&fresh));
        if self.is_checked {
            check(&fresh);
        }
        let event = Event::new(Kind::ServersPublished).count("servers", self.current.all.len());
        let event = event.with("added", added.join(",")).with("changed", changed.join(","));
        event.with("removed", removed.join(",")).tell();
    }

    /// Cuts the streams of users who may not have them any more.
    pub(super) fn recheck_streams(&self) {
        stream_recheck::recheck_streams(&self.login, &self.streams, &self.published.now());
    }
}

fn check(resources: &[Arc<ProtectedResource>]) {
    for resource in resources {
        let (name, upstream) = (resource.name.clone(), Arc::downgrade(&resource.upstream));
        or_log(spawn("upstream check", move || check_upstream(&name, &upstream)));
    }
}

/// Ends a server that is not published any more, when its requests have been answered. Streams that answer no request end
/// at once.
fn retire(resource: &ProtectedResource, streams: OpenStreams, patience: Duration) {
    let (name, upstream, newest) = (resource.name.clone(), resource.upstream.clone(), streams.newest());
    or_log(spawn("retired server", move || {
        let deadline = Instant::now() + patience;
        while (streams.cut_endless(&name, newest) || Arc::strong_count(&upstream) > 1) && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        upstream.end();
    }));
}

fn or_log(started: Result<(), String>) {
    if let Err(e) = started {
        log::error!(error = e.as_str(); "a thread could not be started");
    }
}
