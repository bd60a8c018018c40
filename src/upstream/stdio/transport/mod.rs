//! The HTTP transports of the MCP revisions.
//!
//! - [`streamable`] – Streamable HTTP, revisions 2025-03-26 to 2025-11-25
//! - [`modern`] – revisions from 2026-07-28 on, where every request is self-contained
//! - [`sse`] – HTTP+SSE, revision 2024-11-05
//!
//! What the disconnect of a client that reads an event stream does depends on the transport. With [`streamable`], nothing is
//! lost: the session goes on, events are kept, and the client can read what it missed. With [`modern`], the request is
//! cancelled at the server. With [`sse`], the session ends. All three learn of it from
//! [`Reader`](super::event_stream::Reader), which is dropped then.

mod modern;
pub(super) mod sse;
pub(super) mod streamable;
