//! Addresses, and what they have in common as far as it can be told from outside.

use std::net::IpAddr;

/// The network that an address belongs to, as far as it can be told from outside: IPv4 by its /24, IPv6 by its /48, which
/// is what one site has.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[6..].fill(0);
            IpAddr::from(octets)
        }
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
    }
}

/// What networks have in common that one provider may have given to one customer: IPv4 by its /16, IPv6 by its /32.
pub fn wide_network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[4..].fill(0);
            IpAddr::from(octets)
        }
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            IpAddr::from([a, b, 0, 0])
        }
    }
}

/// The unit by which addresses are counted: IPv4 as it is, IPv6 by its /64, which is what one subscriber has.
pub fn address_group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::from(octets)
        }
        v4 => v4,
    }
}
