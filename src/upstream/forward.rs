//! The trait that every kind of MCP server behind the proxy implements.

use std::net::IpAddr;

use super::check::Trouble;
use crate::http::{Request, Response};
use crate::identity::Principal;

/// The user and client that a request is forwarded for, and the addresses that it came from.
pub struct ForwardedIdentity {
    /// The user and the client.
    pub principal: Principal,
    /// The client's address, then the trusted proxies it came through.
    pub chain: Vec<IpAddr>,
}

/// An MCP server.
pub trait Upstream: Send + Sync + 'static {
    /// Passes a request on and its answer back.
    fn forward(&self, request: &mut Request<'_>, identity: &ForwardedIdentity) -> Response;

    /// Checks whether the server is there and speaks MCP. May take several seconds.
    fn check(&self) -> Result<(), Trouble> {
        Ok(())
    }

    /// Releases what has not been used for a while; called from time to time.
    fn tidy(&self) {}

    /// Ends the processes that it runs, if any; called once, when requests have been answered.
    fn end(&self) {}

    /// The path of its MCP endpoint, where there is just one.
    fn endpoint(&self) -> Option<&str>;
}
