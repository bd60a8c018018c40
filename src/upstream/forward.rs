//! What every MCP server behind the proxy can do.

use std::net::IpAddr;

use super::check::Trouble;
use crate::http::{Request, Response};
use crate::identity::Principal;

/// On whose behalf, and from where, a request is passed on.
pub struct ForwardedIdentity {
    /// Who.
    pub principal: Principal,
    /// The client's address, then the trusted proxies it came through.
    pub chain: Vec<IpAddr>,
}

/// An MCP server.
pub trait Upstream: Send + Sync + 'static {
    /// Passes a request on and its answer back.
    fn forward(&self, request: &mut Request<'_>, identity: &ForwardedIdentity) -> Response;

    /// Asks whether it is there and speaks MCP. May take its time.
    fn check(&self) -> Result<(), Trouble> {
        Ok(())
    }

    /// Gives back what has not been used for a while; called now and then.
    fn tidy(&self) {}

    /// Ends what it runs; called once, when requests have been answered.
    fn end(&self) {}

    /// The path of its MCP endpoint, where there is just one.
    fn endpoint(&self) -> Option<&str>;
}
