//! An MCP server at a URL: requests and answers are streamed through, in both directions, as they come.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRANSFER_ENCODING};
use ::http::uri::Scheme;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::check::Trouble;
use super::config::UpstreamConfig;
use super::endpoint::{Announced, EndpointRewriter};
use super::failure::{Failure, Told, refusal};
use super::forward::{ForwardedIdentity, Upstream};
use super::redirects::Redirects;
use super::{check, headers};
use crate::http::body::Arriving;
use crate::http::client::{Client, Incoming, IncomingBody, Outgoing};
use crate::http::h1::head::Framing;
use crate::http::{Body, Payload, Request, RequestId, Response};
use crate::lock::Unpoisoned;
use crate::mcp::jsonrpc;
use crate::net::cancellation::{Cancellation, Cancelled};
use crate::net::tls;
use crate::observe::events::{Event, Kind};
use crate::url::{ExternalUrl, UpstreamUrl};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 3;

/// An MCP server at a URL.
pub struct HttpUpstream {
    client: Arc<Client>,
    /// The client for the check at startup, which waits less long for an answer.
    checker: Arc<Client>,
    url: UpstreamUrl,
    config: UpstreamConfig,
    /// Fields that every request has.
    fixed: headers::Fixed,
    redirects: Redirects,
    announced: Announced,
    /// It did not answer the last time.
    is_down: AtomicBool,
    /// What it says about itself.
    about: Mutex<Option<String>>,
}

impl HttpUpstream {
    /// The server of `config`; nothing is sent yet. The error is one line.
    pub fn new(config: UpstreamConfig, external: &ExternalUrl) -> Result<HttpUpstream, String> {
        let url = config.url.clone();
        let tls = if url.scheme == Scheme::HTTPS { Some(trust(&url, &config)?) } else { None };
        let patience = config.response_timeout.min(check::ANSWER_TIMEOUT);
        let checker = Client::new(url.clone(), tls.clone(), config.connect_timeout, patience);
        let client = Client::new(url.clone(), tls, config.connect_timeout, config.response_timeout);
        Ok(HttpUpstream {
            client: Arc::new(client),
            checker: Arc::new(checker),
            url,
            fixed: headers::Fixed::new(external, &config),
            config,
            redirects: Redirects::default(),
            announced: Announced::default(),
            is_down: AtomicBool::new(false),
            about: Mutex::default(),
        })
    }

    /// The path and query for the upstream server: the path of the upstream URL is a prefix. A path that a server has
    /// announced for messages is the one that it announced.
    fn target(&self, method: &Method, uri: &Uri, base: &str) -> String {
        let asked = uri.path_and_query().map_or("/", |p| p.as_str());
        let behind = if *method == Method::POST { self.announced.behind(uri.path()) } else { None };
        let own = || self.config.is_endpoint.then(|| self.below_endpoint(uri.path(), base));
        if let Some(path) = behind.or_else(own) {
            let query: Vec<&str> = [uri.query(), self.config.query.as_deref()].into_iter().flatten().collect();
            return if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
        }
        if self.is_habitual(uri.path()) {
            let path =
                if uri.path().ends_with('/') { format!("{}/", self.url.prefix) } else { self.url.prefix.clone() };
            return uri.query().map_or(path.clone(), |query| format!("{path}?{query}"));
        }
        match asked.strip_prefix('/') {
            // A request for `/` goes to the prefix itself, without a slash at its end.
            Some(rest) if !self.url.prefix.is_empty() && (rest.is_empty() || rest.starts_with('?')) => {
                format!("{}{rest}", self.url.prefix)
            }
            _ => format!("{}{asked}", self.url.prefix),
        }
    }

    /// The server's path where its URL is that of the endpoint: what stands behind `/mcp` or `/sse` is put behind it.
    fn below_endpoint(&self, path: &str, base: &str) -> String {
        let rest = &path[endpoint_of(path, base).len()..];
        match self.url.prefix.as_str() {
            "" if rest.is_empty() => "/".into(),
            prefix => format!("{prefix}{rest}"),
        }
    }

    /// Does the path of the upstream URL end in `path`? Users type `/mcp` in the client even if the upstream URL
    /// already ends in `/mcp`.
    fn is_habitual(&self, path: &str) -> bool {
        let path = path.strip_suffix('/').unwrap_or(path);
        !path.is_empty() && self.url.prefix.ends_with(path)
    }

    /// Notes that the server has answered, or why it has not; tells when that changes.
    fn note(&self, trouble: Option<&str>) {
        if self.is_down.load(Ordering::Relaxed) == trouble.is_some() {
            return;
        }
        let was_down = self.is_down.swap(trouble.is_some(), Ordering::Relaxed);
        let told = |kind| Event::new(kind).with("server", &self.config.server);
        match trouble {
            Some(why) if !was_down => told(Kind::ServerDown).with("reason", why).tell(),
            None if was_down => told(Kind::ServerUp).tell(),
            _ => {}
        }
    }

    /// Where an answer to a request for `target` redirects to, on the same server.
    fn location(&self, fields: &HeaderMap, target: &str) -> Option<String> {
        let url = Uri::builder().scheme(self.url.scheme.clone()).authority(self.url.authority.clone());
        headers::location_on_host(fields, &url.path_and_query(target).build().ok()?)
    }

    /// The target of a redirect as the client has to request it, who has requested `path`: without the prefix. `None` if it
    /// is outside the prefix.
    fn location_for_client(&self, target: &str, path: &str, base: &str) -> Option<String> {
        let rest = target.strip_prefix(self.url.prefix.as_str())?;
        let before = if self.config.is_endpoint { endpoint_of(path, base) } else { "" };
        match rest.chars().next() {
            Some('/') => Some(format!("{before}{rest}")),
            None | Some('?') if before.is_empty() => Some(format!("/{rest}")),
            None | Some('?') => Some(format!("{before}{rest}")),
            _ => None,
        }
    }

    fn exchange(
        &self,
        request: &mut Request<'_>,
        identity: &ForwardedIdentity,
        held: &Held,
    ) -> Result<Response, Failure> {
        let fields = headers::request(&request.parts.headers, identity, &self.fixed);
        if let Some(why) = ambiguity(request.parts.uri.path()) {
            return Err(Failure::BadRequest(why));
        }
        let asked = self.target(&request.parts.method, &request.parts.uri, &identity.base);
        let method = &request.parts.method;
        let mut target = self.redirects.follow(method, &asked).unwrap_or_else(|| asked.clone());
        for hop in 0.. {
            let answer = self.client.exchange(Outgoing {
                method,
                target: &target,
                fields: &fields,
                held: &held.bytes,
                rest: if held.complete { None } else { request.body.arriving().map(|rest| rest as &mut dyn Arriving) },
                framing: held.framing,
                cancellation: Cancellation::of_request(&request.client),
                is_repeatable: &|| is_repeatable(method, held),
            })?;
            let Incoming { status, fields: mut answered, body } = answer;
            let redirect = matches!(status.as_u16(), 307 | 308);
            let next = if status.is_redirection() { self.location(&answered, &target) } else { None };
            if let (true, true, Some(next)) = (redirect, held.complete, &next) {
                if hop >= MAX_REDIRECTS || *next == target {
                    self.redirects.forget(method, &asked);
                    return Err(Failure::Broken("it redirects without end".into()));
                }
                self.redirects.learn(method, &asked, next);
                target = next.clone();
                continue;
            }
            if status.is_client_error() && target != asked {
                self.redirects.forget(method, &asked);
            }
            if let Some(location) =
                next.and_then(|n| self.location_for_client(&n, request.parts.uri.path(), &identity.base))
                && let Ok(location) = HeaderValue::try_from(location)
            {
                answered.insert(LOCATION, location);
            }
            if status.is_informational() {
                return Err(Failure::Broken(format!("it answered {}, which nobody asked for", status.as_u16())));
            }
            if status == StatusCode::UNAUTHORIZED {
                return Err(Failure::Unauthorized);
            }
            return Ok(self.answer(status, answered, body, request, &target));
        }
        unreachable!("the loop ends by its own limit")
    }

    /// The answer to a request that was sent to `target`.
    fn answer(
        &self,
        status: StatusCode,
        fields: HeaderMap,
        mut body: IncomingBody,
        request: &Request<'_>,
        target: &str,
    ) -> Response {
        let method = &request.parts.method;
        // RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length.
        let length = fields
            .get(CONTENT_LENGTH)
            .filter(|_| !fields.contains_key(TRANSFER_ENCODING))
            .and_then(|v| v.to_str().ok())
            .and_then(|t| t.parse::<u64>().ok());
        let is_stream = is_event_stream(fields.get(CONTENT_TYPE));
        let mut response = Response::new(status);
        response.headers = headers::response(fields);
        if is_stream {
            // Without it, reverse proxies in front of this one would buffer events.
            const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
            response.headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
        }
        response.body = if *method == Method::HEAD || matches!(status.as_u16(), 204 | 304) {
            Payload::Head(length)
        } else {
            // A GET stream is open-ended, so it is cut as soon as streams are told to stop. A stream that answers a
            // POST belongs to a request in progress, which may still finish.
            let endless = is_stream && *method == Method::GET;
            if endless {
                body.set_cancellation(Cancellation::of_stream(&request.client));
            }
            let answer = Answer { body, is_stream, id: request.id };
            let reader: Box<dyn Read + Send> = match endless && length.is_none() {
                true => {
                    let (url, path) = (self.url.clone(), request.parts.uri.path());
                    Box::new(EndpointRewriter::new(answer, url, path, target, self.announced.clone()))
                }
                false => Box::new(answer),
            };
            Payload::Stream { reader, length }
        };
        response
    }
}

/// May the request be sent again if the server may have received the first attempt? Decided by the HTTP method (RFC
/// 9110 section 9.2.2), or for a POST by the JSON-RPC methods in its body, which must all be safe to repeat.
fn is_repeatable(method: &Method, held: &Held) -> bool {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE => true,
        Method::POST => held.complete && jsonrpc::only_asks(&held.bytes),
        _ => false,
    }
}

/// Why servers could read `path` in different ways, or `None`. A segment `.` or `..`, in any spelling that some server
/// accepts, could lead out of the prefix, or past a rule of a server in between. Some servers end or change the path at
/// a control character or at invalid percent-encoding.
fn ambiguity(path: &str) -> Option<&'static str> {
    if !path.contains(['.', '%']) {
        return None;
    }
    let digits = |escape: &str| escape.get(..2).is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    if !path.split('%').skip(1).all(digits) {
        return Some("the path has a percent sign that encodes nothing");
    }
    let decoded = percent_encoding::percent_decode_str(path).collect::<Vec<u8>>();
    if decoded.iter().any(u8::is_ascii_control) {
        return Some("the path has an encoded control character");
    }
    let is_dot = |segment: &[u8]| matches!(segment.split(|b| *b == b';').next(), Some(b"." | b".."));
    let dots = decoded.split(|b| matches!(b, b'/' | b'\\')).any(is_dot);
    dots.then_some("the path has a dot segment, which servers read in different ways")
}

/// The beginning of a client's path, up to its `/mcp` or `/sse` behind `base`.
fn endpoint_of<'p>(path: &'p str, base: &str) -> &'p str {
    let start = (base.len() + 1).min(path.len());
    &path[..path[start..].find('/').map_or(path.len(), |end| start + end)]
}

/// Is this the type of server-sent events?
pub fn is_event_stream(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

/// Does the client ask for server-sent events?
pub fn wants_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.to_ascii_lowercase().contains("text/event-stream"))
}

impl Upstream for HttpUpstream {
    fn forward(&self, request: &mut Request<'_>, identity: &ForwardedIdentity) -> Response {
        if self.config.streaming_only
            && request.parts.method == Method::GET
            && wants_event_stream(&request.parts.headers)
        {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "this server offers no event stream by GET")
                .with(::http::header::ALLOW, "POST, DELETE");
        }
        let held = match Held::read(&mut request.body) {
            Ok(held) => held,
            Err(e) => {
                return refusal(
                    &Failure::of_body(&e),
                    &[],
                    &Told { id: request.id, identity, server: &self.config.server, url: &self.url },
                );
            }
        };
        let id = request.id;
        let told = Told { id, identity, server: &self.config.server, url: &self.url };
        let answered = self.exchange(request, identity, &held);
        self.note(match &answered {
            Err(Failure::Down(why) | Failure::Closed(why) | Failure::Broken(why)) => Some(why),
            Err(Failure::Slow(why)) => Some(why),
            _ => None,
        });
        answered.unwrap_or_else(|failure| refusal(&failure, &held.bytes, &told))
    }

    fn check(&self) -> Result<(), Trouble> {
        let query = self.config.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let usual = |path: &str| match self.url.prefix.as_str() {
            "" if self.config.is_endpoint => format!("/{query}"),
            "" => path.to_string(),
            prefix => format!("{prefix}{query}"),
        };
        let found = check::check(&self.checker, &usual("/mcp"), &usual("/sse"), &self.fixed.all());
        // Whoever checks tells what is wrong.
        self.is_down.store(found.is_err(), Ordering::Relaxed);
        *self.about.lock().unpoisoned() = found?;
        Ok(())
    }

    fn about(&self) -> Option<String> {
        self.about.lock().unpoisoned().clone()
    }

    fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    fn tidy(&self) {
        self.client.tidy();
    }

    fn endpoint(&self) -> Option<&str> {
        None
    }
}

/// The TLS configuration, and the name that the certificate of the server at `url` must have.
fn trust(url: &UpstreamUrl, config: &UpstreamConfig) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let host = url.authority.host().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_string())
        .map_err(|_| format!("the host of the upstream URL '{url}' is no name that a certificate could have"))?;
    if !config.insecure_skip_verify {
        return Ok((tls::client_config("--ca-file (CA_FILE)", config.ca_file.as_deref())?, name));
    }
    log::warn!(upstream:% = url; "--upstream-insecure-skip-verify (UPSTREAM_INSECURE_SKIP_VERIFY): the upstream server's certificate is not checked, so anyone on the network path can read and change the traffic; give its certificate with --ca-file (CA_FILE) instead");
    Ok((tls::unverified_config()?, name))
}

/// The beginning of a request body, or all of a short one, which can be sent again after a redirect.
struct Held {
    bytes: Vec<u8>,
    framing: Framing,
    /// True if `bytes` is the whole body.
    complete: bool,
}

impl Held {
    fn read(body: &mut Body<'_>) -> io::Result<Held> {
        let framing = body.framing();
        let (bytes, complete) = body.hold()?;
        Ok(Held { bytes, framing, complete })
    }
}

/// The body of an answer on its way to the client.
struct Answer {
    body: IncomingBody,
    /// Server-sent events: it may end at any event.
    is_stream: bool,
    id: RequestId,
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.body.read(buffer);
        let Err(error) = &result else { return result };
        match Cancelled::of(error) {
            // End the stream as if the server had ended it, so that clients reconnect.
            Some(Cancelled::ShuttingDown) if self.is_stream => return Ok(0),
            Some(Cancelled::ShuttingDown) => log::info!(request:% = self.id; "an answer was cut: the process stops"),
            Some(Cancelled::ClientGone) => {
                log::debug!(request:% = self.id; "the client left before the end of the answer")
            }
            None => log::warn!(request:% = self.id, error:% = error; "the upstream server broke off within an answer"),
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_servers_read_in_different_ways_are_seen() {
        for path in [
            "/..",
            "/../a",
            "/a/..",
            "/a/./b",
            "/%2e%2e/a",
            "/.%2E/a",
            "/a%2f..%2fb",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/%2e",
            "/..;/a",
            "/a/..;x=1/b",
            "/a%00",
            "/a%0d%0ab",
            "/a%7f",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%u002e",
        ] {
            assert!(ambiguity(path).is_some(), "{path}");
        }
        for path in ["/", "/mcp", "/a.b/..c", "/...", "/%2eidp", "/a%20b", "/.hidden", "/a%2Fb", "/%e2%82%ac", "/a;b=c"]
        {
            assert_eq!(ambiguity(path), None, "{path}");
        }
    }
}
