//! A token bucket for each address.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

use crate::bounded_map::BoundedMap;
use crate::lock::Unpoisoned;
use crate::net::address::{address_group, network_of, wide_network_of};
use crate::token_bucket::{Rate, TokenBucket};

/// The reserve for networks that have sent few requests. `SET_ASIDE`: burst and rate per second of the whole reserve.
/// `OF_A_NEWCOMER`: requests with which a wide network (/16, IPv6: /32) still counts as such, at once and per hour.
const SET_ASIDE: (u32, u32) = (500, 5);
const OF_A_NEWCOMER: f64 = 10.0;
/// Addresses remembered at one time.
const MAX_ADDRESSES: usize = 10_000;

/// Allows bursts, and a steady rate after them, for each address (IPv6: /64).
pub struct RateLimit {
    rate: Rate,
    buckets: Mutex<BoundedMap<IpAddr, TokenBucket>>,
}

impl RateLimit {
    /// `burst` at once, then `per_second`.
    pub fn new(burst: u32, per_second: u32) -> RateLimit {
        RateLimit::of(Rate { burst: burst.into(), per_second: per_second.into() })
    }

    /// `count` at once, and the same number again over an hour.
    fn in_an_hour(count: f64) -> RateLimit {
        RateLimit::of(Rate { burst: count, per_second: count / 3_600.0 })
    }

    fn of(rate: Rate) -> RateLimit {
        RateLimit { rate, buckets: Mutex::new(BoundedMap::new(MAX_ADDRESSES)) }
    }

    /// Takes a token from the bucket of the address; false if the bucket is empty.
    pub fn take(&self, address: IpAddr) -> bool {
        self.take_at(address, Instant::now())
    }

    fn take_at(&self, address: IpAddr, now: Instant) -> bool {
        self.take_of(address_group(address), now)
    }

    fn take_of(&self, key: IpAddr, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unpoisoned();
        // A full bucket means the same as no bucket, so full ones are removed first. If none is full, the table is
        // under attack and is cleared.
        let is_full = |bucket: &TokenBucket| bucket.is_full(self.rate, now);
        buckets.get_or_insert(key, TokenBucket::full(self.rate, now), &[&is_full]).take(self.rate, now)
    }
}

/// A limit for each address, one for each network, and one for all together, because an attacker with many addresses
/// has few networks. When the limit for all is exhausted, networks that have sent few requests can use a reserve.
pub struct NestedRateLimit {
    address: RateLimit,
    network: RateLimit,
    all: RateLimit,
    set_aside: RateLimit,
    newcomers: RateLimit,
}

impl NestedRateLimit {
    /// Burst and rate of an address (IPv6: /64), of a network (/24, IPv6: /48), and of all.
    pub fn new(address: (u32, u32), network: (u32, u32), all: (u32, u32)) -> NestedRateLimit {
        let buckets = |(burst, per_second)| RateLimit::new(burst, per_second);
        NestedRateLimit {
            address: buckets(address),
            network: buckets(network),
            all: buckets(all),
            set_aside: buckets(SET_ASIDE),
            newcomers: RateLimit::in_an_hour(OF_A_NEWCOMER),
        }
    }

    /// Takes a token from each bucket. The error says which one is empty, as a text for the log.
    pub fn take(&self, address: IpAddr) -> Result<(), &'static str> {
        self.take_at(address, Instant::now())
    }

    fn take_at(&self, address: IpAddr, now: Instant) -> Result<(), &'static str> {
        const ANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        // The narrowest limit first, so that a request that it refuses takes no token from the others.
        if !self.address.take_at(address, now) {
            return Err("from this address");
        }
        if !self.network.take_of(network_of(address), now) {
            return Err("from this network");
        }
        let is_newcomer = self.newcomers.take_of(wide_network_of(address), now);
        let enough = self.all.take_of(ANY, now) || (is_newcomer && self.set_aside.take_of(ANY, now));
        if enough { Ok(()) } else { Err("in all") }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_a_rate_for_each_address() {
        let buckets = RateLimit::new(3, 1);
        let start = Instant::now();
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!((0..5).filter(|_| buckets.take_at(a, start)).count(), 3);
        assert!(buckets.take_at(b, start));
        assert!(buckets.take_at(a, start + Duration::from_secs(1)));
        assert!(!buckets.take_at(a, start + Duration::from_secs(1)));
    }

    #[test]
    fn a_subnet_of_ipv6_is_one_address_and_the_table_is_bounded() {
        let buckets = RateLimit::new(1, 1);
        let now = Instant::now();
        assert!(buckets.take_at("2001:db8::1".parse().unwrap(), now));
        assert!(!buckets.take_at("2001:db8::2".parse().unwrap(), now));
        for i in 0..30_000u32 {
            buckets.take_at(IpAddr::from(i.to_be_bytes()), now);
        }
        assert!(buckets.buckets.lock().unwrap().len() <= MAX_ADDRESSES);
    }

    #[test]
    fn many_addresses_of_one_network_share_what_it_has() {
        let (limit, now) = (NestedRateLimit::new((2, 1), (5, 1), (8, 1)), Instant::now());
        let v6 = |network: u16, subnet: u16| IpAddr::from([0x2001, 0xdb8, network, subnet, 0, 0, 0, 1]);
        let taken =
            |addresses: &mut dyn Iterator<Item = IpAddr>| addresses.filter(|a| limit.take_at(*a, now).is_ok()).count();
        assert_eq!(taken(&mut (0..1_000).map(|n| v6(1, n))), 5);
        assert_eq!(limit.take_at(v6(2, 1), now), Ok(()));
        assert_eq!(limit.take_at(v6(2, 1), now), Ok(()));
        assert_eq!(limit.take_at(v6(2, 1), now), Err("from this address"));
        // Seven of the eight for all are taken, and the flood goes on. Other networks still have the reserve.
        assert_eq!(taken(&mut (3..1_000).map(|n| v6(n, 1))), 3, "one more in all, and what is left to a newcomer");
        assert_eq!(limit.take_at(v6(2_000, 1), now), Err("in all"));
        assert_eq!(limit.take_at(IpAddr::from([198, 51, 100, 1]), now), Ok(()));
    }
}
