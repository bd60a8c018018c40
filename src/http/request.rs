//! The request that a handler receives.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ::http::request::Parts;
use rand::TryRng;
use rand::rngs::SysRng;

use super::body::Body;
use crate::net::client_handle::ClientHandle;
use crate::observe::events::{Event, Kind};

/// A request whose head has been read; its body may not have arrived yet.
pub struct Request<'c> {
    /// Method, target, version and fields. The target is in origin form, or `*`.
    pub parts: Parts,
    /// The body, read on demand.
    pub body: Body<'c>,
    /// The address of the other end of the connection, which may be a reverse proxy.
    pub peer: IpAddr,
    /// Identifies the request in log lines.
    pub id: RequestId,
    /// The client, for code that waits on its behalf or sends to it.
    pub client: ClientHandle,
}

/// Who sent a request, as far as the network shows.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The client's address, as reported by trusted proxies if there are any.
    pub address: IpAddr,
    /// Identifies the request in the log.
    pub id: RequestId,
}

impl Caller {
    /// An event that the request has caused.
    pub fn event(&self, kind: Kind) -> Event {
        Event::new(kind).request(&self.id, self.address)
    }
}

/// Identifies a request: in `X-Request-Id`, in log lines, and on pages with an error. Unique among restarts and replicas.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    text: [u8; RequestId::LONGEST],
    length: u8,
}

impl RequestId {
    /// Longest identifier, in bytes: a UUID fits.
    pub const LONGEST: usize = 36;

    /// Creates the next identifier.
    pub fn next() -> RequestId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        static PROCESS: OnceLock<String> = OnceLock::new();
        let process = PROCESS.get_or_init(|| {
            let mut bytes = [0; 5];
            SysRng.try_fill_bytes(&mut bytes).expect("the operating system has randomness");
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        });
        let mut id = RequestId { text: [0; RequestId::LONGEST], length: 0 };
        let mut rest = &mut id.text[..];
        write!(rest, "{process}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
            .expect("ten letters, a dash and twenty digits");
        id.length = (RequestId::LONGEST - rest.len()) as u8;
        id
    }

    /// The identifier that a trusted reverse proxy has given the request; `None` if it is no such identifier.
    pub fn given(text: &str) -> Option<RequestId> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > RequestId::LONGEST || !text.bytes().all(is_plain) {
            return None;
        }
        let mut id = RequestId { text: [0; RequestId::LONGEST], length: text.len() as u8 };
        id.text[..text.len()].copy_from_slice(text.as_bytes());
        Some(id)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.length.into()]).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_differ_and_given_ones_are_plain() {
        let (one, two) = (RequestId::next(), RequestId::next());
        assert!(one != two && one.as_str().starts_with(&two.as_str()[..11]), "{one} {two}");
        assert_eq!(RequestId::given(one.as_str()), Some(one));
        let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(RequestId::given(uuid).map(|id| id.to_string()).as_deref(), Some(uuid));
        for bad in ["", "a b", "a\"b", "a\n", "é", &"x".repeat(37)] {
            assert_eq!(RequestId::given(bad), None, "{bad}");
        }
    }
}
