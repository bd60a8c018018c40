//! One MCP session of the revisions with `initialize`: its process, its streams, and what it takes to give it a new process
//! when the old one has gone.
//!
//! - [`handle`] – the session as others see it; [`refusal`] – why it can't do what it is asked
//! - [`listener`] – what it makes of what its process says
//! - [`persistence`] – how it survives a restart
//! - [`state`] – what it is at one moment, and where each message goes
//! - [`replay_state`] – what a new process has to be told
//! - [`server_requests`] – what the server asked the client

mod handle;
mod listener;
mod persistence;
mod refusal;
mod replay_state;
mod server_requests;
mod state;

pub(super) use handle::{Posted, Processes, Session};
pub(super) use refusal::Refusal;
