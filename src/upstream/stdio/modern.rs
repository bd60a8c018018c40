//! Clients of the revisions from 2026-07-28 on: every request stands for itself, and closing its stream cancels it.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;

use super::child::Listener;
use super::events::EventStream;
use super::shared::{Port, SharedChild};
use super::{Account, Host, Line, new_name};
use crate::http::Response;
use crate::mcp::jsonrpc::{self, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, error_for};
use crate::mcp::message::{Kind, Message};

/// The first of these revisions.
pub(super) const REVISION: &str = "2026-07-28";
const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// "Header mismatch", "missing capability", "unsupported version".
const HEADER_MISMATCH: i32 = -32020;
const MISSING_CAPABILITY: i32 = -32021;
const UNSUPPORTED_VERSION: i32 = -32022;
/// What the reference servers of the other revisions answer to a revision that they do not know. It must be none of the
/// codes above, by which a client would take the server for a modern one.
const BAD_REQUEST: i32 = -32000;
/// An answer that comes so soon decides the status, so that an error has its own.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Is the request of one of these revisions?
pub(super) fn is_modern(message: &Message<'_>, headers: &HeaderMap) -> bool {
    // Revisions are dates; those that are to come will be later ones.
    let is_later = |v: &str| v.len() == REVISION.len() && v >= REVISION && v.starts_with("20");
    field(headers, "mcp-protocol-version").is_some_and(|v| is_later(&v))
        || message.param(&["_meta", PROTOCOL_VERSION]).is_some()
}

/// Answers one message.
pub(super) fn post(host: &Arc<Host>, account: &Account, message: &Message<'_>, headers: &HeaderMap) -> Response {
    let id = message.raw_id().map_or("null", RawValue::get);
    let refuse = |code, why: &str| error_for(StatusCode::BAD_REQUEST, id, code, why);
    let shared = match host.modern(account) {
        Ok(Some(shared)) => shared,
        Ok(None) => {
            return refuse(
                BAD_REQUEST,
                "Bad Request: Unsupported protocol version: this server speaks revisions up to 2025-11-25; begin with initialize",
            );
        }
        Err(why) => return error_for(StatusCode::OK, id, INTERNAL_ERROR, &why),
    };
    if let Err((code, why)) = check(message, headers) {
        return refuse(code, why);
    }
    let exchange = Exchange::new(id);
    let port = shared.attach(exchange.clone());
    if port.send(message.text().as_bytes().to_vec()).is_err() {
        return error_for(StatusCode::OK, id, INTERNAL_ERROR, "the MCP server does not read what it is sent");
    }
    if !matches!(message.kind, Kind::Request { .. }) {
        return Response::new(StatusCode::ACCEPTED);
    }
    answer(exchange, port)
}

fn answer(exchange: Arc<Exchange>, port: Port) -> Response {
    if let Some((text, code)) = exchange.answered_at_once() {
        let status = match code {
            Some(METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
            Some(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION | INVALID_PARAMS | INVALID_REQUEST) => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::OK,
        };
        return Response::new(status).with_body("application/json", text);
    }
    match exchange.stream.read(None, false) {
        // Whoever leaves first, the port is dropped, and what is still in flight is cancelled.
        Ok(reader) => reader.when_left(Box::new(move |_| drop(port))).into_response(),
        Err(_) => Response::text(StatusCode::SERVICE_UNAVAILABLE, "too many files are open"),
    }
}

/// One request on its way.
struct Exchange {
    raw_id: String,
    stream: Arc<EventStream>,
    first: Mutex<First>,
    has_first: Condvar,
}

#[derive(Default)]
enum First {
    #[default]
    Awaited,
    /// The answer, and its error code.
    Answer(Vec<u8>, Option<i32>),
    /// Something else came, or nothing in time: it goes on as a stream.
    Stream,
}

impl Exchange {
    fn new(raw_id: &str) -> Arc<Exchange> {
        let stream = EventStream::new(None, false, Arc::new(AtomicUsize::new(0)));
        Arc::new(Exchange { raw_id: raw_id.into(), stream, first: Mutex::default(), has_first: Condvar::new() })
    }

    /// The answer, if it comes before anything else, and soon.
    fn answered_at_once(&self) -> Option<(Vec<u8>, Option<i32>)> {
        crate::blocking::announce();
        let first = self.first.lock().unwrap_or_else(|e| e.into_inner());
        let waited = self.has_first.wait_timeout_while(first, AT_ONCE, |f| matches!(f, First::Awaited));
        let mut first = waited.unwrap_or_else(|e| e.into_inner()).0;
        match std::mem::replace(&mut *first, First::Stream) {
            First::Answer(text, code) => Some((text, code)),
            _ => None,
        }
    }

    fn push(&self, text: Vec<u8>, answer: Option<Option<i32>>) {
        let mut first = self.first.lock().unwrap_or_else(|e| e.into_inner());
        match (&*first, answer) {
            (First::Awaited, Some(code)) => *first = First::Answer(text, code),
            _ => {
                self.stream.push(text);
                if answer.is_some() {
                    self.stream.finish();
                }
                *first = First::Stream;
            }
        }
        self.has_first.notify_all();
    }
}

impl Exchange {
    fn fail(&self, why: &str) {
        let text = jsonrpc::error_message(&self.raw_id, INTERNAL_ERROR, why);
        self.push(text.into_bytes(), Some(Some(INTERNAL_ERROR)));
    }
}

impl Listener for Exchange {
    fn line(&self, line: Vec<u8>) {
        let code = std::str::from_utf8(&line).ok().and_then(|text| {
            let message = Message::parse(text).ok()?;
            matches!(message.kind, Kind::Response { .. }).then(|| jsonrpc::error_code(text))
        });
        self.push(line, code);
    }

    fn long_line(&self, limit: usize) {
        self.fail(&format!("the MCP server wrote a message of more than {limit} bytes"));
    }

    fn ended(&self, _: Duration) {
        self.fail("the MCP server ended while it worked on this request");
    }

    fn name(&self) -> String {
        String::new()
    }
}

/// What the transport requires of a request, beyond what the server checks itself.
fn check(message: &Message<'_>, headers: &HeaderMap) -> Result<(), (i32, &'static str)> {
    if message.is_ambiguous() {
        return Err((INVALID_REQUEST, "a member of the message occurs twice"));
    }
    let Kind::Request { method, .. } = &message.kind else { return Ok(()) };
    let string = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
    let meta = |name| message.param(&["_meta", name]);
    let (Some(version), Some(_)) = (meta(PROTOCOL_VERSION).and_then(string), meta(CLIENT_CAPABILITIES)) else {
        return Err((INVALID_PARAMS, "_meta lacks the protocol version or the client's capabilities"));
    };
    let mismatch = |why| Err((HEADER_MISMATCH, why));
    if field(headers, "mcp-protocol-version").as_ref() != Some(&version) {
        return mismatch("MCP-Protocol-Version is missing or differs from the body's");
    }
    if field(headers, "mcp-method").as_ref() != Some(method) {
        return mismatch("Mcp-Method is missing or differs from the body's method");
    }
    let named = match method.as_str() {
        "tools/call" | "prompts/get" => message.param(&["name"]),
        "resources/read" => message.param(&["uri"]),
        _ => return Ok(()),
    };
    let name = named.and_then(string);
    if name.is_none() || field(headers, "mcp-name").as_deref().and_then(plain) != name {
        return mismatch("Mcp-Name is missing or differs from what the body names");
    }
    Ok(())
}

/// A field that occurs once.
fn field(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim().to_string();
    values.next().is_none().then_some(value)
}

/// A field value in plain: names that no field can carry travel as `=?base64?…?=`.
fn plain(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|v| v.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(value.to_string()),
    }
}

/// What a child answered to the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// It knows these revisions.
    Modern,
    /// It answered something else.
    Legacy,
    /// It did not answer.
    Silent,
}

/// Asks a child which revisions it knows, within `patience`.
pub(super) fn probe(shared: &Arc<SharedChild>, patience: Duration) -> Era {
    let question = Arc::new(Probe::default());
    let port = shared.attach(question.clone());
    if port.send(super::shared::probe(&new_name()).into_bytes()).is_err() {
        return Era::Silent;
    }
    crate::blocking::announce();
    let found = question.found.lock().unwrap_or_else(|e| e.into_inner());
    let waited = question.has_found.wait_timeout_while(found, patience, |f| f.is_none());
    let era = *waited.unwrap_or_else(|e| e.into_inner()).0;
    era.unwrap_or(Era::Silent)
}

#[derive(Default)]
struct Probe {
    found: Mutex<Option<Era>>,
    has_found: Condvar,
}

impl Probe {
    fn learn(&self, era: Era) {
        self.found.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(era);
        self.has_found.notify_all();
    }
}

impl Listener for Probe {
    fn line(&self, line: Vec<u8>) {
        let Ok(text) = std::str::from_utf8(&line) else { return };
        let Ok(message) = Message::parse(text) else { return };
        if let Kind::Response { is_error, .. } = message.kind {
            let is_modern = match is_error {
                true => matches!(
                    jsonrpc::error_code(text),
                    Some(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION)
                ),
                false => {
                    message.outcome(&["supportedVersions"]).is_some() || message.outcome(&["resultType"]).is_some()
                }
            };
            self.learn(if is_modern { Era::Modern } else { Era::Legacy });
        }
    }

    fn long_line(&self, _: usize) {}

    fn ended(&self, _: Duration) {
        self.learn(Era::Silent);
    }

    fn name(&self) -> String {
        "probe".into()
    }
}
