//! Documents at addresses that strangers choose: client metadata documents and key sets of clients.
//!
//! A stranger must not make this proxy talk to its own network. So only https on port 443 is spoken; the host name is
//! resolved, only public addresses that do not belong to this machine are connected to, and no redirect is followed. An
//! outbound proxy is told the checked address and not the name. A stranger must not keep the proxy busy either: a document
//! is small and arrives soon or not at all, few are fetched at one time, and each URL once.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ::http::header::{ACCEPT, AGE, CACHE_CONTROL, CONNECTION, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::exchange::{Client, Incoming, Outgoing};
use super::fetch::{AGENT, FetchError};
use super::proxies::Proxies;
use super::remote_url::RemoteUrl;
use crate::bounded_map::BoundedMap;
use crate::http::h1::framing::BodyError;
use crate::http::h1::head::Framing;
use crate::lock::Unpoisoned;
use crate::net::address::{is_own, is_public, network_of, wide_network_of};
use crate::net::cancellation::Cancellation;
use crate::net::rate_limit::NestedRateLimit;
use crate::url::{UpstreamUrl, is_address};

/// Longest URL, in bytes.
const MAX_URL: usize = 512;
/// Most bytes of a document.
const MAX_BODY: usize = 10 << 10;
/// How long a fetch may take in all, and how long each of its steps.
const TIMEOUT: Duration = Duration::from_secs(5);
const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// Most fetches at one time: in all, for callers of a wide network (/16, IPv6: /32), and of a network (/24, IPv6: /48).
/// Whoever owns a name can keep the system's resolver waiting for half a minute, so these are for one caller and many.
const MAX_RUNNING: usize = 64;
const MAX_OF_WIDE_NETWORK: usize = 12;
const MAX_OF_NETWORK: usize = 4;
/// Most threads that wait for a fetch of another thread.
const MAX_WAITING: usize = 32;
/// Most documents that are kept.
const MAX_DOCUMENTS: usize = 128;
/// How long a document is used without another fetch: at least and at most, and if its server does not say.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(86_400);
const USUAL: Duration = Duration::from_secs(3_600);
/// How long after that a document is still used if it can't be fetched.
const STALE: Duration = Duration::from_secs(86_400);
/// How long after a failure there is no other attempt.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// An https URL on port 443 with a host name and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedUrl(RemoteUrl);

impl GuardedUrl {
    /// Reads a URL; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<GuardedUrl, &'static str> {
        if text.len() > MAX_URL {
            return Err("it is longer than 512 bytes");
        }
        if !text.starts_with("https://") || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("it is not an https:// URL");
        }
        let url = RemoteUrl::parse(text).map_err(|_| "it is not an https:// URL, or has a fragment or a user name")?;
        let authority = text["https://".len()..].split(['/', '?']).next().unwrap_or_default();
        if authority != url.host() && authority != format!("{}:443", url.host()) {
            return Err("its port is not 443");
        }
        if is_address(url.host()) || !url.host().contains('.') {
            return Err("its host is not the name of a public host");
        }
        let path = url.target().split('?').next().unwrap_or_default();
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        if path.len() < 2 || decoded.split(['/', '\\']).any(|segment| matches!(segment, "." | "..")) {
            return Err("it has no path, or one with dot segments");
        }
        Ok(GuardedUrl(url))
    }

    /// The host name, lower case.
    pub fn host(&self) -> String {
        self.0.host().to_ascii_lowercase()
    }
}

impl fmt::Display for GuardedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fetched document.
#[derive(Clone)]
struct Document {
    body: Arc<Vec<u8>>,
    fetched_at: Instant,
    fresh_for: Duration,
}

/// What is known of a URL.
#[derive(Clone, Default)]
struct Known {
    document: Option<Document>,
    failure: Option<(Instant, FetchError)>,
}

/// Fetches documents and keeps them.
pub struct Documents {
    source: Source,
    known: Mutex<BoundedMap<String, Known>>,
    /// URLs that are being fetched, and how many threads wait for one of them.
    under_way: Mutex<(HashSet<String>, usize)>,
    done: Condvar,
    /// Fetches that strangers cause.
    rate: NestedRateLimit,
}

impl Documents {
    /// None is fetched yet.
    pub fn new(source: Source) -> Documents {
        Documents {
            source,
            known: Mutex::new(BoundedMap::new(MAX_DOCUMENTS)),
            under_way: Mutex::default(),
            done: Condvar::new(),
            rate: NestedRateLimit::new((20, 1), (50, 1), (300, 5)),
        }
    }

    /// The document at `url`, for a request from `caller`. One that is too old is fetched again; if that fails, it is used
    /// for another day.
    pub fn get(&self, url: &GuardedUrl, caller: IpAddr) -> Result<Arc<Vec<u8>>, FetchError> {
        let key = url.to_string();
        if let Some(settled) = self.settled(&key) {
            return settled;
        }
        crate::blocking::announce();
        let Some(_turn) = self.turn(&key) else {
            // Another thread has fetched it meanwhile, or too many are under way.
            return self.settled(&key).or_else(|| self.stale(&key).map(Ok)).unwrap_or_else(|| Err(busy(url)));
        };
        if let Some(settled) = self.settled(&key) {
            return settled;
        }
        let fetched = match self.rate.take(caller) {
            Ok(()) => match self.source.permit(caller) {
                Some(permit) => self.source.fetch(url, permit),
                None => return self.stale(&key).ok_or_else(|| busy(url)),
            },
            Err(whose) => {
                let limited = FetchError(format!("{}: too many documents are fetched {whose}", url.host()));
                return self.stale(&key).ok_or(limited);
            }
        };
        self.note(&key, fetched)
    }

    /// What is known of the URL, if no fetch is due.
    fn settled(&self, key: &str) -> Option<Result<Arc<Vec<u8>>, FetchError>> {
        let known = self.known.lock().unpoisoned().get(key).cloned()?;
        if let Some(document) = known.document.as_ref().filter(|d| d.fetched_at.elapsed() < d.fresh_for) {
            return Some(Ok(document.body.clone()));
        }
        let (at, error) = known.failure.filter(|(at, _)| at.elapsed() < AFTER_FAILURE)?;
        let stale = known.document.filter(|d| at.saturating_duration_since(d.fetched_at) < d.fresh_for + STALE);
        Some(stale.map(|document| document.body).ok_or(error))
    }

    fn stale(&self, key: &str) -> Option<Arc<Vec<u8>>> {
        let known = self.known.lock().unpoisoned().get(key).cloned()?;
        known.document.filter(|d| d.fetched_at.elapsed() < d.fresh_for + STALE).map(|d| d.body)
    }

    fn note(&self, key: &str, fetched: Result<Document, FetchError>) -> Result<Arc<Vec<u8>>, FetchError> {
        let mut all = self.known.lock().unpoisoned();
        let has_none = |known: &Known| known.document.is_none();
        let is_old = |known: &Known| known.document.as_ref().is_none_or(|d| d.fetched_at.elapsed() >= d.fresh_for);
        let known = all.get_or_insert(key.to_string(), Known::default(), &[&has_none, &is_old]);
        match fetched {
            Ok(document) => {
                let body = document.body.clone();
                *known = Known { document: Some(document), failure: None };
                Ok(body)
            }
            Err(error) => {
                known.failure = Some((Instant::now(), error.clone()));
                let stale = known.document.as_ref().filter(|d| d.fetched_at.elapsed() < d.fresh_for + STALE);
                stale.map(|d| d.body.clone()).ok_or(error)
            }
        }
    }

    /// The right to fetch a URL; `None` after another thread has fetched it, or if too many threads wait.
    fn turn(&self, key: &str) -> Option<Turn<'_>> {
        let mut under_way = self.under_way.lock().unpoisoned();
        if under_way.0.insert(key.to_string()) {
            return Some(Turn { documents: self, key: key.to_string() });
        }
        if under_way.1 >= MAX_WAITING {
            return None;
        }
        under_way.1 += 1;
        let deadline = Instant::now() + TIMEOUT;
        while under_way.0.contains(key) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            under_way = self.done.wait_timeout(under_way, left).unpoisoned().0;
        }
        under_way.1 -= 1;
        None
    }
}

/// Not noted as a failure of the URL: others may fetch it.
fn busy(url: &GuardedUrl) -> FetchError {
    FetchError(format!("{}: too many documents are being fetched", url.host()))
}

struct Turn<'d> {
    documents: &'d Documents,
    key: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.documents.under_way.lock().unpoisoned().0.remove(&self.key);
        self.documents.done.notify_all();
    }
}

/// How documents are fetched.
pub struct Source {
    /// Whom to trust.
    pub tls: Arc<ClientConfig>,
    /// The outbound proxies.
    pub proxies: Proxies,
    /// Our own host: a document there would make the proxy ask itself.
    pub own_host: String,
    running: Arc<Running>,
}

/// Network and wide network of the caller of each fetch that runs.
type Running = Mutex<Vec<(IpAddr, IpAddr)>>;

/// One of the [`MAX_RUNNING`] fetches. The thread that resolves a name keeps it until the system's resolver is done.
struct Permit {
    running: Arc<Running>,
    of: (IpAddr, IpAddr),
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self.running.lock().unpoisoned();
        if let Some(at) = running.iter().position(|of| *of == self.of) {
            running.swap_remove(at);
        }
    }
}

impl Source {
    /// Trusts servers as `tls` says and goes through `proxies`.
    pub fn new(tls: Arc<ClientConfig>, proxies: Proxies, own_host: &str) -> Source {
        Source { tls, proxies, own_host: own_host.to_string(), running: Arc::default() }
    }

    fn permit(&self, caller: IpAddr) -> Option<Permit> {
        let of = (network_of(caller), wide_network_of(caller));
        let mut running = self.running.lock().unpoisoned();
        let count = |is_counted: &dyn Fn(&(IpAddr, IpAddr)) -> bool| running.iter().filter(|of| is_counted(of)).count();
        let is_free = running.len() < MAX_RUNNING
            && count(&|other| other.0 == of.0) < MAX_OF_NETWORK
            && count(&|other| other.1 == of.1) < MAX_OF_WIDE_NETWORK;
        is_free.then(|| {
            running.push(of);
            Permit { running: self.running.clone(), of }
        })
    }

    fn fetch(&self, url: &GuardedUrl, permit: Permit) -> Result<Document, FetchError> {
        let deadline = Instant::now() + TIMEOUT;
        let host = url.host();
        let failed = |why: &str| FetchError(format!("{host}: {why}"));
        let addresses = self.resolve(&host, Arc::new(permit), deadline).map_err(|why| failed(&why))?;
        let mut last = failed("its host has no address on the public internet");
        for address in addresses.into_iter().take(2) {
            match self.fetch_from(url, address, deadline) {
                Ok(document) => return Ok(document),
                Err(why) => last = failed(&why),
            }
        }
        Err(last)
    }

    /// The public addresses of a name. The system's resolver can't be stopped, so it runs on a thread of its own.
    fn resolve(&self, host: &str, permit: Arc<Permit>, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
        if host == self.own_host {
            return Err("it is this server itself".into());
        }
        let (answer, found) = channel();
        let (name, own) = (host.to_string(), self.own_host.clone());
        crate::thread::spawn("resolver", move || {
            let _permit = permit;
            let own: HashSet<IpAddr> = match is_address(&own) {
                true => own.trim_matches(['[', ']']).parse().into_iter().collect(),
                false => (own, 443).to_socket_addrs().into_iter().flatten().map(|a| a.ip()).collect(),
            };
            let found = (name, 443).to_socket_addrs().map(|found| {
                let is_good = |a: &SocketAddr| is_public(a.ip()) && !own.contains(&a.ip()) && !is_own(a.ip());
                found.take(16).filter(is_good).collect::<Vec<SocketAddr>>()
            });
            let _ = answer.send(found);
        })?;
        match found.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Ok(good)) if !good.is_empty() => Ok(good),
            // One message for both: strangers must not learn which names our own network has.
            Ok(_) => Err("its host has no address on the public internet".into()),
            Err(_) => Err("its host name could not be resolved in time".into()),
        }
    }

    fn fetch_from(&self, url: &GuardedUrl, address: SocketAddr, deadline: Instant) -> Result<Document, String> {
        let left = deadline.saturating_duration_since(Instant::now()).min(STEP_TIMEOUT);
        if left.is_zero() {
            return Err("it takes too long".into());
        }
        let name = ServerName::try_from(url.host()).map_err(|_| "this is not a valid host name")?;
        let place = UpstreamUrl::parse(&format!("https://{}", url.host()))?;
        let client = Client::new(place, Some((self.tls.clone(), name)), left, left);
        let client = Arc::new(client.through(self.proxies.to(&url.0)).pinned_to(address));
        let fields = [(USER_AGENT, AGENT), (ACCEPT, "application/json"), (CONNECTION, "close")];
        let fields: HeaderMap =
            fields.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
        let outgoing = Outgoing {
            method: &Method::GET,
            target: url.0.target(),
            fields: &fields,
            held: &[],
            rest: None,
            framing: Framing::None,
            cancellation: Cancellation::none(),
            is_repeatable: &|| false,
        };
        let Incoming { status, fields, mut body } = client.exchange(outgoing).map_err(|e| e.to_string())?;
        if status.is_redirection() {
            return Err("it answers with a redirect, and none is followed".into());
        }
        if status != StatusCode::OK {
            return Err(format!("it answers {status}"));
        }
        let body = body.read_all(MAX_BODY, deadline).map_err(|e| match (e.kind(), BodyError::of(&e)) {
            (io::ErrorKind::FileTooLarge, _) => "its document is larger than 10 KiB".to_string(),
            (io::ErrorKind::TimedOut, _) | (_, Some(BodyError::Timeout)) => "its answer takes too long".to_string(),
            _ => format!("its answer broke off: {e}"),
        })?;
        Ok(Document { body: Arc::new(body), fetched_at: Instant::now(), fresh_for: freshness(&fields) })
    }
}

/// How long an answer with these fields is fresh (RFC 9111 section 4.2), within our bounds.
fn freshness(fields: &HeaderMap) -> Duration {
    let directives = fields.get_all(CACHE_CONTROL).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let directives: Vec<String> = directives.map(|d| d.trim().to_ascii_lowercase()).collect();
    if directives.iter().any(|d| matches!(d.as_str(), "no-store" | "no-cache")) {
        return SHORTEST;
    }
    let seconds = |text: &str| text.trim_matches('"').parse::<u64>().ok();
    let of = |name: &str| directives.iter().find_map(|d| seconds(d.strip_prefix(name)?.strip_prefix('=')?));
    let age = fields.get(AGE).and_then(|v| seconds(v.to_str().ok()?)).unwrap_or(0);
    let max_age = of("s-maxage").or_else(|| of("max-age"));
    max_age.map_or(USUAL, |seconds| Duration::from_secs(seconds.saturating_sub(age))).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_names_with_a_path_are_urls() {
        for good in ["https://a.example/x", "https://a.example:443/x/y.json", "https://A.example/x?y=1"] {
            assert!(GuardedUrl::parse(good).is_ok(), "{good}");
        }
        let bad = [
            "http://a.example/x",
            "https://a.example",
            "https://a.example/",
            "https://a.example:8443/x",
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://u@a.example/x",
            "https://a.example/x#y",
            "https://localhost/x",
            "https://a.example/../x",
            "https://a.example/%2e%2e/x",
            "https://a.example/x/.",
            "https://a.example:/x",
            "HTTPS://a.example/x",
            "https://a.example/ x",
            "https://intranet/x",
            "https://2130706433/x",
            "https:///x",
            "ftp://a.example/x",
        ];
        for bad in bad {
            assert!(GuardedUrl::parse(bad).is_err(), "{bad}");
        }
        assert!(GuardedUrl::parse(&format!("https://a.example/{}", "x".repeat(500))).is_err());
    }

    #[test]
    fn callers_of_few_networks_can_not_have_all_fetches() {
        let tls = ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let source = Source::new(Arc::new(tls), Proxies::default(), "mcp.example.com");
        let mut held = Vec::new();
        let mut take =
            |address: String| source.permit(address.parse().unwrap()).map(|permit| held.push(permit)).is_some();
        let of_network = (0..20).filter(|i| take(format!("100.8.7.{i}"))).count();
        let of_wide = (0..100).filter(|i| take(format!("100.8.{i}.1"))).count();
        assert_eq!((of_network, of_network + of_wide), (MAX_OF_NETWORK, MAX_OF_WIDE_NETWORK));
        let of_others = (0..3).flat_map(|net| (0..100).map(move |i| (net, i)));
        let of_others = of_others.filter(|(net, i)| take(format!("2001:{net}:{i}::1"))).count();
        assert_eq!(of_others, 3 * MAX_OF_WIDE_NETWORK);
        assert!(take("77.1.2.3".into()), "four wide networks leave room for others");
        let _ = (78..142).map(|i| take(format!("{i}.1.2.3"))).filter(|is_taken| *is_taken).count();
        assert_eq!(held.len(), MAX_RUNNING);
        held.clear();
        assert!(source.permit("100.8.7.1".parse().unwrap()).is_some());
    }

    #[test]
    fn freshness_follows_the_fields_within_bounds() {
        let of = |text: &'static str, age: &'static str| {
            let fields = [(CACHE_CONTROL, text), (AGE, age)];
            freshness(&fields.into_iter().map(|(n, v)| (n, HeaderValue::from_static(v))).collect()).as_secs()
        };
        assert_eq!(freshness(&HeaderMap::new()), USUAL);
        assert_eq!(of("max-age=600", "0"), 600);
        assert_eq!(of("public, max-age=600", "100"), 500);
        assert_eq!(of("max-age=600, s-maxage=900", "0"), 900);
        assert_eq!(of("max-age=5", "0"), 60);
        assert_eq!(of("max-age=99999999999", "0"), 86_400);
        assert_eq!(of("no-store", "0"), 60);
        assert_eq!(of("max-age=x", "y"), 3_600);
    }
}
