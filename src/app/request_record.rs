//! What is known of a request while it is answered; when it has ended, the access log and the metrics learn it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, StatusCode};

use crate::http::{Caller, End, OnEnd, Request, RequestId};
use crate::identity::{ClientId, Principal};
use crate::mcp::message::{Kind, Message};
use crate::observe::lines::Lines;
use crate::observe::metrics::{Ended, Metrics};

/// Longest path, method or name that is written, in characters.
const MAX_TEXT: usize = 200;

/// Takes the records of requests that have ended.
pub trait Sink: Send + Sync {
    /// A request has ended.
    fn ended(&self, record: &Record, end: End);
}

/// Who learns of requests that have ended.
pub struct Sinks {
    /// The access log and the audit log.
    pub logs: Vec<Box<dyn Sink>>,
    /// Does one of them want the arguments of tools?
    pub has_arguments: bool,
    /// No request is answered while this can't be written.
    pub required: Option<Lines>,
    /// The metrics.
    pub metrics: Option<Arc<Metrics>>,
}

/// What is known of a request that is being answered.
pub struct Record {
    sinks: Arc<Sinks>,
    pub(super) began: Instant,
    pub(super) id: RequestId,
    pub(super) address: IpAddr,
    pub(super) method: http::Method,
    pub(super) path: String,
    pub(super) status: StatusCode,
    pub(super) is_stream: bool,
    pub(super) server: Option<String>,
    pub(super) user: String,
    pub(super) client: Option<ClientId>,
    pub(super) mcp_method: Option<String>,
    pub(super) mcp_name: Option<String>,
    pub(super) trace: Option<String>,
    /// What a tool or a prompt is called with, if that is wanted.
    pub(super) arguments: Option<serde_json::Value>,
    pub(super) upstream: Option<Duration>,
}

impl Record {
    /// A request begins to be answered.
    pub fn new(sinks: &Arc<Sinks>, caller: Caller, head: &Parts) -> Box<Record> {
        if let Some(metrics) = &sinks.metrics {
            metrics.begun();
        }
        Box::new(Record {
            sinks: sinks.clone(),
            began: Instant::now(),
            id: caller.id,
            address: caller.address,
            method: head.method.clone(),
            path: shown(head.uri.path()),
            status: StatusCode::OK,
            is_stream: false,
            server: None,
            user: String::new(),
            client: None,
            mcp_method: None,
            mcp_name: None,
            trace: trace_of(&head.headers),
            arguments: None,
            upstream: None,
        })
    }

    /// The request has a good token for a server.
    pub fn admitted(&mut self, server: &str, principal: &Principal, request: &Request<'_>) {
        self.server = Some(server.into());
        self.user = principal.user.to_string();
        self.client = Some(principal.client.clone());
        let field = |name: &str| request.parts.headers.get(name).and_then(|value| value.to_str().ok()).map(shown);
        (self.mcp_method, self.mcp_name) = (field("mcp-method"), field("mcp-name"));
        let Some(message) = request.body.whole().and_then(|body| std::str::from_utf8(body).ok()) else { return };
        let Ok(message) = Message::parse(message) else {
            self.mcp_method =
                self.mcp_method.take().or_else(|| message.trim_start().starts_with('[').then(|| "batch".into()));
            return;
        };
        let (Kind::Request { method, .. } | Kind::Notification { method }) = &message.kind else { return };
        let text = |path: &[&str]| message.param(path).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        self.mcp_name = text(&["name"]).or_else(|| text(&["uri"])).as_deref().map(shown);
        self.mcp_method = Some(shown(method));
        if self.sinks.has_arguments {
            let arguments = message.param(&["arguments"]).map(|raw| serde_json::from_str(raw.get()));
            self.arguments = arguments.and_then(Result::ok);
        }
        self.trace = self.trace.take().or_else(|| trace_id(&text(&["_meta", "traceparent"])?));
    }

    /// The MCP server has begun to answer after this time.
    pub fn upstream_answered(&mut self, after: Duration) {
        self.upstream = Some(after);
    }

    /// The answer is known, up to its body.
    pub fn answered(&mut self, status: StatusCode, is_stream: bool) {
        (self.status, self.is_stream) = (status, is_stream);
    }
}

impl OnEnd for Record {
    fn ended(self: Box<Self>, end: End) {
        self.sinks.logs.iter().for_each(|log| log.ended(&self, end));
        if let Some(metrics) = &self.sinks.metrics {
            let (server, method) = (self.server.as_deref(), self.mcp_method.as_deref());
            let (status, duration, is_stream) = (self.status.as_u16(), self.began.elapsed(), self.is_stream);
            metrics.ended(&Ended { server, method, status, duration, is_stream });
        }
    }
}

/// Also after a panic, when there is no answer to end.
impl Drop for Record {
    fn drop(&mut self) {
        if let Some(metrics) = &self.sinks.metrics {
            metrics.over();
        }
    }
}

fn shown(text: &str) -> String {
    if text.len() <= MAX_TEXT { text.into() } else { text.chars().take(MAX_TEXT).collect() }
}

fn trace_of(headers: &HeaderMap) -> Option<String> {
    trace_id(headers.get("traceparent")?.to_str().ok()?)
}

/// The trace id of a `traceparent` (W3C Trace Context section 3.2).
fn trace_id(text: &str) -> Option<String> {
    let [_, trace, _, _] = text.split('-').collect::<Vec<_>>()[..] else { return None };
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (trace.len() == 32 && trace.bytes().all(is_hex)).then(|| trace.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_trace_id_of_a_traceparent_is_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_id(good).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in ["", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "00-4bf9-00f0-01", "x"] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }
}
