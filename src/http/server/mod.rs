//! The server: it reads requests, has a [`Handler`] answer them, and sends the answers.
//!
//! - [`accept`] – listening sockets, accepting, shutting down
//! - [`poller`] – where connections wait without a thread; the bounds on them and their deadlines
//! - [`workers`] – the threads that requests run on
//! - [`connection`] – one connection as a state machine that never waits for its client; [`stage`] – how far it has come;
//!   [`wait`] – what it waits for; [`refusals`] – answers to what can't be read
//! - [`request_body`] – a body that is still on its way; [`held`] – memory of unfinished requests; [`mod@write`] – answers
//! - [`handler`] – what the server is given

mod accept;
mod connection;
mod handler;
mod held;
mod poller;
mod refusals;
mod request_body;
mod stage;
mod wait;
mod workers;
mod write;

pub use accept::{Listener, Server, bind};
pub use handler::{Handler, Limits};
