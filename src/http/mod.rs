//! HTTP/1.1: one codec, a server and a client above it. It knows nothing of OAuth or MCP.
//!
//! - [`h1`] – the codec: heads, framing
//! - [`server`] – connections in, requests to a [`Handler`], answers out
//! - [`client`] – requests to other servers: streamed, or small and in one piece
//! - [`request`], [`body`], [`response`], [`form`] – what handlers are given, and what they answer with

pub mod body;
pub mod client;
pub mod form;
pub mod h1;
mod request;
mod response;
pub mod server;

pub use body::Body;
pub use h1::framing::BodyError;
pub use request::{Caller, Request, RequestId};
pub use response::{Payload, Response};
pub use server::{Handler, Limits, Listener, Server};
