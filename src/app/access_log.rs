//! The access log: one line for each request, when it ends.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
        let name = record.client.as_ref().map(|client| self.name(client));
        let mut line = Line { text: String::with_capacity(512), format: self.format };
        each_field(record, end, name.as_deref().unwrap_or_default(), &mut |name, value| line.add(name, value));
        self.lines.put(line.end().as_bytes());
    }
}

/// The value of a field.
enum Value<'r> {
    Text(&'r str),
    Number(u64),
    /// In milliseconds, with three decimals; `None` if there is none.
    Time(Option<Duration>),
    Truth(bool),
}

/// The fields of a line, in their order.
fn each_field(record: &Record, end: End, client_name: &str, put: &mut dyn FnMut(&'static str, Value<'_>)) {
    use Value::{Number, Text, Time, Truth};
    put("time", Text(&timestamp()));
    put("request", Text(record.id.as_str()));
    put("address", Text(&record.address.to_string()));
    put("user", Text(&record.user));
    put("client", Text(record.client.as_ref().map_or("", ClientId::as_str)));
    put("client_name", Text(client_name));
    put("server", Text(record.server.as_deref().unwrap_or_default()));
    put("method", Text(record.method.as_str()));
    put("path", Text(&record.path));
    put("mcp_method", Text(record.mcp_method.as_deref().unwrap_or_default()));
    put("mcp_name", Text(record.mcp_name.as_deref().unwrap_or_default()));
    put("status", Number(record.status.as_u16().into()));
    put("bytes", Number(end.body));
    put("duration_ms", Time(Some(record.began.elapsed())));
    put("upstream_ms", Time(record.upstream));
    put("is_stream", Truth(record.is_stream));
    put("is_whole", Truth(end.is_whole));
    put("trace", Text(record.trace.as_deref().unwrap_or_default()));
}

/// A line that grows by one field after the other.
struct Line {
    text: String,
    format: LogFormat,
}

impl Line {
    fn add(&mut self, name: &str, value: Value<'_>) {
        match self.format {
            LogFormat::Json => self.add_json(name, value),
            LogFormat::Text => self.add_text(name, value),
        }
    }

    fn add_json(&mut self, name: &str, value: Value<'_>) {
        let line = &mut self.text;
        line.push_str(if line.is_empty() { "{\"" } else { ",\"" });
        line.push_str(name);
        line.push_str("\":");
        let _ = match value {
            // Nearly all texts need no escape.
            Value::Text(text) if text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') => {
                write!(line, "\"{text}\"")
            }
            Value::Text(text) => {
                let escaped = serde_json::Value::from(text).to_string();
                escaped.chars().try_for_each(|c| match is_bidi_control(c) {
                    true => write!(line, "\\u{:04x}", u32::from(c)),
                    false => line.write_char(c),
                })
            }
            Value::Number(number) => write!(line, "{number}"),
            Value::Time(Some(time)) => write!(line, "{}.{:03}", time.as_millis(), time.as_micros() % 1_000),
            Value::Time(None) => line.write_str("null"),
            Value::Truth(is) => write!(line, "{is}"),
        };
    }

    fn add_text(&mut self, name: &str, value: Value<'_>) {
        let value = match value {
            Value::Text("") | Value::Time(None) => return,
            Value::Text(text) => text.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Time(Some(time)) => format!("{}.{:03}", time.as_millis(), time.as_micros() % 1_000),
            Value::Truth(is) => is.to_string(),
        };
        let line = &mut self.text;
        if !line.is_empty() {
            let _ = write!(line, " {name}=");
        }
        match value.contains([' ', '"', '=']) {
            true => {
                line.push('"');
                escape_into(line, &value.replace('"', "'"));
                line.push('"');
            }
            false => escape_into(line, &value),
        }
    }

    fn end(mut self) -> String {
        self.text.push_str(if self.format == LogFormat::Json { "}\n" } else { "\n" });
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["time", "user", "path", "mcp_name"];

    fn line(format: LogFormat) -> String {
        let mut line = Line { text: String::new(), format };
        NAMES.iter().for_each(|name| line.add(name, Value::Text("a\n\"b\u{202e}\\\u{1b}é")));
        line.add("status", Value::Number(200));
        line.add("duration_ms", Value::Time(Some(Duration::from_micros(12_034))));
        line.add("upstream_ms", Value::Time(None));
        line.add("is_whole", Value::Truth(true));
        line.end()
    }

    #[test]
    fn a_line_can_not_be_forged() {
        let json = line(LogFormat::Json);
        assert!(json.matches('\n').count() == 1 && !json.contains(['\u{202e}', '\u{1b}']), "{json}");
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(NAMES.iter().all(|name| parsed[name] == "a\n\"b\u{202e}\\\u{1b}é"), "{parsed}");
        assert_eq!(
            (&parsed["status"], &parsed["duration_ms"], &parsed["is_whole"]),
            (&200.into(), &12.034.into(), &true.into())
        );
        assert!(parsed["upstream_ms"].is_null());
        let text = line(LogFormat::Text);
        assert!(text.matches('\n').count() == 1 && !text.contains(['\u{202e}', '\u{1b}']), "{text}");
        assert!(text.contains(r#" user="#), "{text}");
        assert!(text.ends_with(" status=200 duration_ms=12.034 is_whole=true\n"), "{text}");
    }
}
