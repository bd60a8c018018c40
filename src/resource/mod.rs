//! The protected resource (RFC 6750, RFC 9728): who may reach the MCP server, how many at once, and for how long.
//!
//! - [`protected`] – the published MCP servers: their paths, URLs and rules
//! - [`bearer`] – bearer token → principal; [`challenge`] – the 401 response without a valid token; [`metadata`] – the
//!   document that names the authorization server
//! - [`seen`] – records which tokens are in use, so that the previous refresh tokens end, and when each was last used
//! - [`identity_fields`] – tells the MCP server who the user is, provably
//! - [`call`] – what a request asks for; [`rate_limits`] – limits on requests in a time
//! - [`admission`] – limits concurrent requests and streams, in total and per user
//! - [`open_streams`] – the open event streams; [`stream_recheck`] – cuts the streams of users who may not enter any more

pub mod admission;
pub mod bearer;
pub mod call;
pub mod challenge;
pub mod identity_fields;
pub mod metadata;
pub mod open_streams;
pub mod protected;
pub mod rate_limits;
pub mod seen;
pub mod stream_recheck;
