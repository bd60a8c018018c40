//! The interface to the code that answers requests, and the limits on clients.

use std::net::IpAddr;
use std::time::Duration;

use http::request::Parts;

use crate::http::request::Request;
use crate::http::response::Response;

/// Limits on the resources that one client, and all clients together, can use.
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
    /// From accepting a connection to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// Bytes of a request body.
    pub body_size: u64,
    /// Longest pause between two reads of a body, and between two writes of an answer.
    pub body_timeout: Duration,
    /// Threads for requests, not counting those that send a stream.
    pub workers: usize,
}

/// Answers requests; called from many threads.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request<'_>) -> Response;

    /// True if the answer to a request with this head from `peer` depends on its body. Then the server reads a short
    /// body before it calls [`Handler::handle`]. A request that is refused whatever its body contains is answered at
    /// once.
    fn wants_body(&self, head: &Parts, peer: IpAddr) -> bool;

    /// True when connections from `peer` are not counted per address.
    fn exempt(&self, peer: IpAddr) -> bool;
}
