//! HTTP/1.1: a codec, with a server and a client on top of it. Independent of OAuth and MCP.
//!
//! - [`h1`] – the codec: heads, framing
//! - [`server`] – accepts connections, passes requests to a [`Handler`], sends its answers
//! - [`client`] – requests to other servers: with streamed bodies, or small and complete
//! - [`request`], [`body`], [`response`], [`form`] – requests and answers as handlers see them

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
pub use response::{End, OnEnd, Payload, Response};
pub use server::{Handler, Limits, Listener, Server};
