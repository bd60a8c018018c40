//! HTTP/1.1. The server: connections in, requests to a [`Handler`], answers out; and the client, with the same parsers. It
//! knows nothing of OAuth or MCP.
//!
//! - [`server`] – listening sockets, accepting, draining
//! - [`lobby`] – where connections wait without a thread, the bounds on them, their deadlines
//! - [`workers`] – the threads that requests run on
//! - [`connection`] – one connection as a state machine that never waits for its client
//! - [`head`] – the request head, strict where leniency lets two parsers disagree (RFC 9112)
//! - [`body`] – the request body's framing, limits and deadlines
//! - [`response`] – what handlers answer with, and how it is written
//! - [`request`] – what handlers are given; [`form`] – queries and forms
//! - [`client`], [`fetch`] – requests to other servers: streamed, or small and in one piece

pub mod body;
pub(crate) mod client;
mod connection;
pub mod fetch;
pub mod form;
pub mod head;
mod lobby;
mod request;
pub mod response;
pub mod server;
mod workers;

use std::net::IpAddr;
use std::time::Duration;

use ::http::request::Parts;

pub use body::{Body, BodyError};
pub use request::{Caller, Request, RequestId};
pub use response::{Payload, Response};
pub use server::{Listener, Server};

/// Bounds on what one client, and all of them, can use up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at one time.
    pub connections: usize,
    /// Connections at one time from one address.
    pub connections_per_address: usize,
    /// Bytes of a request head.
    pub head_size: usize,
    /// Fields of a request head.
    pub head_fields: usize,
    /// From the first byte of a head to its end.
    pub head_timeout: Duration,
    /// From a connection to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// Bytes of a request body.
    pub body_size: u64,
    /// Between two reads of a body, and between two writes of an answer.
    pub body_timeout: Duration,
    /// Threads for requests, but for those whose answer is a stream.
    pub workers: usize,
}

/// Answers requests; called from many threads.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request<'_>) -> Response;

    /// Will the answer to a request with this head from `peer` depend on its body? Then a short body is read before the
    /// request is handled. A request that is refused whatever its body says is answered at once.
    fn wants_body(&self, head: &Parts, peer: IpAddr) -> bool;

    /// True when connections from `peer` are not counted per address.
    fn exempt(&self, peer: IpAddr) -> bool;
}
