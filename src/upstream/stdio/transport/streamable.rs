//! The MCP endpoint: Streamable HTTP of the revisions from 2025-03-26 to 2025-11-25. Requests of later revisions are
//! passed to [`modern`].

use std::io::Read;
use std::sync::Arc;

use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde_json::value::RawValue;

use super::modern;
use crate::http::{Body, BodyError, Request, Response};
use crate::mcp::jsonrpc::{INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, error_for};
use crate::mcp::message::{Flaw, Kind, Message, check_depth, one_line, split};
use crate::net::cancellation::Cancellation;
use crate::net::client_handle::ClientHandle;
use crate::upstream::stdio::manager::ProcessManager;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::session::{Posted, Refusal, Session};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// Revisions with `initialize`. 2024-11-05 has no Streamable HTTP, but old servers support no other revision.
const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The only revision in which a body may be a batch.
const WITH_BATCHES: &str = "2025-03-26";
/// From this revision on, streams begin with an event without data; older clients fail on it.
const WITH_PRIMING: &str = "2025-11-25";
/// Most bytes of an `initialize` request, which is stored as long as its session.
const MAX_INITIALIZE: usize = 64 << 10;

/// Answers a request for the endpoint.
pub(crate) fn handle(manager: &Arc<ProcessManager>, owner: &Owner, request: &mut Request<'_>) -> Response {
    let headers = &request.parts.headers;
    match request.parts.method {
        Method::POST => post(manager, owner, headers, &mut request.body, &request.client),
        Method::GET => get(manager, owner, headers, &request.client),
        Method::DELETE => match find(manager, owner, headers) {
            Ok(session) => {
                session.end();
                Response::new(StatusCode::OK)
            }
            Err(refused) => *refused,
        },
        _ => Response::text(StatusCode::METHOD_NOT_ALLOWED, "the methods here are GET, POST and DELETE")
            .with(ALLOW, "GET, POST, DELETE"),
    }
}

fn post(
    manager: &Arc<ProcessManager>,
    owner: &Owner,
    headers: &HeaderMap,
    body: &mut Body<'_>,
    client: &ClientHandle,
) -> Response {
    if !accepts(headers, "application/json") || !accepts(headers, "text/event-stream") {
        let why = "Not Acceptable: a client must accept both application/json and text/event-stream";
        return refuse(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, why);
    }
    let text = match read_message(headers, body) {
        Ok(text) => text,
        Err(refused) => return *refused,
    };
    let (messages, is_batch) = match parse(&text) {
        Ok(parsed) => parsed,
        Err(flaw) => return refuse_flaw(flaw),
    };
    if let ([message], false) = (messages.as_slice(), is_batch)
        && modern::is_modern(message, headers)
    {
        return modern::post(manager, owner, message, headers, client);
    }
    let is_initialize = |m: &Message<'_>| matches!(&m.kind, Kind::Request { method, .. } if method == "initialize");
    if messages.iter().any(is_initialize) {
        return initialize(manager, owner, headers, &messages, client);
    }
    let session = match find(manager, owner, headers) {
        Ok(session) => session,
        Err(refused) => return *refused,
    };
    let revision = session.revision().unwrap_or_default();
    if is_batch && revision != WITH_BATCHES {
        let why = "batches exist in revision 2025-03-26 only";
        return refuse(StatusCode::BAD_REQUEST, INVALID_REQUEST, why);
    }
    let id = messages.iter().find(|m| matches!(m.kind, Kind::Request { .. })).and_then(Message::raw_id);
    match session.post(&messages, revision.as_str() >= WITH_PRIMING, &Cancellation::of_request(client)) {
        Ok(Posted::Accepted) => Response::new(StatusCode::ACCEPTED),
        Ok(Posted::Stream(reader)) => reader.into_response(client).with(SESSION_ID, manager.session_id(&session)),
        Err(refusal) => refused(&refusal, id),
    }
}

fn initialize(
    manager: &Arc<ProcessManager>,
    owner: &Owner,
    headers: &HeaderMap,
    messages: &[Message<'_>],
    client: &ClientHandle,
) -> Response {
    let bad = |why| refuse(StatusCode::BAD_REQUEST, INVALID_REQUEST, why);
    let [message] = messages else { return bad("initialize must come alone") };
    if message.is_ambiguous() {
        return bad("a member of the message occurs twice");
    }
    if message.text().len() > MAX_INITIALIZE {
        return bad("the initialize request is too large");
    }
    if headers.contains_key(&SESSION_ID) {
        return bad("the session has been initialized already");
    }
    let opened = match Session::open(manager.clone(), owner.clone(), message, &Cancellation::of_request(client)) {
        Ok(opened) => opened,
        Err(refusal) => return refused(&refusal, message.raw_id()),
    };
    let response = Response::new(StatusCode::OK).with_body("application/json", opened.answer.into_bytes());
    if opened.is_error {
        return response;
    }
    manager.adopt(&opened.session);
    response.with(SESSION_ID, manager.session_id(&opened.session))
}

fn get(manager: &Arc<ProcessManager>, owner: &Owner, headers: &HeaderMap, client: &ClientHandle) -> Response {
    if !accepts(headers, "text/event-stream") {
        let why = "Not Acceptable: a client must accept text/event-stream";
        return refuse(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, why);
    }
    let session = match find(manager, owner, headers) {
        Ok(session) => session,
        Err(refused) => return *refused,
    };
    let priming = session.revision().is_some_and(|r| r.as_str() >= WITH_PRIMING);
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    match session.listen(last, priming) {
        Ok(Some(reader)) => reader.into_response(client).with(SESSION_ID, manager.session_id(&session)),
        Ok(None) => {
            let why = "Conflict: the session's stream is open already";
            refuse(StatusCode::CONFLICT, INVALID_REQUEST, why)
        }
        Err(refusal) => refused(&refusal, None),
    }
}

/// The session that the request names, if it is this owner's.
fn find(manager: &Arc<ProcessManager>, owner: &Owner, headers: &HeaderMap) -> Result<Arc<Session>, Box<Response>> {
    let bad = |why| Err(Box::new(refuse(StatusCode::BAD_REQUEST, INVALID_REQUEST, why)));
    let mut ids = headers.get_all(&SESSION_ID).iter();
    let Some(id) = ids.next() else {
        return bad("Bad Request: the Mcp-Session-Id field is missing; begin with initialize");
    };
    if ids.next().is_some() {
        return bad("there are two Mcp-Session-Id fields");
    }
    let revision = headers.get("mcp-protocol-version");
    let session = id.to_str().ok().and_then(|id| manager.find(id, owner));
    let Some(session) = session else { return Err(Box::new(refused(&Refusal::Gone, None))) };
    if let Some(revision) = revision.map(|r| r.to_str().unwrap_or_default())
        && !REVISIONS.contains(&revision)
        && session.revision().as_deref() != Some(revision)
    {
        return bad("Bad Request: Unsupported protocol version in MCP-Protocol-Version");
    }
    Ok(session)
}

/// Reads the body of a POST and puts it on one line.
pub(crate) fn read_message(headers: &HeaderMap, body: &mut Body<'_>) -> Result<String, Box<Response>> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let why = "Unsupported Media Type: the Content-Type must be application/json";
        return Err(Box::new(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST, why)));
    }
    let mut bytes = Vec::new();
    if let Err(error) = body.read_to_end(&mut bytes) {
        let error = BodyError::of(&error).unwrap_or(BodyError::Gone);
        return Err(Box::new(refuse(error.status(), INVALID_REQUEST, &error.to_string())));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(one_line(&text)),
        Err(_) => Err(Box::new(refuse_flaw(Flaw::NotJson))),
    }
}

/// Parses one message, or those of a batch. The `bool` is true for a batch.
pub(crate) fn parse(text: &str) -> Result<(Vec<Message<'_>>, bool), Flaw> {
    check_depth(text)?;
    let (texts, is_batch) = split(text)?;
    let messages: Result<_, _> = texts.into_iter().map(Message::parse).collect();
    Ok((messages?, is_batch))
}

pub(crate) fn refuse_flaw(flaw: Flaw) -> Response {
    match flaw {
        Flaw::NotJson => refuse(StatusCode::BAD_REQUEST, PARSE_ERROR, "Parse error: the body is not JSON"),
        Flaw::NotMessage(why) => refuse(StatusCode::BAD_REQUEST, INVALID_REQUEST, why),
    }
}

fn refuse(status: StatusCode, code: i32, why: &str) -> Response {
    error_for(status, "null", code, why)
}

/// The answer to a request that a session refuses.
pub(crate) fn refused(refusal: &Refusal, id: Option<&RawValue>) -> Response {
    let written = id.map_or("null", RawValue::get);
    match refusal {
        Refusal::Gone => refuse(StatusCode::NOT_FOUND, -32001, "Session not found: it has ended; initialize again"),
        Refusal::Bad(why) => error_for(StatusCode::BAD_REQUEST, written, INVALID_REQUEST, why),
        // 200, because every client shows a JSON-RPC error to its user, but few clients do so if the HTTP status is an
        // error.
        Refusal::Unavailable(why) if id.is_some() => error_for(StatusCode::OK, written, INTERNAL_ERROR, why),
        Refusal::Unavailable(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, INTERNAL_ERROR, why).with(RETRY_AFTER, 1),
        Refusal::Interrupted => {
            error_for(StatusCode::SERVICE_UNAVAILABLE, written, INTERNAL_ERROR, "the proxy is stopping; try again")
        }
    }
}

/// Does the client take answers of `media_type`?
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let (group, _) = media_type.split_once('/').unwrap_or_default();
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    ranges
        .map(|r| r.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .any(|range| range == media_type || range == "*/*" || range.strip_suffix("/*").is_some_and(|g| g == group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_media_types_are_understood() {
        let accepts = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, value.parse().unwrap());
            super::accepts(&headers, "text/event-stream")
        };
        for yes in ["text/event-stream", "application/json, Text/Event-Stream;q=0.5", "*/*", "text/*"] {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["", "application/json", "application/*", "text/event-streams", "text/html, application/json"] {
            assert!(!accepts(no), "{no}");
        }
    }
}
