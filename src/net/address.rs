//! Groups of addresses that are likely to belong together.

use std::net::IpAddr;

/// The network that an address probably belongs to: the /24 of an IPv4 address, the /48 of an IPv6 address, which is
/// what one site has.
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

/// A wider group of networks, which one provider may have given to one customer: the /16 of an IPv4 address, the /32 of
/// an IPv6 address.
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

/// The unit in which addresses are counted: an IPv4 address itself, the /64 of an IPv6 address, which is what one
/// subscriber has.
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
