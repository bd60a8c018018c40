//! The authorization server.

mod authorization;
mod grants_model;
mod resources;
mod tokens;
