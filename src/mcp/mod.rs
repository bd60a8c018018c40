//! The vocabulary of MCP and JSON-RPC, as far as a proxy needs it.

pub mod jsonrpc;
mod members;
pub mod message;
