//! The access log: one line for each request, when it ends.

use super::request_record::{Ending, Sink};
use crate::identity::ClientId;
use crate::observe::line::{Line, Value};
use crate::observe::lines::Lines;
use crate::observe::log::LogFormat;

/// The access log.
pub(super) struct AccessLog {
    lines: Lines,
    format: LogFormat,
}

impl AccessLog {
    /// Writes to `lines`.
    pub(super) fn new(lines: Lines, format: LogFormat) -> AccessLog {
        AccessLog { lines, format }
    }
}

impl Sink for AccessLog {
    fn ended(&self, ending: &Ending<'_>) {
        match self.format {
            LogFormat::Json => self.lines.put(&[r#"{"time":""#, &ending.time, "\"", json_of(ending), "}\n"]),
            LogFormat::Text => {
                let mut line = Line::new(LogFormat::Text);
                line.add("time", Value::Plain(&ending.time));
                each_field(ending, |name, value| line.add(name, value));
                self.lines.put(&[&line.end()]);
            }
        }
    }
}

/// All fields but the time, as members of a JSON object, each behind a comma.
pub(super) fn json_of<'e>(ending: &'e Ending<'_>) -> &'e str {
    ending.json.get_or_init(|| {
        let mut line = Line::new(LogFormat::Json);
        each_field(ending, |name, value| line.add(name, value));
        line.members()
    })
}

/// What is written about a request besides the time, in this order.
fn each_field(ending: &Ending<'_>, mut put: impl FnMut(&'static str, Value<'_>)) {
    use Value::{Address, Number, Plain, Text, Time, Truth};
    let record = ending.record;
    put("request", Plain(record.id.as_str()));
    put("address", Address(record.address));
    put("user", Text(&record.user));
    put("client", Text(record.client.as_ref().map_or("", ClientId::as_str)));
    put("client_name", Text(&ending.client_name));
    put("grant", Text(&record.grant));
    put("server", Text(record.server.as_deref().unwrap_or_default()));
    put("method", Text(record.method.as_str()));
    put("path", Text(&record.path));
    put("mcp_method", Text(record.mcp_method.as_deref().unwrap_or_default()));
    put("mcp_name", Text(record.mcp_name.as_deref().unwrap_or_default()));
    put("status", Number(record.status.as_u16().into()));
    put("bytes", Number(ending.end.body));
    put("duration_ms", Time(Some(ending.duration)));
    put("upstream_ms", Time(record.upstream));
    put("is_stream", Truth(record.is_stream));
    put("is_whole", Truth(ending.end.is_whole));
    put("trace", Plain(record.trace.as_deref().unwrap_or_default()));
}
