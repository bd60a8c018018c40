//! The program from outside: the real binary over real sockets, and the whole application in one process where time
//! or the disk has to misbehave on command. The folders are the modules of `src` that the tests are about.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

mod app;
mod http;
mod interaction;
mod layers;
mod oauth;
mod parsers;
mod servers;
mod store;
mod support;
mod tls;
mod upstream;
