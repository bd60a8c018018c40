//! The access log: one line for each request, when it ends.

use std::sync::Arc;

use super::client_names::ClientNames;
use super::request_record::{Record, Sink};
use crate::http::End;
use crate::identity::ClientId;
use crate::observe::line::{Line, Value};
use crate::observe::lines::Lines;
use crate::observe::log::{LogFormat, timestamp};

/// The access log.
pub(super) struct AccessLog {
    lines: Lines,
    format: LogFormat,
    names: Arc<ClientNames>,
}

impl AccessLog {
    /// Writes to `lines`.
    pub(super) fn new(lines: Lines, format: LogFormat, names: Arc<ClientNames>) -> AccessLog {
        AccessLog { lines, format, names }
    }
}

impl Sink for AccessLog {
    fn ended(&self, record: &Record, end: End) {
        let name = record.client.as_ref().map(|client| self.names.of(client));
        let mut line = Line::new(self.format);
        each_field(record, end, name.as_deref().unwrap_or_default(), &mut |name, value| line.add(name, value));
        self.lines.put(line.end().as_bytes());
    }
}

/// What is written about a request, in this order.
pub(super) fn each_field(record: &Record, end: End, client_name: &str, put: &mut dyn FnMut(&'static str, Value<'_>)) {
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
