//! The trait that every kind of MCP server behind the proxy implements.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::check::Trouble;
use crate::http::{Request, Response};
use crate::identity::{ClientId, Principal, User};

/// The user and client that a request is forwarded for, and where it came from.
pub struct ForwardedIdentity {
    /// The user and the client.
    pub principal: Principal,
    /// The client's address, then the trusted proxies it came through.
    pub chain: Vec<IpAddr>,
    /// The part of the request's path that stands before the server's own, such as `/files` in `/files/mcp`; empty for a
    /// server that has the whole origin.
    pub base: String,
    /// Header fields that say who the user is; a field without a value is taken out.
    pub fields: Arc<[(HeaderName, Option<HeaderValue>)]>,
}

/// Limits on the processes of a stdio server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessLimits {
    /// At one time.
    pub children: usize,
    /// Kept ready for the next session.
    pub spare: usize,
    /// How long one may be idle before it is ended.
    pub idle: Duration,
}

/// What a server that runs as processes uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processes.
    pub children: usize,
    /// MCP sessions.
    pub sessions: usize,
}

/// An MCP server.
pub trait Upstream: Send + Sync + 'static {
    /// Passes a request on and its answer back.
    fn forward(&self, request: &mut Request<'_>, identity: &ForwardedIdentity) -> Response;

    /// Checks whether the server is there and speaks MCP. May take several seconds.
    fn check(&self) -> Result<(), Trouble> {
        Ok(())
    }

    /// Starts what should be ready before the first request, and checks by it whether the server works.
    fn warm_up(&self) {}

    /// A user has just allowed a client, which will send its first request soon.
    fn expect(&self, _user: &User, _client: &ClientId) {}

    /// Did it not answer the last time that it was asked? Asks nothing.
    fn is_down(&self) -> bool {
        false
    }

    /// How many processes it runs and how many MCP sessions the proxy keeps for it, for the metrics.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// What it says about itself, if it has been asked: its `instructions`, or else its name. Asks nothing.
    fn about(&self) -> Option<String> {
        None
    }

    /// Releases what has not been used for a while; called from time to time.
    fn tidy(&self) {}

    /// Changes the limits on the processes that it runs, if it runs any.
    fn set_limits(&self, _limits: ProcessLimits) {}

    /// Ends the processes that it runs, if any; called once, when requests have been answered.
    fn end(&self) {}

    /// The path of its MCP endpoint, where there is just one.
    fn endpoint(&self) -> Option<&str>;
}
