//! The audit log: a JSON line for each request to an MCP server, and for each event that matters for security.

use super::request_record::{Ending, Sink};
use crate::observe::events::{Event, Field, Kind, Subscriber};
use crate::observe::line::{Line, Value};
use crate::observe::lines::Lines;
use crate::observe::log::{LogFormat, timestamp};

/// What a line about a request to an MCP server is called, beside the [events](crate::observe::events).
const MCP_REQUEST: &str = "mcp_request";

/// The audit log.
pub(super) struct AuditLog {
    lines: Lines,
    has_arguments: bool,
}

impl AuditLog {
    /// Writes to `lines`. `has_arguments` adds what tools are called with.
    pub(super) fn new(lines: Lines, has_arguments: bool) -> AuditLog {
        AuditLog { lines, has_arguments }
    }
}

impl Sink for AuditLog {
    fn format(&self) -> LogFormat {
        LogFormat::Json
    }

    fn ended(&self, ending: &Ending<'_>) {
        if !ending.has_server {
            return;
        }
        let mut more = Line::new(LogFormat::Json);
        if self.has_arguments {
            more.add("arguments", Value::Json(ending.arguments.unwrap_or(&serde_json::Value::Null)));
        }
        let more = more.members();
        self.lines.put(&[r#"{"time":""#, ending.time, r#"","event":""#, MCP_REQUEST, "\"", ending.json, more, "}\n"]);
    }
}

impl Subscriber for AuditLog {
    fn happened(&self, _: Kind, _: &Event) {}

    fn told(&self, event: &Event) {
        let mut line = Line::new(LogFormat::Json);
        line.add("time", Value::Plain(&timestamp()));
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
        self.lines.put(&[&line.end()]);
    }
}
