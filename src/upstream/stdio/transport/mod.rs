//! The HTTP transports of the MCP revisions.
//!
//! - [`streamable`] – Streamable HTTP, revisions 2025-03-26 to 2025-11-25
//! - [`modern`] – revisions from 2026-07-28 on, where every request is self-contained
//! - [`sse`] – HTTP+SSE, revision 2024-11-05

mod modern;
pub(super) mod sse;
pub(super) mod streamable;
