//! Finds the real client address of a request, and the chain of proxies that the upstream server is told about.

use std::net::IpAddr;
use std::sync::Mutex;

use http::HeaderMap;
use ipnet::IpNet;

use crate::lock::Unpoisoned;

/// Networks of reverse proxies whose `X-Forwarded-For` is trusted.
pub struct TrustedProxies<'a>(pub &'a [IpNet]);

impl TrustedProxies<'_> {
    /// Is `address` one of them?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|n| n.contains(&address))
    }

    /// The address of the client. If the peer is a trusted proxy: the rightmost entry of `X-Forwarded-For` that is not
    /// one.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.chain(peer, headers)[0]
    }

    /// The client, followed by the trusted proxies between it and this process. Entries to the left of the client are
    /// left out, because nobody has verified them.
    pub fn chain(&self, peer: IpAddr, headers: &HeaderMap) -> Vec<IpAddr> {
        let mut chain = vec![peer];
        if !self.contains(peer) {
            return chain;
        }
        let fields = headers.get_all("x-forwarded-for").iter();
        let entries: Vec<&[u8]> = fields.flat_map(|v| v.as_bytes().split(|b| *b == b',')).collect();
        for entry in entries.into_iter().rev() {
            // A trusted proxy writes only addresses, so this entry is not from one: the entry to its right stays the
            // client.
            let Some(address) = std::str::from_utf8(entry).ok().and_then(|e| parse(e.trim())) else { break };
            chain.insert(0, address);
            if !self.contains(address) {
                break;
            }
        }
        chain
    }
}

/// Reverse proxies in front of this one that are not trusted: each is logged once.
#[derive(Default)]
pub struct UnnamedProxies(Mutex<Vec<IpAddr>>);

/// Most such proxies that are logged.
const MAX_TOLD: usize = 8;

impl UnnamedProxies {
    /// Logs `peer` if it forwards requests of others. Only for near addresses: any client on the internet can send
    /// these header fields, but a real reverse proxy usually has an address in a private network.
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

/// Loopback, private, link-local, or in the shared address space of carriers (RFC 6598).
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
