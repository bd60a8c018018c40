//! One MCP session of the revisions with `initialize`: its process, its streams, and what is needed to replace the
//! process after it has ended.
//!
//! - [`handle`] – the session's interface for transports and process manager; [`refusal`] – its errors
//! - [`listener`] – handles the output of the process
//! - [`persistence`] – saves and restores the session
//! - [`state`] – process, requests in flight, and message routing
//! - [`replay_state`] – the messages that a new process must receive
//! - [`server_requests`] – requests from the server to the client

mod handle;
mod listener;
mod persistence;
mod refusal;
mod replay_state;
mod server_requests;
mod state;

pub(super) use handle::{Posted, Processes, Session};
pub(super) use refusal::Refusal;
