//! The monitoring port: metrics, and whether the proxy is healthy and ready. It is for the operator's own network.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use super::health::Health;
use crate::http::{Handler, Request, Response};
use crate::observe::metrics::{Metrics, ServerSnapshot, Snapshot};
use crate::resource::open_streams::OpenStreams;
use crate::resource::protected::ProtectedResource;
use crate::url::is_loopback_host;

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Counts connections by what they do, in the order of [`Snapshot::connections`].
pub(super) type ConnectionCount = Box<dyn Fn() -> [usize; 3] + Send + Sync>;

/// Answers requests on the monitoring port.
pub(super) struct Monitoring {
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Health,
    pub(super) streams: OpenStreams,
    /// Counts connections, once there are any.
    pub(super) connections: Arc<OnceLock<ConnectionCount>>,
    /// Only this machine can connect, so a request for another host is a browser's that DNS has deceived.
    pub(super) is_local: bool,
}

impl Handler for Monitoring {
    fn handle(&self, request: Request<'_>) -> Response {
        if !matches!(request.parts.method, Method::GET | Method::HEAD) {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "the methods here are GET and HEAD")
                .with(ALLOW, "GET, HEAD");
        }
        if self.is_local && !names_this_machine(&request.parts) {
            return Response::text(StatusCode::MISDIRECTED_REQUEST, "this port is for this machine: ask for localhost");
        }
        match request.parts.uri.path() {
            "/metrics" => {
                let text = self.metrics.text(&self.snapshot());
                Response::text(StatusCode::OK, text.trim_end()).with(CONTENT_TYPE, OPENMETRICS)
            }
            "/healthz" => Response::text(StatusCode::OK, "ok"),
            "/readyz" => self.ready(),
            _ => Response::text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz"),
        }
    }

    fn wants_body(&self, _: &Parts, _: IpAddr) -> bool {
        false
    }

    fn exempt(&self, _: IpAddr) -> bool {
        true
    }
}

impl Monitoring {
    fn snapshot(&self) -> Snapshot {
        let resources = self.health.server.resources.now();
        Snapshot {
            streams: self.streams.count(),
            servers: resources.all().iter().map(|server| snapshot_of(server)).collect(),
            connections: self.connections.get().map_or([0; 3], |count| count()),
            logs: self.health.logs.each().map(|(name, lines)| (name, !lines.is_in_trouble())).collect(),
            certificate_expires_at: self.health.certificates.as_ref().map(|all| all.current().info.not_after),
        }
    }

    fn ready(&self) -> Response {
        let condition = self.health.now();
        let status = if condition.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Response::json(status, &condition.json())
    }
}

fn snapshot_of(server: &ProtectedResource) -> ServerSnapshot {
    let usage = server.upstream.usage();
    ServerSnapshot {
        name: server.name.clone(),
        is_up: !server.upstream.is_down(),
        children: usage.children,
        sessions: usage.sessions,
    }
}

fn names_this_machine(head: &Parts) -> bool {
    let Some(host) = head.headers.get(HOST) else { return true };
    let authority = host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok());
    authority.is_some_and(|authority| is_loopback_host(&authority.host().to_ascii_lowercase()))
}
