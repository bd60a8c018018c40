//! The authorization server.

mod assertions;
mod authorization;
mod conformance;
mod grants_model;
mod machines;
mod resources;
mod tokens;
