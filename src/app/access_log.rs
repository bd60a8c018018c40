//! The access log: one line for each request, when it ends.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use crate::bounded_map::BoundedMap;
use crate::core::Core;
use crate::http::{Caller, End, OnEnd, Request, RequestId};
use crate::identity::{ClientId, Principal};
use crate::lock::Unpoisoned;
use crate::mcp::message::{Kind, Message};
use crate::observe::lines::Lines;
use crate::observe::log::{LogFormat, escape_into, is_bidi_control, timestamp};
use crate::store::rows::Client;

/// Longest path, method or name that is written, in characters.
const MAX_TEXT: usize = 200;
/// Names of clients that are remembered, and for how long.
const MAX_NAMES: usize = 1_000;
const NAME_LIFETIME: Duration = Duration::from_secs(60);

/// The access log.
pub struct AccessLog {
    /// Where the lines go.
    pub lines: Lines,
    format: LogFormat,
    core: Arc<Core>,
    names: Mutex<BoundedMap<ClientId, (Instant, Arc<str>)>>,
}

impl AccessLog {
    /// Writes to `lines`.
    pub fn new(lines: Lines, format: LogFormat, core: Arc<Core>) -> AccessLog {
        AccessLog { lines, format, core, names: Mutex::new(BoundedMap::new(MAX_NAMES)) }
    }

    /// The name of a client, which it has chosen itself.
    fn name(&self, client: &ClientId) -> Arc<str> {
        if let Some((_, name)) =
            self.names.lock().unpoisoned().get(client).filter(|(at, _)| at.elapsed() < NAME_LIFETIME)
        {
            return name.clone();
        }
        let row = self.core.state.get::<Client>(client.as_str()).ok().flatten();
        let name: Arc<str> = row.and_then(|row| row.name).unwrap_or_default().into();
        let mut names = self.names.lock().unpoisoned();
        *names.get_or_insert(client.clone(), (Instant::now(), name.clone()), &[]) = (Instant::now(), name.clone());
        name
    }
}

/// What is known of a request that is being answered.
pub struct Entry {
    log: Arc<AccessLog>,
    began: Instant,
    id: RequestId,
    address: IpAddr,
    method: http::Method,
    path: String,
    status: StatusCode,
    is_stream: bool,
    server: String,
    user: String,
    client: Option<ClientId>,
    mcp_method: Option<String>,
    mcp_name: Option<String>,
    trace: Option<String>,
    upstream: Option<Duration>,
}

impl Entry {
    /// A request begins to be answered.
    pub fn new(log: &Arc<AccessLog>, caller: Caller, head: &Parts) -> Box<Entry> {
        Box::new(Entry {
            log: log.clone(),
            began: Instant::now(),
            id: caller.id,
            address: caller.address,
            method: head.method.clone(),
            path: shown(head.uri.path()),
            status: StatusCode::OK,
            is_stream: false,
            server: String::new(),
            user: String::new(),
            client: None,
            mcp_method: None,
            mcp_name: None,
            trace: trace_of(&head.headers),
            upstream: None,
        })
    }

    /// The request has a good token for a server.
    pub fn admitted(&mut self, server: &str, principal: &Principal, request: &Request<'_>) {
        self.server = server.into();
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

    fn fields(&self, end: End) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.into(), value));
        put("time", timestamp().into());
        put("request", self.id.as_str().into());
        put("address", self.address.to_string().into());
        put("method", self.method.as_str().into());
        put("path", self.path.as_str().into());
        put("status", self.status.as_u16().into());
        put("bytes", end.body.into());
        put("duration_ms", millis(self.began.elapsed()));
        put("upstream_ms", self.upstream.map_or(Value::Null, millis));
        put("is_stream", self.is_stream.into());
        put("is_whole", end.is_whole.into());
        put("server", self.server.as_str().into());
        put("user", self.user.as_str().into());
        put("client", self.client.as_ref().map_or("", ClientId::as_str).into());
        put("client_name", self.client.as_ref().map_or(Value::from(""), |client| (*self.log.name(client)).into()));
        put("mcp_method", self.mcp_method.as_deref().unwrap_or_default().into());
        put("mcp_name", self.mcp_name.as_deref().unwrap_or_default().into());
        put("trace", self.trace.as_deref().unwrap_or_default().into());
        fields
    }
}

impl OnEnd for Entry {
    fn ended(self: Box<Self>, end: End) {
        let fields = self.fields(end);
        let line = match self.log.format {
            LogFormat::Json => json(&fields),
            LogFormat::Text => text(&fields),
        };
        self.log.lines.put(line.as_bytes());
    }
}

fn json(fields: &Map<String, Value>) -> String {
    let mut line = String::from("{");
    for (name, value) in ORDER.iter().filter_map(|name| Some((name, fields.get(*name)?))) {
        let _ = write!(line, "{}\"{name}\":{value}", if line.len() > 1 { "," } else { "" });
    }
    line.push_str("}\n");
    match line.contains(is_bidi_control) {
        false => line,
        true => {
            let escaped = |c| if is_bidi_control(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
            line.chars().map(escaped).collect()
        }
    }
}

fn text(fields: &Map<String, Value>) -> String {
    let mut line = String::new();
    for (name, value) in ORDER.iter().filter_map(|name| Some((name, fields.get(*name)?))) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        if value.is_empty() || value == "null" {
            continue;
        }
        if *name != "time" {
            let _ = write!(line, " {name}=");
        }
        match value.contains([' ', '"', '=']) {
            true => {
                line.push('"');
                escape_into(&mut line, &value.replace('"', "'"));
                line.push('"');
            }
            false => escape_into(&mut line, &value),
        }
    }
    line.push('\n');
    line
}

/// The fields, in the order of a line.
const ORDER: &[&str] = &[
    "time",
    "request",
    "address",
    "user",
    "client",
    "client_name",
    "server",
    "method",
    "path",
    "mcp_method",
    "mcp_name",
    "status",
    "bytes",
    "duration_ms",
    "upstream_ms",
    "is_stream",
    "is_whole",
    "trace",
];

fn shown(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Milliseconds with three decimals.
fn millis(time: Duration) -> Value {
    (time.as_micros() as f64 / 1_000.0).into()
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
    fn a_line_has_every_field_once_and_can_not_be_forged() {
        let mut fields = Map::new();
        for name in ORDER {
            fields.insert((*name).into(), "a\n\"b\u{202e}".into());
        }
        let line = json(&fields);
        assert!(line.matches('\n').count() == 1 && !line.contains('\u{202e}'), "{line}");
        let parsed: Map<String, Value> = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed, fields);
        let line = text(&fields);
        assert!(line.matches('\n').count() == 1 && line.contains("user=\"a\\u{a}'b"), "{line}");
    }

    #[test]
    fn the_documentation_lists_the_fields() {
        let text = include_str!("../../docs/monitoring.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        assert_eq!(rows.map(|(name, _)| name).collect::<Vec<_>>(), ORDER);
    }

    #[test]
    fn only_the_trace_id_of_a_traceparent_is_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_id(good).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in ["", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "00-4bf9-00f0-01", "x"] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }
}
