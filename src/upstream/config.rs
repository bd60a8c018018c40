//! How to talk to the upstream server.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

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
