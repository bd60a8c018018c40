//! The HTTP server.

mod connections;
mod hostile;
mod smuggling;
