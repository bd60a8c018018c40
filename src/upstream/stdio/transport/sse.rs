//! HTTP+SSE (MCP 2024-11-05), for clients that support nothing newer: one event stream for all messages of the server,
//! and a path to which the client posts its messages. The session ends with its stream.

use std::sync::Arc;

use form_urlencoded::Serializer;
use http::header::ALLOW;
use http::{Method, StatusCode};

use super::streamable::{parse, read_message, refuse_flaw, refused};
use crate::http::{Request, Response};
use crate::mcp::message::Message;
use crate::net::cancellation::Cancellation;
use crate::upstream::stdio::manager::ProcessManager;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::session::Session;

/// The path of the event stream.
pub(crate) const STREAM: &str = "/sse";
/// The path for the client's messages. It is below that of the stream, because a client's token may be for the stream's
/// URL only.
pub(crate) const MESSAGES: &str = "/sse/messages";

/// Answers a request for the stream. `base` stands before its path at the client.
pub(crate) fn stream(manager: &Arc<ProcessManager>, owner: &Owner, base: &str, request: &Request<'_>) -> Response {
    if request.parts.method != Method::GET {
        // Newer clients try Streamable HTTP first; 405 tells them that this path does not support it.
        return Response::text(StatusCode::METHOD_NOT_ALLOWED, "the method here is GET; the MCP endpoint is /mcp")
            .with(ALLOW, "GET");
    }
    let session =
        match Session::open_with_one_stream(manager.clone(), owner.clone(), &Cancellation::of_request(&request.client))
        {
            Ok(session) => session,
            Err(refusal) => return refused(&refusal, None),
        };
    let reader = match session.listen(None, false) {
        Ok(Some(reader)) => reader,
        _ => {
            session.end();
            return Response::text(StatusCode::SERVICE_UNAVAILABLE, "the session has ended");
        }
    };
    manager.adopt(&session);
    let query = Serializer::new(String::new()).append_pair("sessionId", &manager.session_id(&session)).finish();
    let mut reader = reader.on_disconnect(Box::new(move |_| session.end()));
    reader.announce("endpoint", &format!("{base}{MESSAGES}?{query}"));
    reader.into_response(&request.client)
}

/// Accepts a message of the client.
pub(crate) fn message(manager: &Arc<ProcessManager>, owner: &Owner, request: &mut Request<'_>) -> Response {
    if request.parts.method != Method::POST {
        return Response::text(StatusCode::METHOD_NOT_ALLOWED, "the method here is POST").with(ALLOW, "POST");
    }
    let query = request.parts.uri.query().unwrap_or_default();
    let id = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "sessionId").map(|(_, id)| id);
    let Some(session) = id.and_then(|id| manager.find(&id, owner)).filter(|s| s.has_one_stream()) else {
        return Response::text(StatusCode::NOT_FOUND, "there is no such session; its stream may have been closed");
    };
    let text = match read_message(&request.parts.headers, &mut request.body) {
        Ok(text) => text,
        Err(refused) => return *refused,
    };
    match parse(&text) {
        Ok((messages, false)) => match session.post(&messages, false, &Cancellation::of_request(&request.client)) {
            Ok(_) => Response::text(StatusCode::ACCEPTED, "Accepted"),
            Err(refusal) => refused(&refusal, messages.first().and_then(Message::raw_id)),
        },
        Ok(_) => Response::text(StatusCode::BAD_REQUEST, "this revision has no batches"),
        Err(flaw) => refuse_flaw(flaw),
    }
}
