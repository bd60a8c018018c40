//! What a server writes, as text; and what it writes that is no message.

use crate::lock::Unpoisoned;
use std::sync::{LazyLock, Mutex};

use crate::observe::quota::Quota;

/// A line of a child as text. A bare carriage return within it, which JSON takes for a blank, would end a line of an
/// event.
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

/// Tells the operator of a line that is no message.
pub(crate) fn note_noise(text: &str, session: &str) {
    static QUOTA: LazyLock<Mutex<Quota>> = LazyLock::new(|| Mutex::new(Quota::new(100, 10)));
    let Some(omitted) = QUOTA.lock().unpoisoned().take() else { return };
    let shown: String = text.chars().take(200).collect();
    log::warn!(session = session, line = shown.as_str(), omitted = omitted; "the MCP server wrote to stdout what is no JSON-RPC message; it is skipped");
}
