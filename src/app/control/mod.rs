//! The control socket `control.sock` in the data directory, and the commands that use it. Only root and the user of the
//! proxy can connect.
//!
//! A connection carries one request and one answer, each a line of JSON: `{"command": "grants-list", "user": "alice"}` and
//! `{"ok": true, "result": …}` or `{"ok": false, "error": "…"}`. See `docs/deployment.md`.
//!
//! - [`protocol`] – requests and answers
//! - [`socket`] – the socket; [`server`] – its thread
//! - [`actions`] – what each request does; [`rotation`] – replaces keys
//! - [`command`] – the commands of the command line; [`show`] – what they print

mod actions;
pub mod command;
mod protocol;
pub(super) use actions::{Control, ReloadOrder};
pub mod rotation;
pub(super) mod server;
mod show;
mod socket;

/// Reads a request, and drops it: for fuzzing.
pub fn parse(line: &[u8]) {
    drop(serde_json::from_slice::<protocol::ControlRequest>(line));
}
