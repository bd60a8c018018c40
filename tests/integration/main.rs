//! The program from outside: the real binary over real sockets, and the whole application in one process where time
//! or the disk has to misbehave on command.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

mod authorization;
mod command_line;
mod faults;
mod first_start;
mod grants_model;
mod hostile;
mod http_layer;
mod layers;
mod parsers;
mod providers;
mod proxying;
mod shutdown;
mod signin;
mod simulation;
mod smuggling;
mod stdio;
mod support;
mod surface;
mod tls;
mod tokens;
mod upstream;
mod upstream_faults;
mod upstream_fuzz;
