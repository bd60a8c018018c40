//! What is known of a request while it is answered; when it has ended, the access log and the metrics learn it.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::request::Parts;

use super::client_names::ClientNames;
use crate::http::{Caller, End, OnEnd, RequestId};
use crate::identity::{ClientId, Principal};
use crate::observe::lines::Lines;
use crate::observe::log::timestamp;
use crate::observe::metrics::{Ended, Metrics};
use crate::resource::call::{Call, shown, trace_id, trace_of};

/// A request that has ended.
pub struct Ending<'r> {
    pub(super) record: &'r Record,
    pub(super) end: End,
    /// When it ended.
    pub(super) time: String,
    /// How long it took.
    pub(super) duration: Duration,
    /// The name that its client has chosen.
    pub(super) client_name: Arc<str>,
    /// What the JSON lines of both logs have in common, made once.
    pub(super) json: OnceCell<String>,
}

/// Who learns of requests that have ended.
pub struct Sinks {
    /// The access log and the audit log.
    pub logs: Vec<Box<dyn Sink>>,
    /// Names of clients for them.
    pub names: ClientNames,
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
    pub(super) grant: String,
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
            path: if sinks.logs.is_empty() { String::new() } else { shown(head.uri.path()) },
            status: StatusCode::OK,
            is_stream: false,
            server: None,
            user: String::new(),
            client: None,
            grant: String::new(),
            mcp_method: None,
            mcp_name: None,
            trace: trace_of(&head.headers).map(String::from),
            arguments: None,
            upstream: None,
        })
    }

    /// The request has a good token for a server.
    pub fn admitted(&mut self, server: &str, principal: &Principal, call: Call) {
        (self.server, self.mcp_method) = (Some(server.into()), call.method);
        if self.sinks.logs.is_empty() {
            return;
        }
        self.user = principal.user.to_string();
        self.client = Some(principal.client.clone());
        self.grant = principal.grant.to_string();
        (self.mcp_name, self.arguments) = (call.name, call.arguments);
        let of_message = || call.traceparent.as_deref().and_then(trace_id).map(String::from);
        self.trace = self.trace.take().or_else(of_message);
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

/// Takes the records of requests that have ended.
pub trait Sink: Send + Sync {
    /// A request has ended.
    fn ended(&self, ending: &Ending<'_>);
}

impl OnEnd for Record {
    fn ended(self: Box<Self>, end: End) {
        let duration = self.began.elapsed();
        if !self.sinks.logs.is_empty() {
            let client_name = self.client.as_ref().map_or_else(Arc::default, |client| self.sinks.names.of(client));
            let json = OnceCell::new();
            let ending = Ending { record: &self, end, time: timestamp(), duration, client_name, json };
            self.sinks.logs.iter().for_each(|log| log.ended(&ending));
        }
        if let Some(metrics) = &self.sinks.metrics {
            let (server, method) = (self.server.as_deref(), self.mcp_method.as_deref());
            let (status, is_stream) = (self.status.as_u16(), self.is_stream);
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
