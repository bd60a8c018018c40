//! The MCP server behind the proxy, behind one trait.
//!
//! - [`http`] – a server at a URL, streamed through
//! - [`headers`] – what it gets to see, and what of its answer goes on
//! - [`endpoint`] – the path for messages that an HTTP+SSE server announces
//! - [`redirects`] – 307 and 308 on its own host
//! - [`check`] – whether there is one
//! - [`stdio`] – a server that speaks over stdio, as child processes

pub mod check;
mod endpoint;
pub mod headers;
pub mod http;
mod redirects;
pub mod stdio;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};

pub use check::Trouble;
pub use headers::is_managed_field;

use crate::http::{Request, Response};
use crate::identity::Principal;
use crate::url::UpstreamUrl;

/// The upstream server and what it gets to see.
#[derive(Clone)]
pub struct UpstreamConfig {
    /// Its URL; the path is a prefix. Absent in the demo, whose server is built in.
    pub url: Option<UpstreamUrl>,
    /// `Authorization: Bearer …` for it.
    pub bearer_token: Option<HeaderValue>,
    /// Further fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Ask at the start whether the server is there.
    pub is_checked: bool,
    /// Answer 405 to GET requests for a stream.
    pub streaming_only: bool,
    /// Authorities to trust beside the public ones (PEM).
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate.
    pub insecure_skip_verify: bool,
    /// Bound on opening a connection.
    pub connect_timeout: Duration,
    /// Bound on the wait for an answer's head.
    pub response_timeout: Duration,
}

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
