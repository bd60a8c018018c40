//! A server's output as text, and the log of output that is not a message.

use std::sync::{LazyLock, Mutex};

use crate::lock::Unpoisoned;
use crate::observe::quota::Quota;

/// A line of a child as text; a line that is not UTF-8 is logged and skipped. Replaces carriage returns, which are
/// whitespace in JSON but would end a line of a server-sent event.
pub(crate) fn text_of(line: Vec<u8>, session: &str) -> Option<String> {
    match String::from_utf8(line) {
        Ok(text) if text.contains('\r') => Some(text.replace('\r', " ")),
        Ok(text) => Some(text),
        Err(e) => {
            note_noise(&String::from_utf8_lossy(e.as_bytes()), session);
            None
        }
    }
}

/// Logs a line that is not a message, at a limited rate.
pub(crate) fn note_noise(text: &str, session: &str) {
    static QUOTA: LazyLock<Mutex<Quota>> = LazyLock::new(|| Mutex::new(Quota::new(100, 10)));
    let Some(omitted) = QUOTA.lock().unpoisoned().take() else { return };
    let shown: String = text.chars().take(200).collect();
    log::warn!(session = session, line = shown.as_str(), omitted = omitted; "the MCP server wrote a line to stdout that is not a JSON-RPC message; the line is skipped");
}
