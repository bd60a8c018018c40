//! A token bucket for each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

use crate::http::address_group;

/// Addresses remembered at one time.
const MAX_ADDRESSES: usize = 10_000;

/// Allows bursts, and a steady rate after them, for each address (IPv6: /64).
pub struct Buckets {
    burst: f64,
    per_second: f64,
    levels: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

impl Buckets {
    /// `burst` at once, then `per_second`.
    pub fn new(burst: u32, per_second: u32) -> Buckets {
        Buckets { burst: burst.into(), per_second: per_second.into(), levels: Mutex::default() }
    }

    /// Takes one from the address's bucket; false when it is empty.
    pub fn take(&self, address: IpAddr) -> bool {
        self.take_at(address, Instant::now())
    }

    fn take_at(&self, address: IpAddr, now: Instant) -> bool {
        let mut levels = self.levels.lock().unwrap_or_else(|e| e.into_inner());
        let refilled = |level: f64, at: Instant| {
            (level + now.saturating_duration_since(at).as_secs_f64() * self.per_second).min(self.burst)
        };
        let key = address_group(address);
        if levels.len() >= MAX_ADDRESSES && !levels.contains_key(&key) {
            // Full buckets are the same as absent ones. If none is full, the table is under attack: forget it all.
            levels.retain(|_, (level, at)| refilled(*level, *at) < self.burst);
            if levels.len() >= MAX_ADDRESSES {
                levels.clear();
            }
        }
        let (level, at) = levels.entry(key).or_insert((self.burst, now));
        *level = refilled(*level, *at);
        *at = now;
        let enough = *level >= 1.0;
        if enough {
            *level -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_a_rate_for_each_address() {
        let buckets = Buckets::new(3, 1);
        let start = Instant::now();
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!((0..5).filter(|_| buckets.take_at(a, start)).count(), 3);
        assert!(buckets.take_at(b, start));
        assert!(buckets.take_at(a, start + Duration::from_secs(1)));
        assert!(!buckets.take_at(a, start + Duration::from_secs(1)));
    }

    #[test]
    fn a_subnet_of_ipv6_is_one_address_and_the_table_is_bounded() {
        let buckets = Buckets::new(1, 1);
        let now = Instant::now();
        assert!(buckets.take_at("2001:db8::1".parse().unwrap(), now));
        assert!(!buckets.take_at("2001:db8::2".parse().unwrap(), now));
        for i in 0..30_000u32 {
            buckets.take_at(IpAddr::from(i.to_be_bytes()), now);
        }
        assert!(buckets.levels.lock().unwrap().len() <= MAX_ADDRESSES);
    }
}
