//! Requests of the program's own to other servers, such as identity providers: small, with a deadline and a bound on
//! the answer, no redirects, through a proxy where the environment names one.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::Serializer;
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::client::{Client, Incoming, Outgoing};
use super::head::Framing;
use crate::net::interrupt;
use crate::url::{UpstreamUrl, is_loopback_host};

/// How long a connection may take, unless told otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take until the answer is there; connecting and sending have shorter times of their own.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const MAX_BODY: usize = 1 << 20;
/// Requests under way at one time.
const MAX_RUNNING: usize = 64;
/// Servers whose connections are kept.
const MAX_SERVERS: usize = 16;
const AGENT: &str = concat!("mcp-auth-proxy/", env!("CARGO_PKG_VERSION"));

/// The URL of something on another server: https, or http on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUrl(Uri);

impl RemoteUrl {
    /// Reads a URL; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<RemoteUrl, String> {
        let refuse = |why: &str| Err(format!("'{text}' {why}"));
        if text.contains('#') {
            return refuse("has a fragment");
        }
        let Ok(uri) = text.parse::<Uri>() else { return refuse("is not a URL") };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return refuse("is not an https:// URL");
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return refuse("has a user name, or no host");
        }
        match scheme {
            "https" => Ok(RemoteUrl(uri)),
            "http" if is_loopback_host(authority.host()) => Ok(RemoteUrl(uri)),
            "http" => refuse("is not https, so that anyone on the way could pretend to be that server"),
            _ => refuse("is not an https:// URL"),
        }
    }

    /// The URL with another path and query behind its own path.
    pub fn join(&self, path: &str) -> Result<RemoteUrl, String> {
        RemoteUrl::parse(&format!("{}{path}", self.to_string().trim_end_matches('/')))
    }

    /// The URL with parameters added to its query.
    pub fn with_query(&self, parameters: &[(&str, &str)]) -> String {
        let query = Serializer::new(String::new()).extend_pairs(parameters).finish();
        let separator = if self.0.query().is_some() { '&' } else { '?' };
        format!("{}{separator}{query}", self.0)
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        let authority = self.0.authority().map(|a| a.as_str()).unwrap_or_default();
        format!("{}://{}", self.0.scheme_str().unwrap_or_default(), authority.to_ascii_lowercase())
    }

    /// The host.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }

    fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    fn target(&self) -> &str {
        self.0.path_and_query().map_or("/", |p| p.as_str())
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Fields.
    pub fields: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

/// There is no answer; says why in words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError(pub String);

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An HTTP proxy on the way out.
#[derive(Clone, PartialEq, Eq)]
pub struct OutboundProxy {
    /// Its host and port.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `Proxy-Authorization`.
    pub(crate) credentials: Option<String>,
}

/// Which proxy leads to which host: `HTTPS_PROXY` and `NO_PROXY` of the environment, in either case.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<OutboundProxy>,
    direct: Vec<String>,
}

impl Proxies {
    /// What the environment says. The error is one line.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Proxies, String> {
        let either = |name: &str| {
            let value = env(name).or_else(|| env(&name.to_lowercase()));
            value.filter(|v| !v.is_empty())
        };
        let https = either("HTTPS_PROXY").map(|text| parse_proxy(&text)).transpose()?;
        let direct = either("NO_PROXY").unwrap_or_default();
        let direct = direct.split(',').map(|d| d.trim().to_ascii_lowercase()).filter(|d| !d.is_empty()).collect();
        Ok(Proxies { https, direct })
    }

    fn to(&self, url: &RemoteUrl) -> Option<OutboundProxy> {
        let host = url.host().to_ascii_lowercase();
        let is_direct = |entry: &String| {
            let entry = entry.split(':').next().unwrap_or_default().trim_start_matches('.');
            entry == "*" || host == entry || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
        };
        let is_wanted = url.is_secure() && !is_loopback_host(&host) && !self.direct.iter().any(is_direct);
        self.https.clone().filter(|_| is_wanted)
    }
}

fn parse_proxy(text: &str) -> Result<OutboundProxy, String> {
    // Its own text may hold a password.
    let refuse = || "HTTPS_PROXY is not a URL such as http://proxy.example.com:3128".to_string();
    let text = text.strip_prefix("http://").or((!text.contains("://")).then_some(text)).ok_or_else(refuse)?;
    let (credentials, place) = text.trim_end_matches('/').rsplit_once('@').map_or((None, text), |(c, p)| (Some(c), p));
    let authority: ::http::uri::Authority = place.trim_end_matches('/').parse().map_err(|_| refuse())?;
    let credentials = credentials.map(|c| {
        let plain: Vec<u8> = percent_decode_str(c).collect();
        format!("Basic {}", STANDARD.encode(plain))
    });
    Ok(OutboundProxy { host: authority.host().into(), port: authority.port_u16().unwrap_or(80), credentials })
}

/// Sends requests.
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    proxies: Proxies,
    clients: Mutex<HashMap<String, Arc<Client>>>,
    running: AtomicUsize,
    timeout: Duration,
}

/// One of the requests that may be under way at one time: threads that wait for other servers are few.
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
    /// With the trust of `tls`, by way of `proxies`; an answer must be there within `timeout`.
    pub fn new(tls: Arc<ClientConfig>, proxies: Proxies, timeout: Duration) -> Fetcher {
        Fetcher { tls, proxies, clients: Mutex::default(), running: AtomicUsize::new(0), timeout }
    }

    /// GET, with further fields.
    pub fn get(&self, url: &RemoteUrl, fields: &[(HeaderName, &str)]) -> Result<Answer, FetchError> {
        self.send(Method::GET, url, fields, Vec::new())
    }

    /// POST of a form, with further fields.
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

    /// A request with a body, which may be empty.
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
            let mut value = HeaderValue::from_str(value).map_err(|_| failed("a field has bytes that none can have"))?;
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
            is_repeatable: &|| method != Method::POST,
        };
        let client = self.client(url)?;
        let _turn =
            Turn::take(&self.running).ok_or_else(|| failed("too many requests are under way to other servers"))?;
        interrupt::undisturbed(|| {
            let Incoming { status, fields, mut body } =
                client.exchange(outgoing).map_err(|e| failed(&e.to_string()))?;
            let body = body.read_all(MAX_BODY, deadline).map_err(|e| match e.kind() {
                io::ErrorKind::TimedOut => failed("its answer takes too long"),
                io::ErrorKind::FileTooLarge => failed("its answer is too large"),
                _ => failed(&format!("its answer broke off: {e}")),
            })?;
            Ok(Answer { status, fields, body })
        })
    }

    fn client(&self, url: &RemoteUrl) -> Result<Arc<Client>, FetchError> {
        let failed = || FetchError(format!("{}: it is no host name", url.host()));
        let origin = url.origin();
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
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
        if clients.len() >= MAX_SERVERS {
            clients.clear();
        }
        clients.insert(origin, client.clone());
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_servers_are_spoken_to_by_https() {
        for good in ["https://idp.example.com/a?b=c", "http://127.0.0.1:1/", "http://localhost:8080/x"] {
            assert_eq!(RemoteUrl::parse(good).unwrap().to_string(), good);
        }
        for bad in
            ["", "idp.example.com", "ftp://a/", "http://idp.example.com/", "https://u@a/", "https://a/#f", "https:///a"]
        {
            assert!(RemoteUrl::parse(bad).is_err(), "{bad}");
        }
        let url = RemoteUrl::parse("https://A.example.com/auth?x=1").unwrap();
        assert_eq!(url.with_query(&[("a", "b c&")]), "https://A.example.com/auth?x=1&a=b+c%26");
        assert_eq!((url.origin().as_str(), url.host()), ("https://a.example.com", "A.example.com"));
    }

    #[test]
    fn the_environment_names_the_way_out() {
        let proxies = |https: &str, no: &str| {
            Proxies::from_env(|name| match name {
                "HTTPS_PROXY" => Some(https.to_string()),
                "no_proxy" => Some(no.to_string()),
                _ => None,
            })
        };
        let to = |proxies: &Proxies, url: &str| proxies.to(&RemoteUrl::parse(url).unwrap()).map(|p| (p.host, p.port));
        let set = proxies("http://u:p%40@proxy:3128/", "internal.example.com, .corp.example").unwrap();
        assert_eq!(set.https.as_ref().unwrap().credentials.as_deref(), Some("Basic dTpwQA=="));
        assert_eq!(to(&set, "https://idp.example.com/"), Some(("proxy".into(), 3128)));
        for direct in
            ["https://internal.example.com/", "https://a.corp.example/", "https://localhost/", "http://127.0.0.1/"]
        {
            assert_eq!(to(&set, direct), None, "{direct}");
        }
        assert_eq!(to(&set, "https://xinternal.example.com/"), Some(("proxy".into(), 3128)));
        assert!(to(&proxies("proxy:8080", "*").unwrap(), "https://a.example/").is_none());
        let error = proxies("socks5://user:secret@proxy", "").err().unwrap();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
        assert!(to(&proxies("", "").unwrap(), "https://a.example/").is_none());
    }
}
