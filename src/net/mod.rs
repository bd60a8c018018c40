//! Networking: connections to clients and servers, addresses, and waiting.
//!
//! - [`client_connection`] – the connection to a client; [`client_handle`] – the client that a request belongs to;
//!   [`write_buffer`] – bytes that are queued for a client
//! - [`transport`] – the connection to a server: a [`socket`], with or without TLS ([`tls_socket`]); [`resolver`] –
//!   resolves names to addresses; [`tls`] – which servers to trust
//! - [`cancellation`] – ends waits early; [`shutdown`] – tells threads that the process is about to end
//! - [`client_address`] – the address of a client behind reverse proxies; [`address`] – groups of addresses
//! - [`rate_limit`] – how often an address may send requests
//! - [`poll`] – waiting for one socket

pub mod address;
pub mod cancellation;
pub mod client_address;
pub mod client_connection;
pub mod client_handle;
pub mod poll;
pub mod rate_limit;
pub mod resolver;
pub mod shutdown;
pub(crate) mod socket;
pub mod tls;
mod tls_socket;
pub(crate) mod transport;
mod write_buffer;
