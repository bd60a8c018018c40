//! The transport of the revisions from 2026-07-28 on: every request is self-contained, and closing its stream cancels
//! it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::http::Response;
use crate::lock::Unpoisoned;
use crate::mcp::jsonrpc::{self, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, error_for};
use crate::mcp::message::{Kind, Message};
use crate::net::cancellation::Cancellation;
use crate::net::client_handle::ClientHandle;
use crate::upstream::stdio::event_stream::EventStream;
use crate::upstream::stdio::fields::{self, HEADER_MISMATCH, PROTOCOL_VERSION, field};
use crate::upstream::stdio::manager::ProcessManager;
use crate::upstream::stdio::mux::probe::{MISSING_CAPABILITY, REVISION, UNSUPPORTED_VERSION, list_tools};
use crate::upstream::stdio::mux::shared_process::MuxHandle;
use crate::upstream::stdio::mux::state::LISTEN;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::inbox::{Listener, MessageSink};
use crate::upstream::stdio::process::lines::TooLong;
use crate::upstream::stdio::session::Processes;

/// The error code for an unknown revision, as the reference servers of the older revisions send it. It must not be one
/// of the codes imported above, from which a client would conclude that the server is a modern one.
const BAD_REQUEST: i32 = -32000;
/// If the answer comes within this time, it is sent as a plain response, so that an error gets its own HTTP status.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Does the message use one of these revisions?
pub(crate) fn is_modern(message: &Message<'_>, headers: &HeaderMap) -> bool {
    // Revisions are dates, so later revisions compare as greater.
    let is_later = |v: &str| v.len() == REVISION.len() && v >= REVISION && v.starts_with("20");
    field(headers, "mcp-protocol-version").is_some_and(|v| is_later(&v))
        || message.param(&["_meta", PROTOCOL_VERSION]).is_some()
}

/// Answers one message.
pub(crate) fn post(
    manager: &Arc<ProcessManager>,
    owner: &Owner,
    message: &Message<'_>,
    headers: &HeaderMap,
    client: &ClientHandle,
) -> Response {
    let cancellation = Cancellation::of_request(client);
    let id = message.raw_id().map_or("null", RawValue::get);
    let refuse = |code, why: &str| error_for(StatusCode::BAD_REQUEST, id, code, why);
    let (shared, versions) = match manager.modern(owner, &cancellation) {
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
        checked = shared.tool_fields().check(message, headers, || list_tools(&shared, owner, &cancellation));
    }
    if let Err((code, why)) = checked {
        return refuse(code, &why);
    }
    let exchange = Exchange::new(id, method == LISTEN, manager.buffer());
    let Some(handle) = shared.attach(&owner.user, exchange.clone()) else {
        return error_for(StatusCode::OK, id, INTERNAL_ERROR, "the MCP server has just ended; try again");
    };
    if handle.send(message.text().as_bytes().to_vec()).is_err() {
        return error_for(StatusCode::OK, id, INTERNAL_ERROR, "the MCP server does not read what it is sent");
    }
    if !matches!(message.kind, Kind::Request { .. }) {
        return Response::new(StatusCode::ACCEPTED);
    }
    answer(&exchange, handle, client)
}

/// The error for a revision that the server does not support, or `None`. Checked here, because not every server checks
/// the revision with each request.
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

fn answer(exchange: &Arc<Exchange>, handle: MuxHandle, client: &ClientHandle) -> Response {
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
        // However the stream ends, the handle is then dropped, which cancels the request if it is still in flight.
        Ok(reader) => reader.on_disconnect(Box::new(move |_| drop(handle))).into_response(client),
        Err(_) => Response::text(StatusCode::SERVICE_UNAVAILABLE, "too many files are open"),
    }
}

/// One request in flight.
struct Exchange {
    raw_id: String,
    stream: Arc<EventStream>,
    /// Bytes that the client has not read; `room` is their limit.
    held: Arc<AtomicUsize>,
    room: usize,
    progress: Mutex<Progress>,
    has_begun: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The answer and its error code, if it arrived before the stream began: it can be sent as a plain response.
    answer: Option<(Vec<u8>, Option<i32>)>,
    /// Messages go to the event stream.
    is_stream: bool,
    /// The request has been answered, so all further messages are dropped.
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

    /// Waits up to [`AT_ONCE`] and returns the answer, if it is the first message.
    fn answered_at_once(&self) -> Option<(Vec<u8>, Option<i32>)> {
        crate::blocking::announce();
        let is_waiting = |p: &mut Progress| p.answer.is_none() && !p.is_stream;
        let waited = self.has_begun.wait_timeout_while(self.progress(), AT_ONCE, is_waiting);
        let mut progress = waited.unpoisoned().0;
        progress.is_stream = true;
        progress.answer.take()
    }

    /// Passes on a message. `answer` is `Some` if it is the answer; the inner value is its error code, if it is an
    /// error.
    fn push(&self, text: Vec<u8>, answer: Option<Option<i32>>) {
        let mut progress = self.progress();
        if progress.is_over {
            return;
        }
        progress.is_over = answer.is_some();
        match answer {
            Some(code) if !progress.is_stream => progress.answer = Some((text, code)),
            _ if self.held.load(Ordering::Relaxed) > self.room => {
                // The client does not read. Replace everything queued by an error, which it gets if it reads on. The
                // server gets the cancellation when the stream is closed.
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
        self.progress.lock().unpoisoned()
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
