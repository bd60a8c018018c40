//! The MCP server behind the proxy. All kinds of servers implement the trait [`Upstream`].
//!
//! - [`forward`] – the trait; [`config`] – how to talk to a server
//! - [`http`] – a server at a URL; requests and answers are streamed through
//! - [`failure`] – what the client and the operator are told if that fails
//! - [`headers`] – the header fields that are forwarded, in both directions
//! - [`endpoint`] – the path for messages that an HTTP+SSE server announces
//! - [`redirects`] – remembers redirects (307 and 308) of the server
//! - [`check`] – checks at startup whether there is an MCP server
//! - [`stdio`] – a server that uses stdio, as child processes

pub mod check;
mod config;
mod endpoint;
mod failure;
mod forward;
pub mod headers;
pub mod http;
mod redirects;
pub mod stdio;

pub use check::Trouble;
pub use config::UpstreamConfig;
pub use forward::{ForwardedIdentity, ProcessLimits, Upstream, Usage};
pub use headers::{can_be_mapped, encode_identity, is_identity_field, is_managed_field};
