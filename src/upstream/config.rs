//! How to talk to the upstream server.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::url::UpstreamUrl;

/// The upstream server and how the proxy talks to it.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// Its name in the servers file; empty for the one server of the command line.
    pub server: String,
    /// Its URL; the path is a prefix.
    pub url: UpstreamUrl,
    /// A query for every request to it, such as an API key.
    pub query: Option<String>,
    /// The URL is that of the MCP endpoint itself, not a prefix: `/mcp` and `/sse` both lead to it.
    pub is_endpoint: bool,
    /// Value of the Authorization field for it (`Bearer …`).
    pub bearer_token: Option<HeaderValue>,
    /// Further header fields to send to it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Fields that say who the user is. A client's own are taken out, also when there is nothing to say.
    pub identity_fields: Vec<HeaderName>,
    /// Ask at the start whether the server is there.
    pub is_checked: bool,
    /// Answer 405 to GET requests for a stream.
    pub streaming_only: bool,
    /// File of CA certificates (PEM) to trust in addition to the public ones.
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate.
    pub insecure_skip_verify: bool,
    /// Bound on opening a connection.
    pub connect_timeout: Duration,
    /// Bound on the wait for an answer's head.
    pub response_timeout: Duration,
}
