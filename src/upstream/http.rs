//! An MCP server at a URL: requests and answers are streamed through, in both directions, as they come.

use std::io::{self, Cursor, Read};
use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, SendBody};

use super::endpoint::{Announced, EndpointRewriter};
use super::redirects::Redirects;
use super::transport::TcpConnector;
use super::{Origin, Upstream, headers};
use crate::config::{ExternalUrl, UpstreamConfig, UpstreamUrl};
use crate::http::head::Framing;
use crate::http::{Body, BodyError, Drain, Payload, Request, RequestId, Response};
use crate::mcp::jsonrpc;
use crate::net::interrupt::{self, Interrupted};
use crate::net::resolver::CachingResolver;

/// A body up to this size is held, so that it can be sent again after a redirect.
const HELD_BODY: usize = 64 << 10;
/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 3;
const BUFFER: usize = 16 << 10;
const MAX_RESPONSE_HEAD: usize = 64 << 10;
/// Node ends an idle connection after five seconds; a request that races with that end would be lost.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// The server.
pub struct HttpUpstream {
    agent: Agent,
    url: UpstreamUrl,
    config: UpstreamConfig,
    external: ExternalUrl,
    drain: Drain,
    redirects: Redirects,
    announced: Announced,
}

impl HttpUpstream {
    /// A server at `url`; nothing is sent yet.
    pub fn new(url: UpstreamUrl, config: UpstreamConfig, external: ExternalUrl, drain: Drain) -> HttpUpstream {
        let settings = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_response_header_size(MAX_RESPONSE_HEAD)
            .max_idle_connections(256)
            .max_idle_connections_per_host(256)
            .max_idle_age(MAX_IDLE)
            .timeout_connect(Some(config.connect_timeout))
            .timeout_recv_response(Some(config.response_timeout))
            .build();
        let connector = TcpConnector.chain(RustlsConnector::default());
        let agent = Agent::with_parts(settings, connector, CachingResolver::default());
        HttpUpstream {
            agent,
            url,
            config,
            external,
            drain,
            redirects: Redirects::default(),
            announced: Announced::default(),
        }
    }

    fn uri(&self, target: &str) -> Result<Uri, ::http::Error> {
        Uri::builder()
            .scheme(self.url.scheme.clone())
            .authority(self.url.authority.clone())
            .path_and_query(target)
            .build()
    }

    /// The path and query at the upstream server: its own path is a prefix.
    fn target(&self, uri: &Uri) -> String {
        let asked = uri.path_and_query().map_or("/", |p| p.as_str());
        if !self.url.prefix.is_empty() && self.announced.contains(uri.path()) {
            return asked.to_string();
        }
        match asked.strip_prefix('/') {
            // The prefix itself, as the user typed it: without a slash at its end.
            Some(rest) if !self.url.prefix.is_empty() && (rest.is_empty() || rest.starts_with('?')) => {
                format!("{}{rest}", self.url.prefix)
            }
            _ => format!("{}{asked}", self.url.prefix),
        }
    }

    /// A redirect of the upstream server, as the client sees it.
    fn location_for_client(&self, target: &str) -> Option<String> {
        let rest = target.strip_prefix(self.url.prefix.as_str())?;
        match rest.chars().next() {
            Some('/') => Some(rest.to_string()),
            None | Some('?') => Some(format!("/{rest}")),
            _ => None,
        }
    }

    fn exchange(&self, request: &mut Request<'_>, origin: &Origin, held: &Held) -> Result<Response, Failure> {
        let id = request.id;
        let fields = headers::request(&request.parts.headers, origin, &self.external, &self.config);
        if has_dot_segment(request.parts.uri.path()) {
            return Err(Failure::BadRequest("the path has a dot segment, which servers read in different ways"));
        }
        let asked = self.target(&request.parts.uri);
        let method = &request.parts.method;
        let mut target = self.redirects.follow(method, &asked).unwrap_or_else(|| asked.clone());
        for hop in 0.. {
            let uri = self.uri(&target).map_err(|_| Failure::BadRequest("the request target can't be passed on"))?;
            let answer = self.send(method, uri.clone(), fields.clone(), held, &mut request.body)?;
            let (mut parts, body) = answer.into_parts();
            let redirect = matches!(parts.status.as_u16(), 307 | 308);
            let next = parts.status.is_redirection().then(|| headers::location_on_host(&parts.headers, &uri)).flatten();
            if let (true, true, Some(next)) = (redirect, held.complete, &next) {
                if hop >= MAX_REDIRECTS || *next == target {
                    self.redirects.forget(method, &asked);
                    return Err(Failure::Broken("it redirects without end".into()));
                }
                self.redirects.learn(method, &asked, next);
                target = next.clone();
                continue;
            }
            if parts.status.is_client_error() && target != asked {
                self.redirects.forget(method, &asked);
            }
            if let Some(location) = next.and_then(|n| self.location_for_client(&n))
                && let Ok(location) = HeaderValue::try_from(location)
            {
                parts.headers.insert(LOCATION, location);
            }
            if parts.status.is_informational() {
                return Err(Failure::Broken(format!("it answered {}, which nobody asked for", parts.status.as_u16())));
            }
            if parts.status == StatusCode::UNAUTHORIZED {
                return Err(Failure::Unauthorized);
            }
            return Ok(self.answer(parts.status, parts.headers, body, method, id));
        }
        unreachable!("the loop ends by its own limit")
    }

    fn send(
        &self,
        method: &Method,
        uri: Uri,
        mut fields: HeaderMap,
        held: &Held,
        rest: &mut Body<'_>,
    ) -> Result<::http::Response<ureq::Body>, Failure> {
        let mut outgoing = ::http::Request::new(());
        *outgoing.method_mut() = method.clone();
        *outgoing.uri_mut() = uri;
        if let (Framing::Length(n), false) = (held.framing, held.complete) {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(n));
        }
        *outgoing.headers_mut() = fields;
        // RFC 9110 section 8.6: methods that usually have a body say so when it is empty.
        let usually_has_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        let result = match (held.framing, held.complete) {
            (Framing::None, _) if !usually_has_body => self.agent.run(outgoing),
            (_, true) => self.agent.run(outgoing.map(|()| held.bytes.as_slice())),
            (_, false) => {
                let mut streamed = Cursor::new(&held.bytes).chain(rest);
                self.agent.run(outgoing.map(|()| SendBody::from_reader(&mut streamed)))
            }
        };
        result.map_err(Failure::of)
    }

    fn answer(
        &self,
        status: StatusCode,
        fields: HeaderMap,
        body: ureq::Body,
        method: &Method,
        id: RequestId,
    ) -> Response {
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
            // Reverse proxies before this one would hold events back.
            const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
            response.headers.entry(X_ACCEL_BUFFERING).or_insert(HeaderValue::from_static("no"));
        }
        response.body = if *method == Method::HEAD || matches!(status.as_u16(), 204 | 304) {
            Payload::Head(length)
        } else {
            // A GET stream is there for whatever may come; the answer to a POST is a request that is being served.
            let endless = is_stream && *method == Method::GET;
            let answer = Answer { body: body.into_reader(), is_stream, endless, id };
            let reader: Box<dyn Read + Send> = match endless && length.is_none() && !self.url.prefix.is_empty() {
                true => Box::new(EndpointRewriter::new(answer, self.url.clone(), self.announced.clone())),
                false => Box::new(answer),
            };
            Payload::Stream { reader, length }
        };
        response
    }
}

/// Has the path a segment `.` or `..`, in any spelling that some server would read as one? It could lead out of the
/// prefix, or past a rule of a server in between.
fn has_dot_segment(path: &str) -> bool {
    if !path.contains('.') && !path.contains('%') {
        return false;
    }
    let decoded = percent_encoding::percent_decode_str(path).collect::<Vec<u8>>();
    decoded.split(|b| matches!(b, b'/' | b'\\')).any(|segment| matches!(segment, b"." | b".."))
}

/// Is this the type of server-sent events?
pub fn is_event_stream(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

/// Does the client ask for server-sent events?
fn wants_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.to_ascii_lowercase().contains("text/event-stream"))
}

impl Upstream for HttpUpstream {
    fn forward(&self, request: &mut Request<'_>, origin: &Origin) -> Response {
        if self.config.streaming_only
            && request.parts.method == Method::GET
            && wants_event_stream(&request.parts.headers)
        {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "this server offers no event stream by GET")
                .with(::http::header::ALLOW, "POST, DELETE");
        }
        interrupt::on_behalf_of(request.socket.clone(), self.drain.clone());
        let held = match Held::read(&mut request.body) {
            Ok(held) => held,
            Err(e) => return refusal(&Failure::of_body(&e), &[], &Told { id: request.id, origin, url: &self.url }),
        };
        let id = request.id;
        let told = Told { id, origin, url: &self.url };
        self.exchange(request, origin, &held).unwrap_or_else(|failure| refusal(&failure, &held.bytes, &told))
    }

    fn endpoint(&self) -> Option<&str> {
        None
    }
}

/// The beginning of a request body, or all of a short one.
struct Held {
    bytes: Vec<u8>,
    framing: Framing,
    /// Nothing follows.
    complete: bool,
}

impl Held {
    fn read(body: &mut Body<'_>) -> io::Result<Held> {
        let framing = body.framing();
        let mut bytes = Vec::new();
        if framing != Framing::None {
            body.take(HELD_BODY as u64).read_to_end(&mut bytes)?;
        }
        let complete = match framing {
            Framing::None => true,
            Framing::Length(n) => bytes.len() as u64 == n,
            Framing::Chunked => bytes.len() < HELD_BODY,
        };
        Ok(Held { bytes, framing, complete })
    }
}

/// The body of an answer on its way to the client.
struct Answer {
    body: ureq::BodyReader<'static>,
    /// Server-sent events: it may end at any event.
    is_stream: bool,
    /// Ends as soon as the process is told to stop.
    endless: bool,
    id: RequestId,
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result =
            if self.endless { interrupt::as_stream(|| self.body.read(buffer)) } else { self.body.read(buffer) };
        let Err(error) = &result else { return result };
        match Interrupted::of(error) {
            // The stream ends as if the server had ended it: clients connect again.
            Some(Interrupted::Draining) if self.is_stream => return Ok(0),
            Some(Interrupted::Draining) => log::info!(request:% = self.id; "an answer was cut: the process stops"),
            Some(Interrupted::ClientGone) => {
                log::debug!(request:% = self.id; "the client left before the end of the answer")
            }
            None => log::warn!(request:% = self.id, error:% = error; "the upstream server broke off within an answer"),
        }
        result
    }
}

/// Why there is no answer to pass on.
enum Failure {
    /// The client's body can't be read.
    Body(BodyError),
    /// The client's request can't be expressed.
    BadRequest(&'static str),
    ClientGone,
    Draining,
    /// Not reachable.
    Down(String),
    /// No answer in time.
    Slow(&'static str),
    /// An answer that is none.
    Broken(String),
    /// The upstream server wants credentials of its own.
    Unauthorized,
}

impl Failure {
    fn of_body(error: &io::Error) -> Failure {
        Failure::Body(BodyError::of(error).unwrap_or(BodyError::Gone))
    }

    fn of(error: ureq::Error) -> Failure {
        match error {
            ureq::Error::Io(e) => match (BodyError::of(&e), Interrupted::of(&e), e.kind()) {
                (Some(body), _, _) => Failure::Body(body),
                (_, Some(Interrupted::ClientGone), _) => Failure::ClientGone,
                (_, Some(Interrupted::Draining), _) => Failure::Draining,
                (_, _, io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => Failure::Broken(e.to_string()),
                _ => Failure::Down(e.to_string()),
            },
            ureq::Error::Timeout(ureq::Timeout::Connect) => {
                Failure::Slow("no connection within --upstream-connect-timeout (UPSTREAM_CONNECT_TIMEOUT)")
            }
            ureq::Error::Timeout(_) => {
                Failure::Slow("no answer within --upstream-response-timeout (UPSTREAM_RESPONSE_TIMEOUT)")
            }
            ureq::Error::HostNotFound => Failure::Down("its host name can't be resolved".into()),
            ureq::Error::ConnectionFailed => Failure::Down("no connection".into()),
            ureq::Error::Rustls(e) => Failure::Down(e.to_string()),
            other => Failure::Broken(other.to_string()),
        }
    }
}

/// Where trouble with the upstream server arose, for the log.
struct Told<'t> {
    id: RequestId,
    origin: &'t Origin,
    url: &'t UpstreamUrl,
}

impl Told<'_> {
    fn log(&self, level: log::Level, error: &str, message: &str) {
        let Origin { principal, chain } = self.origin;
        log::log!(
            level, request:% = self.id, user:% = principal.user, client:% = principal.client, address:% = chain[0], upstream:% = self.url, error = error;
            "{message}"
        );
    }
}

/// What the client is told, and what the operator is told in the log.
fn refusal(failure: &Failure, body: &[u8], told: &Told<'_>) -> Response {
    let answer = |status, text: &str| jsonrpc::error(status, Some(body), jsonrpc::INTERNAL_ERROR, text);
    match failure {
        Failure::Body(error) => Response::text(error.status(), error.to_string()),
        Failure::BadRequest(why) => Response::text(StatusCode::BAD_REQUEST, *why),
        Failure::ClientGone => {
            told.log(log::Level::Debug, "", "the client left before the answer");
            answer(StatusCode::BAD_GATEWAY, "the client went away")
        }
        Failure::Draining => answer(StatusCode::SERVICE_UNAVAILABLE, "the proxy is stopping; try again"),
        Failure::Down(why) => {
            told.log(log::Level::Warn, why, "the upstream server can't be reached");
            answer(StatusCode::BAD_GATEWAY, "the MCP server can't be reached")
        }
        Failure::Slow(why) => {
            told.log(log::Level::Warn, why, "the upstream server is too slow");
            answer(StatusCode::GATEWAY_TIMEOUT, "the MCP server did not answer in time")
        }
        Failure::Broken(why) => {
            told.log(log::Level::Warn, why, "the upstream server's answer is broken");
            answer(StatusCode::BAD_GATEWAY, "the MCP server's answer is broken")
        }
        Failure::Unauthorized => {
            // Passed on, it would send the client into an OAuth loop.
            let way_out =
                "give it its token with --proxy-bearer-token (PROXY_BEARER_TOKEN) or --proxy-headers (PROXY_HEADERS)";
            told.log(log::Level::Error, way_out, "the upstream server answered 401");
            answer(
                StatusCode::BAD_GATEWAY,
                "the MCP server refused the proxy's credentials; its operator finds the reason in the log",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_seen_in_every_spelling() {
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
        ] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/", "/mcp", "/a.b/..c", "/...", "/%2eidp", "/a%20b", "/.hidden"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
