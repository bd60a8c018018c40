//! What is known of a request while it is answered; when it has ended, the logs and the metrics learn it.
//!
//! What the lines of the logs say is put into them as soon as it is known, since to keep each part until the end would cost
//! an allocation for each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::request::Parts;

use super::client_names::ClientNames;
use crate::http::{Caller, End, OnEnd};
use crate::identity::Principal;
use crate::observe::line::{Line, Value};
use crate::observe::lines::Lines;
use crate::observe::log::{LogFormat, timestamp};
use crate::observe::metrics::{Ended, Metrics, method_label};
use crate::resource::call::{Call, shown, trace_id, trace_of};

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

/// A request that has ended.
pub struct Ending<'e> {
    /// When it ended.
    pub(super) time: &'e str,
    /// Did it reach an MCP server?
    pub(super) has_server: bool,
    /// All other fields of its line, as members of a JSON object, each behind a comma; empty if nobody wants JSON.
    pub(super) json: &'e str,
    /// The same as text; empty if nobody wants that.
    pub(super) text: &'e str,
    /// What a tool or a prompt was called with, if that is wanted and known.
    pub(super) arguments: Option<&'e serde_json::Value>,
}

/// What is known of a request that is being answered.
pub struct Record {
    sinks: Arc<Sinks>,
    began: Instant,
    status: StatusCode,
    is_stream: bool,
    /// The server that it has a good token for.
    server: Option<String>,
    mcp_method: Option<&'static str>,
    trace: Option<Trace>,
    arguments: Option<serde_json::Value>,
    upstream: Option<Duration>,
    json: Option<Line>,
    text: Option<Line>,
}

/// A trace id: 32 digits.
type Trace = [u8; 32];

impl Record {
    /// A request begins to be answered.
    pub fn new(sinks: &Arc<Sinks>, caller: Caller, head: &Parts) -> Box<Record> {
        if let Some(metrics) = &sinks.metrics {
            metrics.begun();
        }
        let wanted = |format| sinks.logs.iter().any(|log| log.format() == format).then(|| Line::new(format));
        let mut record = Box::new(Record {
            sinks: sinks.clone(),
            began: Instant::now(),
            status: StatusCode::OK,
            is_stream: false,
            server: None,
            mcp_method: None,
            trace: trace_of(&head.headers).and_then(|trace| trace.as_bytes().try_into().ok()),
            arguments: None,
            upstream: None,
            json: wanted(LogFormat::Json),
            text: wanted(LogFormat::Text),
        });
        if record.has_lines() {
            record.put("request", Value::Plain(caller.id.as_str()));
            record.put("address", Value::Address(caller.address));
            record.put("method", Value::Text(head.method.as_str()));
            record.put("path", Value::Text(&shown(head.uri.path())));
        }
        record
    }

    /// The request has a good token for a server.
    pub fn admitted(&mut self, server: &str, principal: &Principal, call: Call<'_>) {
        self.server = Some(server.into());
        self.mcp_method = call.method.as_deref().map(method_label);
        if !self.has_lines() {
            return;
        }
        let name = self.sinks.names.of(&principal.client);
        for (field, text) in [
            ("user", principal.user.as_str()),
            ("client", principal.client.as_str()),
            ("client_name", &name),
            ("grant", principal.grant.as_str()),
            ("server", server),
            ("mcp_method", call.method.as_deref().unwrap_or_default()),
            ("mcp_name", call.name.as_deref().unwrap_or_default()),
        ] {
            self.put(field, Value::Text(text));
        }
        self.arguments = call.arguments;
        let of_message = || call.traceparent.as_deref().and_then(trace_id)?.as_bytes().try_into().ok();
        self.trace = self.trace.or_else(of_message);
    }

    /// The MCP server has begun to answer after this time.
    pub fn upstream_answered(&mut self, after: Duration) {
        self.upstream = Some(after);
    }

    /// The answer is known, up to its body.
    pub fn answered(&mut self, status: StatusCode, is_stream: bool) {
        (self.status, self.is_stream) = (status, is_stream);
    }

    fn has_lines(&self) -> bool {
        self.json.is_some() || self.text.is_some()
    }

    fn put(&mut self, name: &str, value: Value<'_>) {
        for line in [&mut self.json, &mut self.text].into_iter().flatten() {
            line.add(name, value);
        }
    }

    /// Puts the rest into the lines, and tells the logs.
    fn write(&mut self, end: End, duration: Duration) {
        if self.server.is_none() {
            for field in ["user", "client", "client_name", "grant", "server", "mcp_method", "mcp_name"] {
                self.put(field, Value::Plain(""));
            }
        }
        self.put("status", Value::Number(self.status.as_u16().into()));
        self.put("bytes", Value::Number(end.body));
        self.put("duration_ms", Value::Time(Some(duration)));
        self.put("upstream_ms", Value::Time(self.upstream));
        self.put("is_stream", Value::Truth(self.is_stream));
        self.put("is_whole", Value::Truth(end.is_whole));
        let trace = self.trace;
        let trace = trace.as_ref().and_then(|trace| std::str::from_utf8(trace).ok()).unwrap_or_default();
        self.put("trace", Value::Plain(trace));
        let ending = Ending {
            time: &timestamp(),
            has_server: self.server.is_some(),
            json: self.json.as_ref().map_or("", Line::members),
            text: self.text.as_ref().map_or("", Line::members),
            arguments: self.arguments.as_ref(),
        };
        self.sinks.logs.iter().for_each(|log| log.ended(&ending));
    }
}

/// Takes the records of requests that have ended.
pub trait Sink: Send + Sync {
    /// The format of its lines.
    fn format(&self) -> LogFormat;

    /// A request has ended.
    fn ended(&self, ending: &Ending<'_>);
}

impl OnEnd for Record {
    fn ended(mut self: Box<Self>, end: End) {
        let duration = self.began.elapsed();
        if self.has_lines() {
            self.write(end, duration);
        }
        if let Some(metrics) = &self.sinks.metrics {
            let (server, method) = (self.server.as_deref(), self.mcp_method);
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
