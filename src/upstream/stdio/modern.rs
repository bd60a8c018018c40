//! Clients of the revisions from 2026-07-28 on: every request stands for itself, and closing its stream cancels it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::child::Listener;
use super::events::EventStream;
use super::fields::{self, CLIENT_CAPABILITIES, HEADER_MISMATCH, PROTOCOL_VERSION, field};
use super::lines::TooLong;
use super::shared::{LISTEN, Port, SharedChild};
use super::waiting::wait_for;
use super::{Account, Host, Line, new_name};
use crate::http::Response;
use crate::mcp::jsonrpc::{self, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, error_for};
use crate::mcp::message::{Kind, Message};
use crate::net::cancellation::Cancellation;
use crate::net::client_handle::ClientHandle;
use crate::wake::Waker;

/// The first of these revisions.
const REVISION: &str = "2026-07-28";
/// "Missing capability", "unsupported version".
const MISSING_CAPABILITY: i32 = -32021;
const UNSUPPORTED_VERSION: i32 = -32022;
/// What the reference servers of the other revisions answer to a revision that they do not know. It must be none of the
/// codes above, by which a client would take the server for a modern one.
const BAD_REQUEST: i32 = -32000;
/// An answer that comes so soon decides the status, so that an error has its own.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long the server may take to list its tools, each page, before a call is passed on without comparing its fields.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages of tools that are read.
const MAX_PAGES: usize = 32;

/// Is the request of one of these revisions?
pub(super) fn is_modern(message: &Message<'_>, headers: &HeaderMap) -> bool {
    // Revisions are dates; those that are to come will be later ones.
    let is_later = |v: &str| v.len() == REVISION.len() && v >= REVISION && v.starts_with("20");
    field(headers, "mcp-protocol-version").is_some_and(|v| is_later(&v))
        || message.param(&["_meta", PROTOCOL_VERSION]).is_some()
}

/// Answers one message.
pub(super) fn post(
    host: &Arc<Host>,
    account: &Account,
    message: &Message<'_>,
    headers: &HeaderMap,
    client: &ClientHandle,
) -> Response {
    let cancellation = Cancellation::of_request(client);
    let id = message.raw_id().map_or("null", RawValue::get);
    let refuse = |code, why: &str| error_for(StatusCode::BAD_REQUEST, id, code, why);
    let (shared, versions) = match host.modern(account, &cancellation) {
        Ok(Some(found)) => found,
        Ok(None) => {
            return refuse(
                BAD_REQUEST,
                "Bad Request: Unsupported protocol version: this server speaks revisions up to 2025-11-25; begin with initialize",
            );
        }
        Err(why) => return error_for(StatusCode::OK, id, INTERNAL_ERROR, &why),
    };
    let mut checked = fields::check(message, headers);
    if checked.is_ok()
        && let Some(refusal) = unsupported(message, &versions)
    {
        return refusal;
    }
    let method = match &message.kind {
        Kind::Request { method, .. } => method.as_str(),
        _ => "",
    };
    if checked.is_ok() && method == "tools/call" {
        checked = shared.tool_fields.check(message, headers, || list_tools(&shared, account, &cancellation));
    }
    if let Err((code, why)) = checked {
        return refuse(code, &why);
    }
    let exchange = Exchange::new(id, method == LISTEN, host.buffer());
    let Some(port) = shared.attach(&account.user, exchange.clone()) else {
        return error_for(StatusCode::OK, id, INTERNAL_ERROR, "the MCP server has just ended; try again");
    };
    if port.send(message.text().as_bytes().to_vec()).is_err() {
        return error_for(StatusCode::OK, id, INTERNAL_ERROR, "the MCP server does not read what it is sent");
    }
    if !matches!(message.kind, Kind::Request { .. }) {
        return Response::new(StatusCode::ACCEPTED);
    }
    answer(&exchange, port, client)
}

/// The answer to a revision that is none of the server's, which not every server looks at with each request.
fn unsupported(message: &Message<'_>, versions: &[String]) -> Option<Response> {
    let raw = message.param(&["_meta", PROTOCOL_VERSION])?;
    let asked: String = serde_json::from_str(raw.get()).ok()?;
    if versions.is_empty() || versions.contains(&asked) {
        return None;
    }
    let id: Value = message.raw_id().and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let error = json!({"code": UNSUPPORTED_VERSION, "message": "Unsupported protocol version",
        "data": {"supported": versions, "requested": asked}});
    Some(Response::json(StatusCode::BAD_REQUEST, &json!({"jsonrpc": "2.0", "id": id, "error": error})))
}

fn answer(exchange: &Arc<Exchange>, port: Port, client: &ClientHandle) -> Response {
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
        Ok(reader) => reader.when_left(Box::new(move |_| drop(port))).into_response(client),
        Err(_) => Response::text(StatusCode::SERVICE_UNAVAILABLE, "too many files are open"),
    }
}

/// One request on its way.
struct Exchange {
    raw_id: String,
    stream: Arc<EventStream>,
    /// Bytes that the client has not read, and how many they may be.
    held: Arc<AtomicUsize>,
    room: usize,
    progress: Mutex<Progress>,
    has_begun: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The answer, and its error code, as long as it may become a response of its own.
    answer: Option<(Vec<u8>, Option<i32>)>,
    /// What comes goes on the stream.
    is_stream: bool,
    /// It has been answered: whatever else comes belongs to nobody.
    is_over: bool,
}

impl Exchange {
    fn new(raw_id: &str, is_endless: bool, room: usize) -> Arc<Exchange> {
        let held = Arc::new(AtomicUsize::new(0));
        Arc::new(Exchange {
            raw_id: raw_id.into(),
            stream: EventStream::new(None, is_endless, held.clone()),
            held,
            room,
            progress: Mutex::default(),
            has_begun: Condvar::new(),
        })
    }

    /// The answer, if it comes before anything else, and soon.
    fn answered_at_once(&self) -> Option<(Vec<u8>, Option<i32>)> {
        crate::blocking::announce();
        let is_waiting = |p: &mut Progress| p.answer.is_none() && !p.is_stream;
        let waited = self.has_begun.wait_timeout_while(self.progress(), AT_ONCE, is_waiting);
        let mut progress = waited.unwrap_or_else(|e| e.into_inner()).0;
        progress.is_stream = true;
        progress.answer.take()
    }

    /// Passes on what has come; `answer` has an error code, or none, where that is the answer.
    fn push(&self, text: Vec<u8>, answer: Option<Option<i32>>) {
        let mut progress = self.progress();
        if progress.is_over {
            return;
        }
        progress.is_over = answer.is_some();
        match answer {
            Some(code) if !progress.is_stream => progress.answer = Some((text, code)),
            _ if self.held.load(Ordering::Relaxed) > self.room => {
                // Nobody reads this. The client learns it, should it come to it, and the server when the stream is left.
                progress.is_over = true;
                let why = "the client reads too slowly (--stdio-buffer, STDIO_BUFFER)";
                self.stream.forget(true);
                self.stream.push(jsonrpc::error_message(&self.raw_id, INTERNAL_ERROR, why).into_bytes());
                self.stream.finish();
            }
            _ => {
                progress.is_stream = true;
                self.stream.push(text);
                if progress.is_over {
                    self.stream.finish();
                }
            }
        }
        self.has_begun.notify_all();
    }

    fn fail(&self, why: &str) {
        let text = jsonrpc::error_message(&self.raw_id, INTERNAL_ERROR, why);
        self.push(text.into_bytes(), Some(Some(INTERNAL_ERROR)));
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(|e| e.into_inner())
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

    fn long_line(&self, _: &TooLong) {}

    fn ended(&self, _: Duration) {
        self.fail("the MCP server ended while it worked on this request");
    }

    fn name(&self) -> String {
        String::new()
    }
}

/// What a child answered to the probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// It knows these revisions, by name where it gave them.
    Modern(Arc<[String]>),
    /// It answered something else.
    Legacy,
    /// It did not answer.
    Silent,
}

/// Asks a child which revisions it knows, within `patience`; and whether the answer is one that stays.
pub(super) fn probe(
    shared: &Arc<SharedChild>,
    account: &Account,
    patience: Duration,
    cancellation: &Cancellation,
) -> io::Result<(Era, bool)> {
    let answer = ask(shared, account, "server/discover", json!({}), patience, cancellation)?;
    let Some(answer) = answer else { return Ok((Era::Silent, true)) };
    let Ok(message) = Message::parse(&answer) else { return Ok((Era::Silent, true)) };
    Ok(match jsonrpc::error_code(&answer) {
        Some(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION) => (Era::Modern(Arc::default()), true),
        Some(code) => (Era::Legacy, matches!(code, METHOD_NOT_FOUND | INVALID_PARAMS | INVALID_REQUEST)),
        None => {
            let versions = message.outcome(&["supportedVersions"]);
            let is_modern = versions.is_some() || message.outcome(&["resultType"]).is_some();
            let versions = versions.and_then(|raw| serde_json::from_str::<Vec<String>>(raw.get()).ok());
            (if is_modern { Era::Modern(versions.unwrap_or_default().into()) } else { Era::Legacy }, true)
        }
    })
}

/// The results of `tools/list`, page by page.
fn list_tools(shared: &Arc<SharedChild>, account: &Account, cancellation: &Cancellation) -> Vec<String> {
    let (mut pages, mut params) = (Vec::new(), json!({}));
    while pages.len() < MAX_PAGES {
        let Ok(Some(answer)) = ask(shared, account, "tools/list", params, LIST_TIMEOUT, cancellation) else { break };
        let Some(page) = Message::parse(&answer).ok().and_then(|m| Some(m.result()?.get().to_string())) else { break };
        let next = serde_json::from_str::<Value>(&page).unwrap_or_default()["nextCursor"].take();
        pages.push(page);
        if !next.is_string() {
            break;
        }
        params = json!({"cursor": next});
    }
    pages
}

/// Asks a child on the proxy's own behalf; the answer, if one comes within `patience`. An error is that the client went
/// away for which it is asked.
fn ask(
    shared: &Arc<SharedChild>,
    account: &Account,
    method: &str,
    mut params: Value,
    patience: Duration,
    cancellation: &Cancellation,
) -> io::Result<Option<String>> {
    params["_meta"] = json!({PROTOCOL_VERSION: REVISION, CLIENT_CAPABILITIES: {},
        "io.modelcontextprotocol/clientInfo": {"name": "mcp-auth-proxy", "version": env!("CARGO_PKG_VERSION")}});
    let request = json!({"jsonrpc": "2.0", "id": new_name(), "method": method, "params": params});
    let question = Arc::new(Question { answer: Mutex::default(), waker: Waker::new()? });
    let Some(port) = shared.attach(&account.user, question.clone()) else { return Ok(None) };
    if port.send(request.to_string().into_bytes()).is_err() {
        return Ok(None);
    }
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = question.answer().take() {
            return Ok(answer);
        }
        match wait_for(&question.waker, deadline.saturating_duration_since(Instant::now()), cancellation) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(None),
            other => other?,
        }
    }
}

/// A question of the proxy's own.
struct Question {
    /// `Some(None)` when there will be no answer.
    answer: Mutex<Option<Option<String>>>,
    waker: Waker,
}

impl Question {
    fn learn(&self, answer: Option<String>) {
        self.answer().get_or_insert(answer);
        self.waker.wake();
    }

    fn answer(&self) -> MutexGuard<'_, Option<Option<String>>> {
        self.answer.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Listener for Question {
    fn line(&self, line: Vec<u8>) {
        let Ok(text) = String::from_utf8(line) else { return };
        if Message::parse(&text).is_ok_and(|m| matches!(m.kind, Kind::Response { .. })) {
            self.learn(Some(text));
        }
    }

    fn long_line(&self, _: &TooLong) {}

    fn ended(&self, _: Duration) {
        self.learn(None);
    }

    fn name(&self) -> String {
        "question".into()
    }
}
