//! Allow rules: who may sign in, and who may use which server.
//!
//! - [`provider`] – which users of a provider may sign in
//! - [`server`] – which of them may use one MCP server
//! - [`pattern`] – patterns for names

mod pattern;
mod provider;
mod server;

pub use pattern::{check_glob, fits_glob};
pub use provider::{Rules, strings};
pub use server::{MACHINES, ServerRules, ServerRulesText};
