//! The request that a handler receives.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use ::http::request::Parts;

use super::body::Body;
use crate::net::client_handle::ClientHandle;

/// A request whose head has been read; its body may not have arrived yet.
pub struct Request<'c> {
    /// Method, target, version and fields. The target is in origin form, or `*`.
    pub parts: Parts,
    /// The body, read on demand.
    pub body: Body<'c>,
    /// The address of the other end of the connection, which may be a reverse proxy.
    pub peer: IpAddr,
    /// Identifies the request in log lines.
    pub id: RequestId,
    /// The client, for code that waits on its behalf or sends to it.
    pub client: ClientHandle,
}

/// Who sent a request, as far as the network shows.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The client's address, as reported by trusted proxies if there are any.
    pub address: IpAddr,
    /// Identifies the request in the log.
    pub id: RequestId,
}

/// A short identifier for a request in log lines, unique within the lifetime of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    /// Creates the next identifier.
    pub fn next() -> RequestId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        RequestId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}
