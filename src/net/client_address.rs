//! Which address a request really comes from, and what the upstream server is told of it.

use crate::lock::Unpoisoned;
use std::net::IpAddr;
use std::sync::Mutex;

use http::HeaderMap;
use ipnet::IpNet;

/// Networks of reverse proxies whose `X-Forwarded-For` is believed.
pub struct TrustedProxies<'a>(pub &'a [IpNet]);

impl TrustedProxies<'_> {
    /// Is `address` one of them?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|n| n.contains(&address))
    }

    /// The client: the rightmost entry of `X-Forwarded-For` that is no trusted proxy, when the peer is one.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.chain(peer, headers)[0]
    }

    /// The client, then the trusted proxies between it and here. What stands left of the client is hearsay.
    pub fn chain(&self, peer: IpAddr, headers: &HeaderMap) -> Vec<IpAddr> {
        let mut chain = vec![peer];
        if !self.contains(peer) {
            return chain;
        }
        let fields = headers.get_all("x-forwarded-for").iter();
        let entries: Vec<&[u8]> = fields.flat_map(|v| v.as_bytes().split(|b| *b == b',')).collect();
        for entry in entries.into_iter().rev() {
            // An entry that is no address was not written by a trusted proxy: the one right of it stays the client.
            let Some(address) = std::str::from_utf8(entry).ok().and_then(|e| parse(e.trim())) else { break };
            chain.insert(0, address);
            if !self.contains(address) {
                break;
            }
        }
        chain
    }
}

/// Reverse proxies before this one that are not among the trusted: each is told of once.
#[derive(Default)]
pub struct UnnamedProxies(Mutex<Vec<IpAddr>>);

/// How many are told of.
const MAX_TOLD: usize = 8;

impl UnnamedProxies {
    /// Tells of `peer` if it forwards for others. A stranger on the internet may pretend to; what a reverse proxy usually
    /// has is an address of a network of one's own.
    pub fn note(&self, peer: IpAddr, headers: &HeaderMap) {
        const FIELDS: [&str; 3] = ["x-forwarded-for", "forwarded", "x-real-ip"];
        if !is_near(peer) || !FIELDS.iter().any(|field| headers.contains_key(*field)) {
            return;
        }
        let mut told = self.0.lock().unpoisoned();
        if told.len() >= MAX_TOLD || told.contains(&peer) {
            return;
        }
        told.push(peer);
        log::warn!(peer:% = peer; "a reverse proxy is in front of this one that is not named in --trusted-proxies (TRUSTED_PROXIES): all its clients count as one address, so that one who guesses passwords keeps everybody else from signing in; if {peer} is yours, name it");
    }
}

/// Loopback, private, link-local, or shared by a carrier (RFC 6598).
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// An address as proxies write it: plain, or with a port, or IPv6 in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let plain = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|a| a.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    plain.or_else(with_port).or_else(bracketed).map(|a| a.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_rightmost_untrusted_entry() {
        let nets: Vec<IpNet> = ["10.0.0.0/8", "::1/128"].iter().map(|n| n.parse().unwrap()).collect();
        let trusted = TrustedProxies(&nets);
        for (peer, forwarded, client) in [
            ("192.0.2.9", &["1.1.1.1"][..], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6", "1.1.1.1", "10.0.0.2"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, evil, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["1.1.1.1:5000"], "1.1.1.1"),
            ("::1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["::ffff:1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["\u{e9}, 1.1.1.1"], "1.1.1.1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let found = trusted.client(peer.parse().unwrap(), &headers);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
    }
}
