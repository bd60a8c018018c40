//! The protected resource (RFC 6750, RFC 9728): who may reach the MCP server, how many at once, and for how long.
//!
//! - [`bearer`] – bearer token → principal; [`challenge`] – else the way to a token; [`metadata`] – the document that says
//!   which authorization server that is
//! - [`seen`] – which tokens are in use, so that the refresh tokens before them end
//! - [`admission`] – requests and streams at one time, in all and for one user
//! - [`open_streams`] – the event streams that are open; [`recheck`] – ends those of users who may not enter any more

pub mod admission;
pub mod bearer;
pub mod challenge;
pub mod metadata;
pub mod open_streams;
pub mod recheck;
pub mod seen;
