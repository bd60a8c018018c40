//! What handlers are given.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use ::http::request::Parts;

use super::body::Body;
use crate::net::client_handle::ClientHandle;

/// A request whose head has been read and whose body has not.
pub struct Request<'c> {
    /// Method, target, version and fields. The target is in origin form, or `*`.
    pub parts: Parts,
    /// The body, read on demand.
    pub body: Body<'c>,
    /// The other end of the connection: perhaps a reverse proxy.
    pub peer: IpAddr,
    /// Names the request in log lines.
    pub id: RequestId,
    /// The client, for whoever waits on its behalf or sends to it.
    pub client: ClientHandle,
}

/// Who sent a request, as far as the network tells.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The client's address, with trusted proxies looked through.
    pub address: IpAddr,
    /// The request's name in the log.
    pub id: RequestId,
}

/// A short name for a request in log lines, unique within a process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    /// The next one.
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
