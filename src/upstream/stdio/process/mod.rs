//! One process of the MCP server, from its start to its orderly end.
//!
//! - [`child`] – the handle on it; [`inbox`] – what it is sent and who hears what it says
//! - [`io_loop`] – its thread: lines in, lines out, stderr into the log, its end; [`lines`] – bytes to lines
//! - [`environment`] – what it gets to see; [`users`] – under whom it runs
//! - [`supervisor`], [`launcher`] – the processes of this binary in between; [`init`] – the first process of a container;
//!   [`self_exec`] – how the program runs itself

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
