//! Requests to other servers.
//!
//! - [`exchange`] – HTTP/1.1 with one server: keeps connections, streams bodies in both directions; [`idle`] – the idle
//!   connections; [`response_head`], [`incoming_body`] – the head and the body of an answer
//! - [`fetch`] – small, complete requests to identity providers and certificate authorities; [`remote_url`] – their
//!   URLs; [`proxies`] – the outbound proxies
//! - [`guarded`] – documents at addresses that strangers choose

mod exchange;
mod fetch;
mod guarded;
mod idle;
mod incoming_body;
mod proxies;
mod remote_url;
mod response_head;

pub(crate) use exchange::{Client, ClientError, Incoming, Outgoing};
pub use fetch::{Answer, FETCH_TIMEOUT, FetchError, Fetcher};
pub use guarded::{Documents, GuardedUrl, Source};
pub(crate) use incoming_body::IncomingBody;
pub use proxies::Proxies;
pub use remote_url::RemoteUrl;
