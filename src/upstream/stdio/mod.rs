//! An MCP server that speaks over stdio, on the network: processes, one for each session unless they are shared.
//!
//! - [`server`], [`config`] – the server as the rest of the program sees it, and how it is run
//! - [`transport`] – HTTP as each generation of clients speaks it
//! - [`manager`] – everything that runs, and the bounds on it; [`owner`] – on whose behalf; [`idleness`], [`backoff`] – who is
//!   needed the least, and pauses after crashes
//! - [`session`] – a session, and how it outlives its process
//! - [`mux`] – one process for clients that do not know of each other
//! - [`process`] – one process, from its start to its orderly end
//! - [`event_stream`], [`waiting`], [`fields`], [`noise`] – what clients are sent, waiting on their behalf, fields that
//!   repeat what a message says, and what is no message
//!
//! Locks are taken in the order manager, session, shared process, inbox of a process; a listener is told of nothing under
//! any.

mod backoff;
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

pub use config::StdioConfig;
pub use process::users::RunAs;
pub use process::{init, launcher, lines, self_exec, supervisor};
pub use server::StdioUpstream;
