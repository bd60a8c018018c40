//! The MCP server behind the proxy.

mod faults;
mod fuzz;
mod proxying;
mod servers;
mod stdio;
