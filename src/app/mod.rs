//! The commands, and the code that builds the proxy from its parts: the only module that uses all others.
//!
//! - [`config`] – turns settings into typed, validated values
//! - [`assemble`] – builds the proxy from its parts; [`routes`] – the table of endpoints; Host, Origin and CORS
//! - [`serve`] – the command that publishes a server; [`listen`] – its ports; [`housekeeping`] – its threads;
//!   [`warnings`] – its warnings about the configuration at the start
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
