//! The proxy's own requests to other servers, such as identity providers. They are small, with a deadline and a size
//! limit for the answer. Redirects are not followed. They go through an outbound proxy if the environment names one.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use form_urlencoded::Serializer;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::exchange::{Client, Incoming, Outgoing};
use super::proxies::Proxies;
use super::remote_url::RemoteUrl;
use crate::bounded_map::BoundedMap;
use crate::http::h1::head::Framing;
use crate::lock::Unpoisoned;
use crate::net::cancellation::Cancellation;
use crate::url::UpstreamUrl;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take until its answer is complete. Connecting and sending have shorter timeouts of their own.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of the body of an answer.
const MAX_BODY: usize = 1 << 20;
/// Most requests in progress at one time.
const MAX_RUNNING: usize = 64;
/// Most servers whose connections are kept.
const MAX_SERVERS: usize = 16;
pub(super) const AGENT: &str = concat!("mcp-auth-proxy/", env!("CARGO_PKG_VERSION"));

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Fields.
    pub fields: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

/// Why there is no answer, as a text for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError(pub String);

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sends the proxy's own requests to other servers.
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    proxies: Proxies,
    clients: Mutex<BoundedMap<String, Arc<Client>>>,
    running: AtomicUsize,
    timeout: Duration,
}

/// The permit for one request in progress. There are [`MAX_RUNNING`] permits, because few threads may wait for other
/// servers.
struct Turn<'r>(&'r AtomicUsize);

impl<'r> Turn<'r> {
    fn take(running: &'r AtomicUsize) -> Option<Turn<'r>> {
        let turn = Turn(running);
        (running.fetch_add(1, Ordering::Relaxed) < MAX_RUNNING).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fetcher {
    /// A fetcher that trusts servers as `tls` says and goes through `proxies`. An answer must be complete within
    /// `timeout`.
    pub fn new(tls: Arc<ClientConfig>, proxies: Proxies, timeout: Duration) -> Fetcher {
        Fetcher {
            tls,
            proxies,
            clients: Mutex::new(BoundedMap::new(MAX_SERVERS)),
            running: AtomicUsize::new(0),
            timeout,
        }
    }

    /// Sends a GET request with additional header fields.
    pub fn get(&self, url: &RemoteUrl, fields: &[(HeaderName, &str)]) -> Result<Answer, FetchError> {
        self.send(Method::GET, url, fields, Vec::new())
    }

    /// Sends a form by POST, with additional header fields.
    pub fn post_form(
        &self,
        url: &RemoteUrl,
        fields: &[(HeaderName, &str)],
        form: &[(&str, &str)],
    ) -> Result<Answer, FetchError> {
        let body = Serializer::new(String::new()).extend_pairs(form).finish();
        let mut fields = fields.to_vec();
        fields.push((CONTENT_TYPE, "application/x-www-form-urlencoded"));
        self.send(Method::POST, url, &fields, body.into_bytes())
    }

    /// Sends a request with a body, which may be empty.
    pub fn send(
        &self,
        method: Method,
        url: &RemoteUrl,
        fields: &[(HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, FetchError> {
        let failed = |why: &str| FetchError(format!("{}: {why}", url.host()));
        let deadline = Instant::now() + self.timeout;
        let mut headers = HeaderMap::new();
        for (name, value) in [(USER_AGENT, AGENT), (ACCEPT, "application/json")].iter().chain(fields) {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| failed("a header field has bytes that are not allowed in one"))?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        let outgoing = Outgoing {
            method: &method,
            target: url.target(),
            fields: &headers,
            held: &body,
            rest: None,
            framing: if body.is_empty() { Framing::None } else { Framing::Length(body.len() as u64) },
            // A request to a provider or a certificate authority can't be repeated, so it goes on when the client goes
            // away.
            cancellation: Cancellation::none(),
            is_repeatable: &|| method != Method::POST,
        };
        let client = self.client(url)?;
        let _turn =
            Turn::take(&self.running).ok_or_else(|| failed("too many requests are under way to other servers"))?;
        let Incoming { status, fields, mut body } = client.exchange(outgoing).map_err(|e| failed(&e.to_string()))?;
        let body = body.read_all(MAX_BODY, deadline).map_err(|e| match e.kind() {
            io::ErrorKind::TimedOut => failed("its answer takes too long"),
            io::ErrorKind::FileTooLarge => failed("its answer is too large"),
            _ => failed(&format!("its answer broke off: {e}")),
        })?;
        Ok(Answer { status, fields, body })
    }

    fn client(&self, url: &RemoteUrl) -> Result<Arc<Client>, FetchError> {
        let failed = || FetchError(format!("{}: this is not a valid host name", url.host()));
        let origin = url.origin();
        let mut clients = self.clients.lock().unpoisoned();
        if let Some(client) = clients.get(&origin) {
            return Ok(client.clone());
        }
        let tls = match url.is_secure() {
            true => {
                let name = ServerName::try_from(url.host().trim_matches(['[', ']']).to_string());
                Some((self.tls.clone(), name.map_err(|_| failed())?))
            }
            false => None,
        };
        let place = UpstreamUrl::parse(&origin).map_err(|_| failed())?;
        let client =
            Client::new(place, tls, CONNECT_TIMEOUT, self.timeout - CONNECT_TIMEOUT).through(self.proxies.to(url));
        let client = Arc::new(client);
        clients.insert(origin, client.clone());
        Ok(client)
    }
}
