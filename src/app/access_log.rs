//! The access log: one line for each request, when it ends.

use super::request_record::{Ending, Sink};
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
    fn format(&self) -> LogFormat {
        self.format
    }

    fn ended(&self, ending: &Ending<'_>) {
        match self.format {
            LogFormat::Json => self.lines.put(&[r#"{"time":""#, ending.time, "\"", ending.json, "}\n"]),
            LogFormat::Text => self.lines.put(&[ending.time, ending.text, "\n"]),
        }
    }
}
