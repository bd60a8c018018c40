//! Requests to other servers.
//!
//! - [`exchange`] – HTTP/1.1 towards one server: connections kept, bodies streamed both ways; [`idle`] –
//!   connections kept; [`response_head`], [`incoming_body`] – its answer
//! - [`fetch`] – small requests in one piece, to identity providers and certificate authorities; [`remote_url`] – where to;
//!   [`proxies`] – by way of what

mod exchange;
mod fetch;
mod idle;
mod incoming_body;
mod proxies;
mod remote_url;
mod response_head;

pub(crate) use exchange::{Client, ClientError, Incoming, Outgoing};
pub use fetch::{Answer, FETCH_TIMEOUT, FetchError, Fetcher};
pub(crate) use incoming_body::IncomingBody;
pub use proxies::Proxies;
pub use remote_url::RemoteUrl;
