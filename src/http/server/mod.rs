//! The server: reads requests, passes them to a [`Handler`], and sends its answers.
//!
//! - [`lifecycle`] – starts the server and shuts it down; [`listening`] – listening sockets; [`accept`] – accepting connections;
//!   [`dispatch`] – what a worker does with one event
//! - [`poller`] – waits for the clients of all connections; [`connection_table`] – limits on connections, and which one is
//!   closed to make room
//! - [`workers`] – the threads that handle requests
//! - [`connection`] – one connection as a state machine; [`stage`] – its states; [`wait`] – what it waits for;
//!   [`refusals`] – answers to requests that can't be read
//! - [`request_body`] – bodies that have not fully arrived; [`held`] – memory of unfinished requests; [`mod@write`] –
//!   writes answers
//! - [`handler`] – the interface to the code that answers requests, and the limits on clients

mod accept;
mod connection;
mod connection_table;
mod dispatch;
mod handler;
mod held;
mod lifecycle;
mod listening;
mod poller;
mod refusals;
mod request_body;
mod stage;
mod wait;
mod workers;
mod write;

pub use handler::{Handler, Limits};
pub use lifecycle::{Listener, Server};
pub use listening::{ListeningSocket, bind};
