//! The public surface as one table, and what holds for every request: Host, CORS, who is asking.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONTENT_TYPE, HOST, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::admission::{Admission, Newcomer};
use crate::context::{Caller, Context, Endpoint};
use crate::guard::{self, Seen};
use crate::http::{Handler, Request, Response};
use crate::identity::UserId;
use crate::login::{federation, signin};
use crate::net::interrupt;
use crate::net::trusted::{TrustedProxies, UnnamedProxies};
use crate::oauth::{authorize, metadata, register, revoke, token};
use crate::upstream::http::{is_event_stream, wants_event_stream};
use crate::upstream::{Origin, Upstream};
use crate::url::{ExternalUrl, is_loopback_host};

/// Every endpoint but the well-knowns; HEAD goes where GET goes.
const ROUTES: &[(Method, &str, Endpoint, Audience)] = &[
    (Method::GET, "/.idp/auth", authorize::show, Audience::Browsers),
    (Method::POST, "/.idp/auth", authorize::decide, Audience::Browsers),
    (Method::POST, "/.idp/token", token::handle, Audience::AnyOrigin),
    (Method::POST, "/.idp/register", register::handle, Audience::AnyOrigin),
    (Method::POST, "/.idp/revoke", revoke::handle, Audience::AnyOrigin),
    (Method::GET, "/.auth/login", signin::show, Audience::Browsers),
    (Method::POST, "/.auth/login", signin::submit, Audience::Browsers),
    (Method::GET, "/.auth/google/callback", federation::google, Audience::Browsers),
    (Method::GET, "/.auth/github/callback", federation::github, Audience::Browsers),
    (Method::GET, "/.auth/oidc/callback", federation::oidc, Audience::Browsers),
    (Method::GET, "/.auth/logout", signin::logout_page, Audience::Browsers),
    (Method::POST, "/.auth/logout", signin::logout, Audience::Browsers),
];

/// Paths that never reach the upstream server.
const OWN_PREFIXES: [&str; 3] = ["/.idp", "/.auth", "/.well-known"];

/// What may be asked by scripts of other origins.
#[derive(Clone, Copy, PartialEq)]
enum Audience {
    /// People, on pages of this origin: no CORS.
    Browsers,
    /// Clients, wherever they run.
    AnyOrigin,
}

/// Fields that a browser client may send and read.
const ALLOWED_FIELDS: &[&str] = &[
    "authorization",
    "content-type",
    "accept",
    "mcp-protocol-version",
    "mcp-session-id",
    "last-event-id",
    "mcp-method",
    "mcp-name",
];
const ALLOWED_FIELD_PREFIX: &str = "mcp-param-";
const EXPOSED_FIELDS: &str = "WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version";

/// The whole program as an answer to requests.
pub struct App {
    /// What handlers work with.
    pub context: Arc<Context>,
    /// The MCP server.
    pub upstream: Arc<dyn Upstream>,
    /// Bounds on what is in flight.
    pub admission: Admission,
    /// Notes which tokens are in use.
    pub seen: Seen,
    /// Reverse proxies that nobody has named, and that were told of.
    pub unnamed: UnnamedProxies,
}

impl Handler for App {
    fn handle(&self, mut request: Request<'_>) -> Response {
        let ctx = &*self.context;
        let trusted = TrustedProxies(&ctx.config.trusted_proxies);
        let chain = trusted.chain(request.peer, &request.parts.headers);
        if !trusted.contains(request.peer) {
            self.unnamed.note(request.peer, &request.parts.headers);
        }
        let caller = Caller { address: chain[0], id: request.id };
        let (method, path) = (request.parts.method.clone(), request.parts.uri.path().to_string());
        let origin = request.parts.headers.get(ORIGIN).cloned();
        let response = if host_is_known(ctx, &request.parts.headers) {
            self.route(&mut request, chain, caller, &path)
        } else {
            let host =
                request.parts.headers.get(HOST).map(|h| String::from_utf8_lossy(h.as_bytes())).unwrap_or_default();
            let shown: String = host.chars().take(100).collect();
            log::info!(request:% = caller.id, address:% = caller.address, host = shown.as_str(); "a request for another host was refused: it must be that of --external-url (EXTERNAL_URL), or named in --allowed-hosts (ALLOWED_HOSTS)");
            Response::text(
                StatusCode::MISDIRECTED_REQUEST,
                "this host name is not served here: it must be that of --external-url (EXTERNAL_URL), or named in --allowed-hosts (ALLOWED_HOSTS)",
            )
        };
        log::debug!(
            request:% = caller.id, address:% = caller.address, method:% = method, path = path.as_str(),
            status = response.status.as_u16(), origin = origin.as_ref().and_then(|o| o.to_str().ok()).unwrap_or_default();
            "answered"
        );
        response
    }

    fn wants_body(&self, head: &Parts, _: IpAddr) -> bool {
        let path = head.uri.path();
        if is_own(path) {
            return ROUTES.iter().any(|(method, p, ..)| *method == head.method && *p == path);
        }
        guard::verify(&self.context, &head.headers).is_ok()
    }

    fn exempt(&self, peer: IpAddr) -> bool {
        TrustedProxies(&self.context.config.trusted_proxies).contains(peer)
    }
}

impl App {
    fn route(&self, request: &mut Request<'_>, chain: Vec<IpAddr>, caller: Caller, path: &str) -> Response {
        if !is_own(path) {
            return self.resource(request, chain, caller, path);
        }
        let (methods, audience) = match self.methods_of(path) {
            Some(found) => found,
            None => return not_found(request),
        };
        let method = request.parts.method.clone();
        if method == Method::OPTIONS && audience == Audience::AnyOrigin {
            return preflight(request, &methods);
        }
        let lookup = if method == Method::HEAD { Method::GET } else { method };
        let mut response = if !methods.contains(&lookup) {
            let allow = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
            Response::text(StatusCode::METHOD_NOT_ALLOWED, format!("the methods here are {allow}")).with(ALLOW, allow)
        } else if path.starts_with("/.well-known/") {
            metadata::well_known(&self.context, path, self.upstream.endpoint())
        } else {
            let route =
                ROUTES.iter().find(|(m, p, ..)| *m == lookup && *p == path).expect("its methods were found above");
            (route.2)(&self.context, request, caller)
        };
        if audience == Audience::AnyOrigin {
            open_to_any_origin(&mut response);
        }
        response
    }

    fn methods_of(&self, path: &str) -> Option<(Vec<Method>, Audience)> {
        if path.starts_with("/.well-known/") {
            return Some((vec![Method::GET], Audience::AnyOrigin));
        }
        let routes: Vec<_> = ROUTES.iter().filter(|(_, p, ..)| *p == path).collect();
        Some((routes.iter().map(|r| r.0.clone()).collect(), routes.first()?.3))
    }

    /// Everything else belongs to the upstream server, for those with a token.
    fn resource(&self, request: &mut Request<'_>, chain: Vec<IpAddr>, caller: Caller, path: &str) -> Response {
        let ctx = &*self.context;
        let headers = &request.parts.headers;
        let origin = headers.get(ORIGIN).cloned();
        if let Some(origin) = &origin
            && !origin_is_allowed(ctx, origin)
        {
            log::info!(request:% = caller.id, address:% = caller.address; "a request of another web origin was refused (--allowed-origins, ALLOWED_ORIGINS)");
            return Response::text(
                StatusCode::FORBIDDEN,
                "requests of this web origin are not allowed (--allowed-origins)",
            )
            .with(VARY, "Origin");
        }
        let mut response = if request.parts.method == Method::OPTIONS {
            preflight(request, &[Method::GET, Method::POST, Method::DELETE])
        } else {
            match guard::principal(ctx, &self.seen, headers) {
                Err(denial) => guard::challenge(ctx, path, headers, denial),
                Ok(_) if matches!(request.parts.method, Method::TRACE) => {
                    Response::text(StatusCode::METHOD_NOT_ALLOWED, "TRACE would show what others may not see")
                        .with(ALLOW, "GET, POST, DELETE")
                }
                Ok(principal) => match self.admission.enter(newcomer(request, principal.user.clone())) {
                    Err(busy) => *busy,
                    Ok(permit) => {
                        let origin = Origin { principal, chain };
                        let response = self.upstream.forward(request, &origin);
                        let is_stream = is_event_stream(response.headers.get(CONTENT_TYPE));
                        let response = permit.attach(response, is_stream);
                        if is_stream { ctx.streams.attach(response, &origin.principal) } else { response }
                    }
                },
            }
        };
        if let Some(origin) = origin {
            response.headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_FIELDS));
        }
        response.headers.append(VARY, HeaderValue::from_static("Origin"));
        response
    }
}

/// The request as one that is to be let in. Its body may yet be on its way.
fn newcomer(request: &mut Request<'_>, user: UserId) -> Newcomer {
    let wants_stream = request.parts.method == Method::GET || wants_event_stream(&request.parts.headers);
    let arriving = request.body.arriving().map(|body| body.is_under_way());
    let upload = arriving.and_then(|is_under_way| Some((Arc::downgrade(&interrupt::client()?), is_under_way)));
    Newcomer { user, wants_stream, upload }
}

/// Does `path` never reach the upstream server?
fn is_own(path: &str) -> bool {
    OWN_PREFIXES.iter().any(|p| path.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn not_found(request: &Request<'_>) -> Response {
    let text = format!("there is nothing at {}", request.parts.uri.path().chars().take(80).collect::<String>());
    Response::json(StatusCode::NOT_FOUND, &serde_json::json!({"error": "not_found", "error_description": text}))
}

/// Answers `OPTIONS`, asked for by a browser before a request of another origin (Fetch standard, CORS preflight).
fn preflight(request: &Request<'_>, methods: &[Method]) -> Response {
    let methods = methods.iter().map(Method::as_str).chain(["OPTIONS"]).collect::<Vec<_>>().join(", ");
    let mut response = Response::new(StatusCode::NO_CONTENT).with(ALLOW, methods.clone());
    let headers = &request.parts.headers;
    if headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|v| v.to_str().ok());
        let fields: Vec<String> = asked
            .flat_map(|v| v.split(','))
            .map(|f| f.trim().to_ascii_lowercase())
            .filter(|f| ALLOWED_FIELDS.contains(&f.as_str()) || f.starts_with(ALLOWED_FIELD_PREFIX))
            .collect();
        response = response
            .with(ACCESS_CONTROL_ALLOW_METHODS, methods)
            .with(ACCESS_CONTROL_ALLOW_HEADERS, fields.join(", "))
            .with(ACCESS_CONTROL_MAX_AGE, 86_400);
        open_to_any_origin(&mut response);
    }
    response
}

fn open_to_any_origin(response: &mut Response) {
    response.headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response.headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_FIELDS));
}

/// The external URL's host, loopback, or one that was allowed: anything else smells of DNS rebinding.
fn host_is_known(ctx: &Context, headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let host = authority.host().to_ascii_lowercase();
    host == ctx.config.external.host || is_loopback_host(&host) || ctx.config.allowed_hosts.contains(&host)
}

/// This origin, loopback, or one that was allowed.
fn origin_is_allowed(ctx: &Context, origin: &HeaderValue) -> bool {
    let Some(url) = origin.to_str().ok().and_then(|o| ExternalUrl::parse(o).ok()) else { return false };
    url.origin == ctx.config.external.origin || url.is_loopback() || ctx.config.allowed_origins.contains(&url.origin)
}
