//! HTTP/1.1 with one server (RFC 9112): keeps connections for further requests, streams bodies in both directions.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::idle::{Connection, IdleConnections};
use super::incoming_body::{IncomingBody, PIECE};
use super::proxies::OutboundProxy;
use super::response_head::ResponseHead;
use crate::http::body::Arriving;
use crate::http::h1::framing::BodyError;
use crate::http::h1::head::Framing;
use crate::http::h1::input::Input;
use crate::net::cancellation::Cancellation;
use crate::net::resolver::CachingResolver;
use crate::net::socket::{LatencyEstimate, Socket};
use crate::net::transport::{Either, Transport};
use crate::url::UpstreamUrl;

const MAX_HEAD: usize = 64 << 10;

/// Sends requests to one server: opens connections and keeps them.
pub(crate) struct Client {
    url: UpstreamUrl,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    resolver: CachingResolver,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// The outbound proxy, if there is one.
    proxy: Option<OutboundProxy>,
    /// The only address to connect to; the name is not resolved.
    pinned: Option<SocketAddr>,
    latency: LatencyEstimate,
    idle: Arc<IdleConnections>,
}

/// A request. `fields` are sent as they are; Host and the framing fields are added here.
pub(crate) struct Outgoing<'r> {
    pub(crate) method: &'r Method,
    /// Path and query.
    pub(crate) target: &'r str,
    pub(crate) fields: &'r HeaderMap,
    /// The part of the body that has arrived: all of it if `rest` is absent.
    pub(crate) held: &'r [u8],
    pub(crate) rest: Option<&'r mut dyn Arriving>,
    pub(crate) framing: Framing,
    /// What ends its waits early.
    pub(crate) cancellation: Cancellation,
    /// May it be sent again if it is unknown whether the server received the first attempt (RFC 9110 section 9.2.2)?
    pub(crate) is_repeatable: &'r dyn Fn() -> bool,
}

/// An answer whose head has been read.
pub(crate) struct Incoming {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: IncomingBody,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// The name of the server could not be resolved.
    UnknownHost,
    /// Connecting failed.
    Connect(io::Error),
    /// Connecting took too long.
    ConnectTimeout,
    /// The answer took too long.
    AnswerTimeout,
    /// The request's own body could not be read.
    Body(io::Error),
    /// The connection failed.
    Io(io::Error),
    /// The answer is not valid.
    Malformed(&'static str),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::UnknownHost => f.write_str("its host name could not be resolved"),
            ClientError::Connect(e) => write!(f, "no connection: {e}"),
            ClientError::ConnectTimeout => f.write_str("no connection in time"),
            ClientError::AnswerTimeout => f.write_str("no answer in time"),
            ClientError::Body(e) | ClientError::Io(e) => write!(f, "the connection failed: {e}"),
            ClientError::Malformed(why) => f.write_str(why),
        }
    }
}

/// How an attempt failed, and whether it can be repeated.
struct Failed {
    error: ClientError,
    /// It used an idle connection, which ended before the first byte of the answer.
    stale: bool,
    /// Bytes of the body were sent that can't be read again.
    streamed: bool,
}

impl Client {
    /// A client for the server at `url`. It opens no connection yet.
    pub(crate) fn new(
        url: UpstreamUrl,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Client {
        Client {
            url,
            tls,
            resolver: CachingResolver::default(),
            connect_timeout,
            response_timeout,
            proxy: None,
            pinned: None,
            latency: LatencyEstimate::default(),
            idle: Arc::default(),
        }
    }

    /// Makes the client connect through `proxy` with CONNECT (RFC 9110 section 9.3.6).
    pub(crate) fn through(self, proxy: Option<OutboundProxy>) -> Client {
        Client { proxy, ..self }
    }

    /// Makes the client connect to this address, whatever the host name of the URL resolves to.
    pub(crate) fn pinned_to(self, address: SocketAddr) -> Client {
        Client { pinned: Some(address), ..self }
    }

    /// Sends a request and reads the head of its answer.
    pub(crate) fn exchange(self: &Arc<Self>, mut outgoing: Outgoing<'_>) -> Result<Incoming, ClientError> {
        let (connection, used) = match self.idle.take() {
            Some(connection) => (connection, true),
            None => (self.open(&outgoing.cancellation)?, false),
        };
        log::trace!(upstream:% = self.url, method:% = outgoing.method, reused = used; "a request goes upstream");
        let failed = match self.attempt(connection, used, &mut outgoing) {
            Ok(incoming) => return Ok(incoming),
            Err(failed) => failed,
        };
        if !failed.stale || failed.streamed || !(outgoing.is_repeatable)() {
            return Err(failed.error);
        }
        log::trace!(upstream:% = self.url; "the connection had ended: the request goes upstream on another");
        self.attempt(self.open(&outgoing.cancellation)?, false, &mut outgoing).map_err(|f| f.error)
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn tidy(&self) {
        self.idle.tidy();
    }

    fn open(&self, cancellation: &Cancellation) -> Result<Connection, ClientError> {
        let timed_out = |e: io::Error| match e.kind() {
            io::ErrorKind::TimedOut => ClientError::ConnectTimeout,
            _ => ClientError::Connect(e),
        };
        let socket = match &self.url.socket {
            Some(path) => {
                Socket::open_unix(path, self.connect_timeout, self.latency.clone(), cancellation).map_err(timed_out)?
            }
            None => {
                let addresses = self.addresses().map_err(|_| ClientError::UnknownHost)?;
                Socket::open_tcp(&addresses, self.connect_timeout, self.latency.clone(), cancellation)
                    .map_err(timed_out)?
            }
        };
        let socket = match &self.proxy {
            Some(proxy) => self.tunnel(socket, proxy)?,
            None => socket,
        };
        let transport = match &self.tls {
            None => Transport::Plain(socket),
            Some((config, name)) => {
                let deadline = Instant::now() + self.connect_timeout;
                Transport::encrypted(socket, config.clone(), name.clone(), deadline).map_err(|e| match e.kind() {
                    // The server does not speak TLS, or its certificate is not trusted.
                    io::ErrorKind::InvalidData => ClientError::Io(e),
                    _ => timed_out(e),
                })?
            }
        };
        Ok(Input::new(transport))
    }

    /// Asks the proxy to connect `socket` to the server.
    fn tunnel(&self, mut socket: Socket, proxy: &OutboundProxy) -> Result<Socket, ClientError> {
        let port = self.url.authority.port_u16().unwrap_or(443);
        let place = match self.pinned {
            // The proxy must not resolve the name to another address.
            Some(address) => address.to_string(),
            None => format!("{}:{port}", self.url.authority.host()),
        };
        let mut head = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
        if let Some(credentials) = &proxy.credentials {
            head.push_str(&format!("Proxy-Authorization: {credentials}\r\n"));
        }
        head.push_str("\r\n");
        socket.set_deadline(Some(Instant::now() + self.connect_timeout));
        socket.write_all(head.as_bytes()).map_err(ClientError::Connect)?;
        let mut answer = Vec::new();
        // Reads byte by byte, because the bytes after the head come from the server already.
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match socket.read(&mut byte) {
                Ok(1) if answer.len() < MAX_HEAD => answer.push(byte[0]),
                Ok(_) => return Err(ClientError::Malformed("the proxy on the way (HTTPS_PROXY) gave no answer")),
                Err(e) => return Err(ClientError::Connect(e)),
            }
        }
        match ResponseHead::parse(&answer) {
            Ok(Some(head)) if head.status.is_success() => Ok(socket),
            _ => Err(ClientError::Malformed("the proxy on the way (HTTPS_PROXY) refused the connection")),
        }
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if let Some(proxy) = &self.proxy {
            return self.resolver.look_up(&proxy.host, proxy.port);
        }
        if let Some(address) = self.pinned {
            return Ok(vec![address]);
        }
        let port = self.url.authority.port_u16();
        let default = if self.tls.is_some() { 443 } else { 80 };
        self.resolver.look_up(self.url.authority.host(), port.unwrap_or(default))
    }

    fn attempt(
        self: &Arc<Self>,
        mut connection: Connection,
        used: bool,
        outgoing: &mut Outgoing<'_>,
    ) -> Result<Incoming, Failed> {
        let transport = connection.source_mut();
        transport.set_cancellation(outgoing.cancellation.clone());
        transport.set_deadline(Some(Instant::now() + self.response_timeout));
        let mut streamed = false;
        let sent = self.send(transport, outgoing, &mut streamed);
        let failed = |error| Failed { error, stale: false, streamed };
        let sent = sent.map_err(|error| {
            let stale = used && matches!(&error, ClientError::Io(e) if has_ended(e));
            Failed { error, stale, streamed }
        })?;
        transport.set_deadline(Some(Instant::now() + self.response_timeout));
        transport.asked();
        let mut heard = false;
        let head = loop {
            match ResponseHead::parse(connection.buffered()) {
                Ok(Some(head)) if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS => {
                    connection.consume(head.size);
                    continue;
                }
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(why) => return Err(failed(ClientError::Malformed(why))),
            }
            match connection.fill(MAX_HEAD, Duration::ZERO) {
                Ok(1..) => heard = true,
                Ok(0) => {
                    let error = ClientError::Io(io::ErrorKind::UnexpectedEof.into());
                    return Err(Failed { error, stale: used && !heard, streamed });
                }
                Err(e) => {
                    return Err(match e.kind() {
                        io::ErrorKind::TimedOut => failed(ClientError::AnswerTimeout),
                        io::ErrorKind::OutOfMemory => {
                            failed(ClientError::Malformed("the head of its answer is too large"))
                        }
                        _ => {
                            let stale = used && !heard && has_ended(&e);
                            Failed { error: ClientError::Io(e), stale, streamed }
                        }
                    });
                }
            }
        };
        connection.consume(head.size);
        connection.source_mut().set_deadline(None);
        let framing = head.framing(outgoing.method).map_err(|why| failed(ClientError::Malformed(why)))?;
        let body = IncomingBody::new(connection, framing, (sent && head.keep_alive).then(|| self.idle.clone()));
        Ok(Incoming { status: head.status, fields: head.fields, body })
    }

    /// Sends the request. False if the server answered or closed before it had received all of it. Sets `streamed` at
    /// the first byte of the body that can't be read again.
    fn send(
        &self,
        transport: &mut Transport,
        outgoing: &mut Outgoing<'_>,
        streamed: &mut bool,
    ) -> Result<bool, ClientError> {
        let mut bytes = Vec::with_capacity(1 << 10);
        self.write_head(&mut bytes, outgoing);
        let chunked = outgoing.rest.is_some() && outgoing.framing == Framing::Chunked;
        if chunked && !outgoing.held.is_empty() {
            bytes.extend_from_slice(format!("{:x}\r\n", outgoing.held.len()).as_bytes());
        }
        // Sends head and body in one write if copying the body is cheap.
        if outgoing.held.len() <= PIECE {
            bytes.extend_from_slice(outgoing.held);
        }
        if !transport.send(&bytes).map_err(unsent)?
            || (outgoing.held.len() > PIECE && !transport.send(outgoing.held).map_err(unsent)?)
        {
            return Ok(false);
        }
        if chunked && !outgoing.held.is_empty() && !transport.send(b"\r\n").map_err(unsent)? {
            return Ok(false);
        }
        match &mut outgoing.rest {
            Some(rest) => self.stream(transport, *rest, chunked, streamed),
            None => Ok(true),
        }
    }

    /// Sends the body as it arrives. Waits for client and server at the same time, because the server may send its
    /// answer while the client still sends, or pauses.
    fn stream(
        &self,
        transport: &mut Transport,
        rest: &mut dyn Arriving,
        chunked: bool,
        streamed: &mut bool,
    ) -> Result<bool, ClientError> {
        let (mut piece, mut bytes) = (vec![0; PIECE], Vec::with_capacity(PIECE + 16));
        loop {
            let n = match rest.read_now(&mut piece) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match transport.wait_for_either(rest.socket(), rest.deadline()) {
                        Ok(Either::Other) => continue,
                        Ok(Either::Server) => return Ok(false),
                        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                            return Err(ClientError::Body(BodyError::Timeout.into()));
                        }
                        Err(e) => return Err(ClientError::Io(e)),
                    }
                }
                Err(e) => return Err(ClientError::Body(e)),
            };
            *streamed |= n > 0;
            bytes.clear();
            if chunked {
                bytes.extend_from_slice(format!("{n:x}\r\n").as_bytes());
            }
            bytes.extend_from_slice(&piece[..n]);
            if chunked {
                bytes.extend_from_slice(b"\r\n");
            }
            // The response timeout counts only while the server is silent, not while the client sends.
            transport.set_deadline(Some(Instant::now() + self.response_timeout));
            if !transport.send(&bytes).map_err(unsent)? {
                return Ok(false);
            }
            if n == 0 {
                return Ok(true);
            }
        }
    }

    fn write_head(&self, out: &mut Vec<u8>, outgoing: &Outgoing<'_>) {
        for part in [outgoing.method.as_str(), " ", outgoing.target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        field(out, "host", self.url.authority.as_str().as_bytes());
        for (name, value) in outgoing.fields {
            field(out, name.as_str(), value.as_bytes());
        }
        // RFC 9110 section 8.6: methods that usually have a body announce an empty one with `Content-Length: 0`.
        let usually_has_body = matches!(*outgoing.method, Method::POST | Method::PUT | Method::PATCH);
        match (outgoing.framing, &outgoing.rest) {
            (Framing::Chunked, Some(_)) => field(out, "transfer-encoding", b"chunked"),
            (Framing::Length(n), Some(_)) => field(out, "content-length", HeaderValue::from(n).as_bytes()),
            (Framing::None, _) if !usually_has_body => {}
            _ => field(out, "content-length", HeaderValue::from(outgoing.held.len()).as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The error for bytes that could not be sent.
fn unsent(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::TimedOut => ClientError::AnswerTimeout,
        _ => ClientError::Io(error),
    }
}

/// True if the connection has ended; false for a timeout and other errors.
fn has_ended(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
