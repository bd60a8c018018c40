//! The access log: one line for each request, when it ends.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::request_record::{Record, Sink};
use crate::bounded_map::BoundedMap;
use crate::core::Core;
use crate::http::End;
use crate::identity::ClientId;
use crate::lock::Unpoisoned;
use crate::observe::lines::Lines;
use crate::observe::log::{LogFormat, escape_into, is_bidi_control, timestamp};
use crate::store::rows::Client;

/// Names of clients that are remembered, and for how long.
const MAX_NAMES: usize = 1_000;
const NAME_LIFETIME: Duration = Duration::from_secs(60);

/// The access log.
pub(super) struct AccessLog {
    lines: Lines,
    format: LogFormat,
    core: Arc<Core>,
    names: Mutex<BoundedMap<ClientId, (Instant, Arc<str>)>>,
}

impl AccessLog {
    /// Writes to `lines`.
    pub(super) fn new(lines: Lines, format: LogFormat, core: Arc<Core>) -> AccessLog {
        AccessLog { lines, format, core, names: Mutex::new(BoundedMap::new(MAX_NAMES)) }
    }

    fn fields(&self, record: &Record, end: End) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.into(), value));
        put("time", timestamp().into());
        put("request", record.id.as_str().into());
        put("address", record.address.to_string().into());
        put("method", record.method.as_str().into());
        put("path", record.path.as_str().into());
        put("status", record.status.as_u16().into());
        put("bytes", end.body.into());
        put("duration_ms", millis(record.began.elapsed()));
        put("upstream_ms", record.upstream.map_or(Value::Null, millis));
        put("is_stream", record.is_stream.into());
        put("is_whole", end.is_whole.into());
        put("server", record.server.as_deref().unwrap_or_default().into());
        put("user", record.user.as_str().into());
        put("client", record.client.as_ref().map_or("", ClientId::as_str).into());
        put("client_name", record.client.as_ref().map_or(Value::from(""), |client| (*self.name(client)).into()));
        put("mcp_method", record.mcp_method.as_deref().unwrap_or_default().into());
        put("mcp_name", record.mcp_name.as_deref().unwrap_or_default().into());
        put("trace", record.trace.as_deref().unwrap_or_default().into());
        fields
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

impl Sink for AccessLog {
    fn ended(&self, record: &Record, end: End) {
        let fields = self.fields(record, end);
        let line = match self.format {
            LogFormat::Json => json(&fields),
            LogFormat::Text => text(&fields),
        };
        self.lines.put(line.as_bytes());
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

/// Milliseconds with three decimals.
fn millis(time: Duration) -> Value {
    (time.as_micros() as f64 / 1_000.0).into()
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
        let (text, _) = text.split_once("## Metrics").unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        assert_eq!(rows.map(|(name, _)| name).collect::<Vec<_>>(), ORDER);
    }
}
