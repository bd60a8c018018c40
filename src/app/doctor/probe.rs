//! Sends requests as clients do, and keeps the answers.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use rustls::pki_types::ServerName;
use serde_json::{Map, Value};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use super::link::Link;
use crate::http::client::{Client, Incoming, IncomingBody, Outgoing};
use crate::http::h1::head::Framing;
use crate::net::cancellation::Cancellation;
use crate::net::tls::unverified_config;
use crate::url::UpstreamUrl;

/// How long connecting may take.
pub(super) const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take. Clients give up after 10 to 60 seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long everything may take together.
const ALL_PATIENCE: Duration = Duration::from_secs(120);
/// Most redirects on the way to a document.
const MAX_REDIRECTS: usize = 4;
/// Most bytes that are read of an answer.
const MAX_BODY: usize = 256 << 10;
const AGENT: &str = concat!("mcp-auth-proxy-doctor/", env!("CARGO_PKG_VERSION"));

/// An answer.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn field(&self, name: impl AsRef<str>) -> &str {
        self.fields.get(name.as_ref()).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(super) fn media_type(&self) -> String {
        let value = self.field(CONTENT_TYPE.as_str());
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The JSON object that it is, if it is one.
    pub(super) fn object(&self) -> Option<Map<String, Value>> {
        // A mark of the byte order is no error for clients.
        serde_json::from_slice(self.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.body)).ok()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What it says to a reader: of a page its title and its text.
    pub(super) fn words(&self) -> String {
        let text = self.text();
        if !self.is_html() {
            return text;
        }
        let between = |start: &str, end: &str| {
            let from = text.find(start)? + start.len();
            text[from..].find(end).map(|to| text[from..from + to].to_string())
        };
        let title = between("<title>", "</title>").unwrap_or_default();
        let mut words = format!("{title} ");
        let body = text.find("<body").map_or("", |at| &text[at..]);
        let mut is_tag = false;
        for c in body.chars() {
            match c {
                '<' => is_tag = true,
                '>' => is_tag = false,
                c if !is_tag => words.push(c),
                _ => {}
            }
            if c == '>' {
                words.push(' ');
            }
        }
        words
    }

    pub(super) fn is_html(&self) -> bool {
        self.media_type() == "text/html" || self.text().trim_start().to_ascii_lowercase().starts_with("<!doctype html")
    }
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) link: &'a Link,
    pub(super) fields: Vec<(&'a str, String)>,
    pub(super) body: Vec<u8>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(link: &'a Link) -> Ask<'a> {
        Ask { method: Method::GET, link, fields: vec![("accept", "application/json".into())], body: Vec::new() }
    }

    pub(super) fn json(link: &'a Link, body: &Value) -> Ask<'a> {
        let fields = vec![("accept", "application/json".into()), ("content-type", "application/json".into())];
        Ask { method: Method::POST, link, fields, body: body.to_string().into_bytes() }
    }

    pub(super) fn with(mut self, name: &'a str, value: impl Into<String>) -> Ask<'a> {
        self.fields.retain(|(known, _)| *known != name);
        self.fields.push((name, value.into()));
        self
    }
}

/// Sends requests to the places that were reached.
pub(super) struct Prober {
    /// By origin.
    places: HashMap<String, Arc<Client>>,
    /// Origins whose certificate is trusted, or that need none since they are on this machine.
    trusted: HashSet<String>,
    /// When everything has to be over.
    ends_at: Instant,
    /// The user has pressed Ctrl-C.
    is_interrupted: Arc<AtomicBool>,
    /// The slowest answer so far: its URL and time.
    pub(super) slowest: Option<(String, Duration)>,
}

impl Prober {
    /// A prober that ends early when Ctrl-C is pressed, and the program at once when it is pressed again.
    pub(super) fn new() -> Prober {
        let is_interrupted = Arc::new(AtomicBool::new(false));
        // Without a handler, Ctrl-C ends the program as usual.
        let _ = flag::register_conditional_shutdown(SIGINT, 130, is_interrupted.clone());
        let _ = flag::register(SIGINT, is_interrupted.clone());
        let ends_at = Instant::now() + ALL_PATIENCE;
        Prober { places: HashMap::new(), trusted: HashSet::new(), ends_at, is_interrupted, slowest: None }
    }

    /// Why the look ends before its end, if it does.
    pub(super) fn is_over(&self) -> Option<&'static str> {
        match () {
            () if self.is_interrupted.load(Ordering::Relaxed) => Some("it was interrupted"),
            () if Instant::now() > self.ends_at => Some("it took longer than two minutes"),
            () => None,
        }
    }

    /// What was registered may be removed all the same.
    pub(super) fn allow_more(&mut self) {
        self.ends_at = self.ends_at.max(Instant::now() + PATIENCE);
        self.is_interrupted = Arc::default();
    }

    /// The user's secrets may go there.
    pub(super) fn trust(&mut self, link: &Link) {
        self.trusted.insert(link.origin());
    }

    pub(super) fn is_trusted(&self, link: &Link) -> bool {
        self.trusted.contains(&link.origin())
    }

    /// Fetches a document, after a few redirects within its origin: clients don't follow others.
    pub(super) fn document(&mut self, place: &Link) -> Result<Reply, String> {
        let mut link = place.clone();
        for _ in 0..MAX_REDIRECTS {
            let reply = self.send(&Ask::get(&link).with("mcp-protocol-version", "2025-11-25"))?;
            let location = reply.field("location");
            let to = if location.starts_with('/') { Ok(link.at(location)) } else { Link::parse(location) };
            match to {
                Ok(to) if reply.status.is_redirection() && to.origin() == link.origin() => link = to,
                _ => return Ok(reply),
            }
        }
        Err(format!("{place} redirects without an end"))
    }

    /// From now on, requests to the origin of `link` go to `address`. Certificates have been looked at before.
    pub(super) fn use_address(&mut self, link: &Link, address: SocketAddr) -> Result<(), String> {
        let tls = match link.is_secure() {
            false => None,
            true => {
                let name = ServerName::try_from(link.host().trim_matches(['[', ']']).to_string());
                Some((unverified_config()?, name.map_err(|_| format!("'{}' is not a host name", link.host()))?))
            }
        };
        let place = UpstreamUrl::parse(&link.origin())?;
        let client = Client::new(place, tls, CONNECT_PATIENCE, PATIENCE).pinned_to(address);
        self.places.insert(link.origin(), Arc::new(client));
        Ok(())
    }

    /// Is there an address for the origin of `link`?
    pub(super) fn knows(&self, link: &Link) -> bool {
        self.places.contains_key(&link.origin())
    }

    /// Sends a request and reads the answer. The error is a text for the report.
    pub(super) fn send(&mut self, ask: &Ask<'_>) -> Result<Reply, String> {
        let (mut reply, mut body) = self.open(ask)?;
        let is_stream = reply.media_type() == "text/event-stream";
        let mut piece = vec![0; 16 << 10];
        body.set_deadline(Instant::now() + if is_stream { CONNECT_PATIENCE } else { PATIENCE });
        while reply.body.len() < MAX_BODY {
            match body.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => reply.body.extend_from_slice(&piece[..n]),
                // What an open stream has said so far is enough.
                Err(_) if is_stream => break,
                Err(e) => return Err(format!("the answer broke off: {e}")),
            }
            if is_stream && reply.text().contains("\n\n") {
                break;
            }
        }
        Ok(reply)
    }

    /// Sends a request and reads the head of the answer.
    pub(super) fn open(&mut self, ask: &Ask<'_>) -> Result<(Reply, IncomingBody), String> {
        if let Some(why) = self.is_over() {
            return Err(why.into());
        }
        let client = self.places.get(&ask.link.origin()).ok_or("no address is known for it")?;
        let mut fields = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(AGENT))]);
        for (name, value) in &ask.fields {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::from_str(value)) {
                fields.insert(name, value);
            }
        }
        let outgoing = Outgoing {
            method: &ask.method,
            target: ask.link.target(),
            fields: &fields,
            held: &ask.body,
            rest: None,
            framing: if ask.body.is_empty() { Framing::None } else { Framing::Length(ask.body.len() as u64) },
            cancellation: Cancellation::none(),
            is_repeatable: &|| true,
        };
        let begun = Instant::now();
        let Incoming { status, fields, body } = client.exchange(outgoing).map_err(|e| e.to_string())?;
        let took = begun.elapsed();
        if self.slowest.as_ref().is_none_or(|(_, slowest)| took > *slowest) {
            self.slowest = Some((format!("{} {}{}", ask.method, ask.link.origin(), ask.link.path()), took));
        }
        Ok((Reply { status, fields, body: Vec::new() }, body))
    }
}
