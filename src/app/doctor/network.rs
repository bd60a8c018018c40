//! Names, addresses and connections: from a URL to an address that answers.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Instant;

use super::certificate;
use super::examination::Examination;
use super::findings::{
    IPV6_ONLY, NO_CONNECTION, NOT_HTTPS, NOT_PUBLIC, OTHER_PORT, PRIVATE_ADDRESS, SOME_ADDRESSES_FAIL, THIS_MACHINE,
    UNKNOWN_NAME,
};
use super::link::Link;
use super::probe::CONNECT_PATIENCE;
use crate::net::address::is_public;

/// Most addresses that are tried.
const MAX_ADDRESSES: usize = 8;

/// Finds an address of `link` that accepts connections, and looks at its certificate. False if there is none.
pub(super) fn reach(exam: &mut Examination, link: &Link, is_first: bool) -> bool {
    if exam.prober.knows(link) {
        return true;
    }
    let Some(addresses) = addresses(exam, link, is_first) else { return false };
    if !is_first && exam.is_public && !addresses.iter().all(|address| is_public(address.ip())) {
        let seen = format!("{} leads to {}", link.origin(), listed(&addresses));
        exam.report.found("address", &PRIVATE_ADDRESS, seen);
        return false;
    }
    if is_first {
        // One public address is enough: whoever has the name can put private ones beside it.
        exam.is_public = addresses.iter().any(|address| is_public(address.ip()));
    }
    if !link.is_secure() && !link.is_loopback() {
        exam.report.found("address", &NOT_HTTPS, format!("{} is not https", link.origin()));
    }
    if is_first && exam.is_public && link.is_secure() && link.port() != 443 {
        exam.report.found("address", &OTHER_PORT, format!("the port is {}", link.port()));
    }
    let Some(address) = connect(exam, link, &addresses) else { return false };
    let is_trusted = if link.is_secure() { certificate::look(exam, link, address) } else { link.is_loopback() };
    if is_trusted {
        exam.prober.trust(link);
    }
    match exam.prober.use_address(link, address) {
        Ok(()) => true,
        Err(why) => {
            exam.report.found("connection", &NO_CONNECTION, why);
            false
        }
    }
}

fn addresses(exam: &mut Examination, link: &Link, is_first: bool) -> Option<Vec<SocketAddr>> {
    let host = link.host();
    let found = match link.address() {
        Some(address) => Ok(vec![SocketAddr::new(address, link.port())]),
        None => (host.as_str(), link.port()).to_socket_addrs().map(|found| {
            let mut all: Vec<SocketAddr> = Vec::new();
            found.for_each(|address| {
                if !all.contains(&address) {
                    all.push(address)
                }
            });
            all.truncate(MAX_ADDRESSES);
            all
        }),
    };
    let addresses = match found {
        Ok(addresses) if !addresses.is_empty() => addresses,
        Ok(_) => {
            exam.report.found("address", &UNKNOWN_NAME, format!("{host} has no address"));
            return None;
        }
        Err(e) => {
            exam.report.found("address", &UNKNOWN_NAME, format!("{host} has no address: {e}"));
            return None;
        }
    };
    if link.address().is_none() {
        exam.report.good("address", format!("{host} is {}", listed(&addresses)));
    }
    if is_first {
        let private: Vec<SocketAddr> = addresses.iter().copied().filter(|a| !is_public(a.ip())).collect();
        if link.is_loopback() {
            exam.report.leave_out_vendors(&THIS_MACHINE, format!("{host} is this machine"));
        } else if !private.is_empty() {
            exam.report.found("address", &NOT_PUBLIC, format!("{host} leads to {}", listed(&private)));
        }
        if !link.is_loopback() && addresses.iter().all(|address| address.ip().to_canonical().is_ipv6()) {
            exam.report.found(
                "address",
                &IPV6_ONLY,
                format!("{host} has no IPv4 address, only {}", listed(&addresses)),
            );
        }
    }
    Some(addresses)
}

/// Connects to each address; returns the first that accepts.
fn connect(exam: &mut Examination, link: &Link, addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let mut good: Vec<(SocketAddr, u128)> = Vec::new();
    let mut bad: Vec<String> = Vec::new();
    for address in addresses {
        if exam.prober.is_over().is_some() {
            break;
        }
        let begun = Instant::now();
        match TcpStream::connect_timeout(address, CONNECT_PATIENCE) {
            Ok(_) => good.push((*address, begun.elapsed().as_millis())),
            Err(e) => bad.push(format!("{}: {e}", address.ip())),
        }
    }
    let Some((first, _)) = good.first().copied() else {
        let seen = format!("nothing accepts connections at {} ({})", link.origin(), bad.join("; "));
        exam.report.found("connection", &NO_CONNECTION, seen);
        return None;
    };
    if !bad.is_empty() {
        exam.report.found("connection", &SOME_ADDRESSES_FAIL, bad.join("; "));
    }
    let times: Vec<String> = good.iter().map(|(address, ms)| format!("{} in {ms} ms", address.ip())).collect();
    exam.report.good("connection", format!("port {} answers: {}", link.port(), times.join(", ")));
    Some(first)
}

fn listed(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(|address| address.ip()).map(|a: IpAddr| a.to_string()).collect();
    texts.join(", ")
}
