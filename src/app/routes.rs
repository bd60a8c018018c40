//! The table of public endpoints, and what comes before a handler: the checks of Host and Origin, CORS, the client's
//! address and its token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use super::echo::{self, Echo};
use super::request_record::{Record, Sinks};
use crate::core::Core;
use crate::http::{Caller, Handler, OnEnd, Request, RequestId, Response};
use crate::identity::{Principal, UserId};
use crate::interaction::{Interactions, account, authorize, provider, sign_in};
use crate::net::client_address::{TrustedProxies, UnnamedProxies};
use crate::oauth::{AuthorizationServer, introspect, metadata, register, revoke, token};
use crate::observe::events::{Event, Kind};
use crate::observe::lines::Lines;
use crate::resource::admission::{Admission, Newcomer};
use crate::resource::bearer::{Denial, Destination};
use crate::resource::call::{Call, Tool, Wanted, without_secrets};
use crate::resource::identity_fields::IdentityFields;
use crate::resource::open_streams::OpenStreams;
use crate::resource::protected::Target;
use crate::resource::rate_limits::{RateLimits, TooMany};
use crate::resource::{bearer, challenge};
use crate::upstream::ForwardedIdentity;
use crate::upstream::http::{is_event_stream, wants_event_stream};
use crate::url::{ExternalUrl, is_loopback_host};

/// A handler function, by the state that it takes.
#[derive(Clone, Copy)]
enum Endpoint {
    /// For OAuth client software, which may run in a browser: CORS allows scripts of any origin.
    Client(fn(&AuthorizationServer, &mut Request<'_>, Caller) -> Response),
    /// For people at a browser, on pages of this origin: no CORS.
    Browser(fn(&Interactions, &mut Request<'_>, Caller) -> Response),
}

use Endpoint::{Browser, Client};

/// All endpoints except those below `/.well-known/`. HEAD uses the route of GET.
const ROUTES: &[(Method, &str, Endpoint)] = &[
    (Method::GET, "/.idp/auth", Browser(authorize::show)),
    (Method::POST, "/.idp/auth", Browser(authorize::decide)),
    (Method::POST, "/.idp/token", Client(token::handle)),
    (Method::POST, "/.idp/register", Client(register::handle)),
    (Method::POST, "/.idp/revoke", Client(revoke::handle)),
    (Method::POST, "/.idp/introspect", Client(introspect::handle)),
    (Method::GET, "/.auth/login", Browser(sign_in::show)),
    (Method::POST, "/.auth/login", Browser(sign_in::submit)),
    (Method::GET, "/.auth/account", Browser(account::show)),
    (Method::POST, "/.auth/account", Browser(account::submit)),
    (Method::GET, "/.auth/logo", Browser(sign_in::logo)),
    (Method::GET, "/.auth/google/callback", Browser(provider::google)),
    (Method::GET, "/.auth/github/callback", Browser(provider::github)),
    (Method::GET, "/.auth/oidc/callback", Browser(provider::oidc)),
    (Method::GET, "/.auth/logout", Browser(sign_in::logout_page)),
    (Method::POST, "/.auth/logout", Browser(sign_in::logout)),
];

/// Whether the process answers, for balancers.
const HEALTH: &str = "/.idp/healthz";

/// Paths that never reach the upstream server.
const OWN_PREFIXES: [&str; 3] = ["/.idp", "/.auth", "/.well-known"];

/// Header fields that a script of another origin may send, and below (`EXPOSED_FIELDS`) those that it may read.
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
const EXPOSED_FIELDS: &str = "WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version, X-Request-Id";

/// What a request is called in log lines; it is in each answer, and the MCP server is told.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The trace that a request belongs to (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Trusted reverse proxies, and the web origins and host names that are accepted.
#[derive(Clone)]
pub struct Surface {
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Web origins that may call the MCP endpoint, besides our own.
    pub allowed_origins: Vec<String>,
    /// Host names that requests may name, besides our own.
    pub allowed_hosts: Vec<String>,
}

/// The application: the handler of all requests.
pub struct App {
    /// What every handler needs.
    pub core: Arc<Core>,
    /// The authorization server.
    pub server: Arc<AuthorizationServer>,
    /// The sign-in and consent pages, for people at browsers.
    pub interactions: Interactions,
    /// Limits on upstream requests in flight and on open streams.
    pub admission: Admission,
    /// Limits on requests in a time.
    pub rate_limits: Arc<RateLimits>,
    /// Adds to requests who the user is.
    pub identity_fields: Option<Arc<IdentityFields>>,
    /// Event streams that are open.
    pub streams: OpenStreams,
    /// Trusted reverse proxies, and the web origins and host names that are accepted.
    pub surface: Surface,
    /// Reverse proxies that are not trusted and that the log has already warned about.
    pub unnamed: UnnamedProxies,
    /// Shows from outside what the proxies in between do.
    pub echo: Echo,
    /// Who learns of requests that have ended; `None` if nobody does.
    pub sinks: Option<Arc<Sinks>>,
}

impl Handler for App {
    fn handle(&self, mut request: Request<'_>) -> Response {
        let trusted = TrustedProxies(&self.surface.trusted_proxies);
        let chain = trusted.chain(request.peer, &request.parts.headers);
        if !trusted.contains(request.peer) {
            self.unnamed.note(request.peer, &request.parts.headers);
        }
        if trusted.contains(request.peer)
            && let Some(id) = request.parts.headers.get(REQUEST_ID).and_then(|id| RequestId::given(id.to_str().ok()?))
        {
            request.id = id;
        }
        let id = HeaderValue::from_str(request.id.as_str()).expect("an identifier is plain text");
        request.parts.headers.insert(REQUEST_ID, id.clone());
        let caller = Caller { address: chain[0], id: request.id };
        let (method, path) = (request.parts.method.clone(), request.parts.uri.path().to_string());
        let origin = request.parts.headers.get(ORIGIN).cloned();
        let mut record = self.sinks.as_ref().map(|sinks| Record::new(sinks, caller, &request.parts));
        let mut response = if path == HEALTH && matches!(method, Method::GET | Method::HEAD) {
            // Balancers ask by address.
            Response::text(StatusCode::OK, "ok")
        } else if self.sinks.as_ref().is_some_and(|sinks| sinks.required.as_ref().is_some_and(Lines::is_in_trouble)) {
            not_audited()
        } else if self.host_is_known(&request.parts.headers) {
            self.route(&mut request, chain, caller, &path, &mut record)
        } else {
            let host =
                request.parts.headers.get(HOST).map(|h| String::from_utf8_lossy(h.as_bytes())).unwrap_or_default();
            let shown: String = host.chars().take(100).collect();
            caller.event(Kind::HostRefused).with("host", shown).tell();
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
        response.headers.insert(REQUEST_ID, id);
        response.on_end = record.map(|mut record| {
            record.answered(response.status, is_event_stream(response.headers.get(CONTENT_TYPE)));
            record as Box<dyn OnEnd>
        });
        response
    }

    fn wants_body(&self, head: &Parts, _: IpAddr) -> bool {
        let path = head.uri.path();
        if is_own(path) {
            return ROUTES.iter().any(|(method, p, ..)| *method == head.method && *p == path);
        }
        let resources = self.server.resources.now();
        resources.at(path).is_some_and(|target| {
            let to = Destination { resources: &resources, target: &target, path };
            bearer::verify(&self.server.login, to, &head.headers).is_ok()
        })
    }

    fn exempt(&self, peer: IpAddr) -> bool {
        TrustedProxies(&self.surface.trusted_proxies).contains(peer)
    }
}

impl App {
    fn route(
        &self,
        request: &mut Request<'_>,
        chain: Vec<IpAddr>,
        caller: Caller,
        path: &str,
        record: &mut Option<Box<Record>>,
    ) -> Response {
        if path == "/" && is_navigation(&request.parts) {
            return sign_in::home(&self.interactions, request, caller);
        }
        if !is_own(path) {
            return self.resource(request, chain, caller, path, record);
        }
        if path == echo::PATH && request.parts.method == Method::GET {
            return self.echo.answer(request);
        }
        let is_well_known = path.starts_with("/.well-known/");
        let routes: Vec<_> = ROUTES.iter().filter(|(_, p, _)| *p == path).collect();
        let methods: Vec<Method> = match is_well_known {
            true => vec![Method::GET],
            false => routes.iter().map(|(method, ..)| method.clone()).collect(),
        };
        if methods.is_empty() {
            return not_found(request);
        }
        let is_open = is_well_known || matches!(routes[0].2, Client(_));
        let method = request.parts.method.clone();
        if method == Method::OPTIONS && is_open {
            return preflight(request, &methods);
        }
        let lookup = if method == Method::HEAD { Method::GET } else { method };
        let endpoint = routes.iter().find(|(method, ..)| *method == lookup).map(|(.., endpoint)| *endpoint);
        let mut response = match endpoint {
            Some(Client(handle)) => handle(&self.server, request, caller),
            Some(Browser(handle)) => handle(&self.interactions, request, caller),
            None if is_well_known && lookup == Method::GET => metadata::well_known(&self.server, path),
            None => {
                let allow = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
                Response::text(StatusCode::METHOD_NOT_ALLOWED, format!("the methods here are {allow}"))
                    .with(ALLOW, allow)
            }
        };
        if is_open {
            open_to_any_origin(&mut response);
        }
        response
    }

    /// Any other path is that of an MCP server.
    fn resource(
        &self,
        request: &mut Request<'_>,
        chain: Vec<IpAddr>,
        caller: Caller,
        path: &str,
        record: &mut Option<Box<Record>>,
    ) -> Response {
        let origin = request.parts.headers.get(ORIGIN).cloned();
        if let Some(origin) = &origin
            && !self.origin_is_allowed(origin)
        {
            let shown: String = origin.to_str().unwrap_or_default().chars().take(100).collect();
            caller.event(Kind::OriginRefused).with("origin", without_secrets(shown)).tell();
            return Response::text(
                StatusCode::FORBIDDEN,
                "requests of this web origin are not allowed (--allowed-origins)",
            )
            .with(VARY, "Origin");
        }
        let mut response = match request.parts.method {
            Method::OPTIONS => preflight(request, &[Method::GET, Method::POST, Method::DELETE]),
            _ => self.answer(request, chain, caller, path, record).unwrap_or_else(|refusal| *refusal),
        };
        if let Some(origin) = origin {
            response.headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_FIELDS));
        }
        response.headers.append(VARY, HeaderValue::from_static("Origin"));
        response
    }

    /// Passes a request on that has a good token and does not come too often.
    fn answer(
        &self,
        request: &mut Request<'_>,
        chain: Vec<IpAddr>,
        caller: Caller,
        path: &str,
        record: &mut Option<Box<Record>>,
    ) -> Result<Response, Box<Response>> {
        let of_address = self.rate_limits.of_address(caller.address);
        of_address.map_err(|refused| refuse(&refused, request, &Tool::None, caller.event(Kind::RateLimited)))?;
        let (target, principal) = self.authorize(request, path, caller)?;
        let mut call = self.call(request);
        let trace = call.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        let (server, tool, calls) = (&target.resource.name, std::mem::take(&mut call.tool), call.calls);
        if let Some(record) = record {
            record.admitted(server, &principal, call);
        }
        if let Some(trace) = trace {
            request.parts.headers.entry(TRACEPARENT).or_insert(trace);
        }
        self.rate_limits.of_principal(&principal, server, &tool, calls).map_err(|refused| {
            let event = caller.event(Kind::RateLimited).with("user", &principal.user);
            let name = self.sinks.as_ref().map(|sinks| sinks.names.of(&principal.client)).unwrap_or_default();
            let event = event.with("client", &principal.client).with("client_name", name).with("server", server);
            refuse(&refused, request, &tool, event)
        })?;
        let began = Instant::now();
        let answer = self.forward(request, &target, principal, chain, path);
        if let Some(record) = record {
            record.upstream_answered(began.elapsed());
        }
        Ok(answer)
    }

    /// What the request asks for, as far as somebody wants to know.
    fn call<'r>(&self, request: &'r Request<'_>) -> Call<'r> {
        let body = request.body.whole();
        let has_trace = || !request.parts.headers.contains_key(TRACEPARENT) && body.is_some_and(Call::may_have_trace);
        let arguments = self.sinks.as_ref().is_some_and(|sinks| sinks.has_arguments);
        let wanted = Wanted { arguments, tool: self.rate_limits.config().has_tools() };
        match self.sinks.is_some() || wanted.tool || has_trace() {
            true => Call::of(&request.parts, body, wanted),
            false => Call::default(),
        }
    }

    /// The server that has the path, and who asks it; or the response to a request that may not go there.
    fn authorize(
        &self,
        request: &Request<'_>,
        path: &str,
        caller: Caller,
    ) -> Result<(Target, Principal), Box<Response>> {
        // Not held for as long as the request takes: a server that a reload takes away ends when its own requests are done.
        let resources = self.server.resources.now();
        let target = resources.at(path).ok_or_else(|| Box::new(no_server(request)))?;
        let (to, headers) = (Destination { resources: &resources, target: &target, path }, &request.parts.headers);
        match bearer::principal(&self.server.login, &self.server.seen, to, headers, caller) {
            Ok(principal) => Ok((target, principal)),
            Err(denial) => {
                if let Denial::BadToken(why) = denial {
                    let event = caller.event(Kind::BearerTokenRefused).with("server", &target.resource.name);
                    event.with("reason", why).tell();
                }
                Err(Box::new(challenge::challenge(&self.core, to, headers, denial)))
            }
        }
    }

    /// Passes a request on to its MCP server, if there is room for it.
    fn forward(
        &self,
        request: &mut Request<'_>,
        target: &Target,
        principal: Principal,
        chain: Vec<IpAddr>,
        path: &str,
    ) -> Response {
        if request.parts.method == Method::TRACE {
            let why = "TRACE is not allowed: its answer would show the request's own fields";
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, why).with(ALLOW, "GET, POST, DELETE");
        }
        let permit = match self.admission.enter(newcomer(request, target, principal.user.clone())) {
            Ok(permit) => permit,
            Err(busy) => return *busy,
        };
        let fields =
            self.identity_fields.as_ref().map(|fields| fields.of(&principal, &target.resource)).unwrap_or_default();
        let identity = ForwardedIdentity { principal, chain, base: path[..target.base].to_string(), fields };
        let response = target.resource.upstream.forward(request, &identity);
        let is_stream = is_event_stream(response.headers.get(CONTENT_TYPE));
        let response = permit.attach(response, is_stream);
        match is_stream {
            true => {
                let (name, is_endless) = (&target.resource.name, request.parts.method == Method::GET);
                self.streams.attach(response, name, is_endless, &identity.principal, &request.client)
            }
            false => response,
        }
    }

    /// True for the external URL's host, loopback and `--allowed-hosts`. Any other Host may be DNS rebinding.
    fn host_is_known(&self, headers: &HeaderMap) -> bool {
        let Some(host) = headers.get(HOST) else { return true };
        let Ok(host) = host.to_str() else { return false };
        let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
        let host = authority.host().to_ascii_lowercase();
        host == self.core.external.host || is_loopback_host(&host) || self.surface.allowed_hosts.contains(&host)
    }

    /// True for this origin, loopback and `--allowed-origins`.
    fn origin_is_allowed(&self, origin: &HeaderValue) -> bool {
        let Some(url) = origin.to_str().ok().and_then(|o| ExternalUrl::parse(o).ok()) else { return false };
        url.origin == self.core.external.origin
            || url.is_loopback()
            || self.surface.allowed_origins.contains(&url.origin)
    }
}

/// Describes the request for [`Admission::enter`]. Its body may still be arriving.
fn newcomer(request: &mut Request<'_>, target: &Target, user: UserId) -> Newcomer {
    let wants_stream = request.parts.method == Method::GET || wants_event_stream(&request.parts.headers);
    let arriving = request.body.arriving().map(|body| body.is_under_way());
    let upload = arriving.map(|is_under_way| (Arc::downgrade(request.client.connection()), is_under_way));
    let (server, most) = (target.resource.name.clone(), target.resource.max_requests);
    Newcomer { server, most, user, wants_stream, upload }
}

/// Does a person at a browser open a page? An MCP client names no `text/html`, and sends a token once it has one.
fn is_navigation(head: &Parts) -> bool {
    let accepts_html = head.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"));
    head.method == Method::GET && accepts_html && !head.headers.contains_key(AUTHORIZATION)
}

/// True if `path` is never passed on to the upstream server.
fn is_own(path: &str) -> bool {
    OWN_PREFIXES.iter().any(|p| path.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Refuses a request that came too soon, and tells it with what `event` knows.
fn refuse(refused: &TooMany, request: &Request<'_>, tool: &Tool, event: Event) -> Box<Response> {
    let shown = if let Tool::Named(name) = tool { name } else { "" };
    let event = event.with("limit", refused.limit).with("tool", shown).count("most", refused.of.rate);
    event.count("seconds", refused.seconds()).tell();
    Box::new(refused.response(request.body.whole(), tool))
}

/// The audit log can't be written, and is required.
fn not_audited() -> Response {
    let text = "requests can't be written to the audit log just now, so none is answered; try again in a minute";
    let body = serde_json::json!({"error": "temporarily_unavailable", "error_description": text});
    Response::json(StatusCode::SERVICE_UNAVAILABLE, &body).with(RETRY_AFTER, 60)
}

/// No server is published at this path, or not any more.
fn no_server(request: &Request<'_>) -> Response {
    let path: String = request.parts.uri.path().chars().take(80).collect();
    let text = format!("no MCP server is published at {path}");
    Response::json(StatusCode::NOT_FOUND, &serde_json::json!({"error": "not_found", "error_description": text}))
}

fn not_found(request: &Request<'_>) -> Response {
    let text = format!("there is nothing at {}", request.parts.uri.path().chars().take(80).collect::<String>());
    Response::json(StatusCode::NOT_FOUND, &serde_json::json!({"error": "not_found", "error_description": text}))
}

/// Answers `OPTIONS`, which a browser sends before a request to another origin (Fetch standard, CORS preflight).
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
