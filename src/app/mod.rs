//! Composition, and the commands: the only room that knows all others.
//!
//! - [`config`] – settings become typed values, checked
//! - [`assemble`] – the parts are put together; [`routes`] – the public surface as one table; Host, Origin and CORS
//! - [`serve`] – the command that publishes a server; [`listen`] – its ports; [`housekeeping`] – its threads;
//!   [`warnings`] – traps that it names at the start
//! - [`demo`], [`hash_password`], [`healthcheck`] – the other commands

pub mod assemble;
pub mod config;
pub mod demo;
pub mod hash_password;
pub mod healthcheck;
mod housekeeping;
pub mod listen;
pub mod routes;
pub mod serve;
mod warnings;
