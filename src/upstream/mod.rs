//! The MCP server behind the proxy, behind one trait.
//!
//! - [`forward`] – the trait; [`config`] – how to talk to it
//! - [`http`] – a server at a URL, streamed through
//! - [`headers`] – what it gets to see, and what of its answer goes on
//! - [`endpoint`] – the path for messages that an HTTP+SSE server announces
//! - [`redirects`] – 307 and 308 on its own host
//! - [`check`] – whether there is one
//! - [`stdio`] – a server that speaks over stdio, as child processes

pub mod check;
mod config;
mod endpoint;
mod forward;
pub mod headers;
pub mod http;
mod redirects;
pub mod stdio;

pub use check::Trouble;
pub use config::UpstreamConfig;
pub use forward::{ForwardedIdentity, Upstream};
pub use headers::is_managed_field;
