//! The network around the program.
//!
//! - [`client_connection`] – the connection to a client; [`client_handle`] – the client that a request belongs to;
//!   [`write_buffer`] – what is on its way there
//! - [`transport`] – the connection to a server: a [`socket`], perhaps with TLS over it ([`tls_socket`]); [`resolver`] – names to addresses; [`tls`] – whom to trust
//! - [`cancellation`] – how a wait ends early; [`shutdown`] – how threads learn that the process is about to end
//! - [`client_address`] – who the client behind reverse proxies is; [`address`] – addresses that count as one
//! - [`rate_limit`] – how often an address may ask
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
