//! The MCP server behind the proxy.

mod faults;
mod fuzz;
mod identity;
mod proxying;
mod servers;
mod stdio;
