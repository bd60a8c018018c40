//! One codec for HTTP/1.1 (RFC 9112), for server and client.
//!
//! - [`head`] – the request head, strict where leniency lets two parsers disagree
//! - [`framing`] – where a body ends, and whether it comes fast enough
//! - [`input`] – bytes that come from a connection

pub mod framing;
pub mod head;
pub mod input;
