//! One process of the MCP server, from its start to its orderly shutdown.
//!
//! - [`child`] – the handle on it; [`inbox`] – the lines queued for it, and the listener for its output
//! - [`io_loop`] – its I/O thread: stdin, stdout, stderr to the log, shutdown; [`lines`] – splits bytes into lines
//! - [`environment`] – its command line and environment; [`users`] – the system user that it runs as
//! - [`supervisor`], [`launcher`] – processes of this binary between the proxy and the server; [`init`] – the first
//!   process of a container; [`self_exec`] – runs this binary again

pub(super) mod child;
pub(super) mod environment;
pub(super) mod inbox;
pub mod init;
mod io_loop;
pub mod launcher;
pub mod lines;
pub mod self_exec;
pub mod supervisor;
pub(super) mod users;
