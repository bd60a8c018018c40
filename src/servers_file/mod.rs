//! The servers file (`--servers`): the MCP servers to publish, in the form that MCP clients have for them.
//!
//! - [`keys`] – the table of keys, from which the check of their types, the JSON Schema and the reference are made
//! - [`document`] – JSON with comments, where each value knows its line
//! - [`variables`] – `${VAR}` in values, and `envFile`
//! - [`mod@read`] – a document becomes a list of servers; [`entry`] – what is known of each; [`checks`] – of single values
//! - [`owned`] – files that nobody else may write
//! - [`schema`] – the JSON Schema, and the tables in `docs/servers.md`

mod checks;
mod document;
mod entry;
mod keys;
mod owned;
mod read;
pub mod schema;
mod variables;

pub use entry::{Entry, FileContent, Note, Proxied, StdioKeys, Transport};
pub use owned::read_owned;
pub use read::read;
