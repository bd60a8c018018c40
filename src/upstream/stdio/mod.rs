//! Makes an MCP server that uses stdio available on the network: one process for each session, unless processes are
//! shared.
//!
//! - [`server`], [`config`] – the server as the rest of the program uses it, and its configuration
//! - [`transport`] – the HTTP transports of the MCP revisions
//! - [`manager`] – all processes and sessions, and their limits; [`owner`] – the user and client of a process;
//!   [`idleness`], [`backoff`] – which process is needed least, and pauses after crashes
//! - [`session`] – a session, and how it outlives its process
//! - [`mux`] – one process for several independent clients
//! - [`process`] – one process, from its start to its orderly shutdown
//! - [`event_stream`], [`waiting`], [`fields`], [`noise`] – events for clients, waiting on behalf of clients, header
//!   fields that repeat parts of a message, and output that is not a message
//!
//! Lock order: manager, session, shared process, inbox of a process. Listeners are never called while one of these
//! locks is held.

mod backoff;
mod check;
mod config;
pub mod event_stream;
mod fields;
mod idleness;
mod manager;
mod mux;
mod noise;
mod owner;
mod process;
mod server;
mod session;
mod transport;
mod waiting;

pub use check::check;
pub use config::StdioConfig;
pub use process::users::RunAs;
pub use process::{init, launcher, lines, self_exec, supervisor};
pub use server::StdioUpstream;
