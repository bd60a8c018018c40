//! The server: it reads requests, has a [`Handler`] answer them, and sends the answers.
//!
//! - [`accept`] – listening sockets, accepting, shutting down
//! - [`poller`] – where connections wait without a thread; the bounds on them and their deadlines
//! - [`workers`] – the threads that requests run on
//! - [`connection`] – one connection as a state machine that never waits for its client
//! - [`request_body`] – a body that is still on its way; [`held`] – memory of unfinished requests; [`mod@write`] – answers
//! - [`handler`] – what the server is given

mod accept;
mod connection;
mod handler;
mod held;
mod poller;
mod request_body;
mod workers;
mod write;

pub use accept::{Listener, Server, bind};
pub use handler::{Handler, Limits};
