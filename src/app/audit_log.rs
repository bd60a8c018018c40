//! The audit log: a JSON line for each request to an MCP server, and for each event that matters for security.

use std::sync::Arc;

use super::access_log::each_field;
use super::client_names::ClientNames;
use super::request_record::{Record, Sink};
use crate::http::End;
use crate::observe::events::{Event, Field, Kind, Subscriber};
use crate::observe::line::{Line, Value};
use crate::observe::lines::Lines;
use crate::observe::log::{LogFormat, timestamp};

/// What a line about a request to an MCP server is called, beside the [events](crate::observe::events).
const MCP_REQUEST: &str = "mcp_request";

/// The audit log.
pub(super) struct AuditLog {
    lines: Lines,
    names: Arc<ClientNames>,
    has_arguments: bool,
}

impl AuditLog {
    /// Writes to `lines`. `has_arguments` adds what tools are called with.
    pub(super) fn new(lines: Lines, names: Arc<ClientNames>, has_arguments: bool) -> AuditLog {
        AuditLog { lines, names, has_arguments }
    }
}

impl Sink for AuditLog {
    fn ended(&self, record: &Record, end: End) {
        if record.server.is_none() {
            return;
        }
        let name = record.client.as_ref().map(|client| self.names.of(client));
        let mut line = Line::new(LogFormat::Json);
        each_field(record, end, name.as_deref().unwrap_or_default(), &mut |name, value| {
            line.add(name, value);
            if name == "time" {
                line.add("event", Value::Text(MCP_REQUEST));
            }
        });
        if self.has_arguments {
            line.add("arguments", Value::Json(record.arguments.as_ref().unwrap_or(&serde_json::Value::Null)));
        }
        self.lines.put(line.end().as_bytes());
    }
}

impl Subscriber for AuditLog {
    fn happened(&self, _: Kind, _: &Event) {}

    fn told(&self, event: &Event) {
        let mut line = Line::new(LogFormat::Json);
        line.add("time", Value::Text(&timestamp()));
        line.add("event", Value::Text(event.kind.definition().name));
        for (name, value) in &event.fields {
            line.add(
                name,
                match value {
                    Field::Text(text) => Value::Text(text),
                    Field::Number(number) => Value::Number(*number),
                },
            );
        }
        self.lines.put(line.end().as_bytes());
    }
}
