//! Growing delays after wrong passwords.
//!
//! Failures are counted per address, per network, per name, for all strangers together, and per known browser (one that
//! signed in before). A failure of a known browser also counts for its address, but only its own failures delay a known browser.
//! So strangers can't lock the owner out of it, not even many strangers, or ones at the same address.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::bounded_map::BoundedMap;
use crate::lock::Unpoisoned;
use crate::net::address::{address_group, network_of, wide_network_of};
use crate::token_bucket::{Rate, TokenBucket};

/// Failures of one address or browser without a delay.
const FREE: u32 = 5;
/// Failures of all strangers together without a delay.
const FREE_IN_ALL: u32 = 100;
/// Longest delay of one address or browser.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Longest delay of all strangers together.
const LONGEST_IN_ALL: Duration = Duration::from_secs(2);
/// Rate of attempts that are exempt from the common delay of all strangers, because their address has no failures yet.
/// The exemption is for the owner at a new place. The rate is limited because each machine of a botnet has a new
/// address, too.
const FRESH: Rate = Rate { burst: 10.0, per_second: 10.0 };
/// Failures in a network (/24, IPv6: /48) and in a wide network (/16, IPv6: /32) after which its addresses do not count
/// as fresh any more. An attacker may have many addresses, but they are in few networks.
const FREE_IN_NETWORK: u32 = 10;
const FREE_IN_WIDE_NETWORK: u32 = 50;
/// Failures of strangers with the name of one user without a delay.
const FREE_FOR_NAME: u32 = 20;
/// Longest delay of strangers with the name of one user.
const LONGEST_FOR_NAME: Duration = Duration::from_secs(60);
/// Rate of attempts with one name that are exempt from that delay, because their address has no failures yet. It is for
/// the user at a new place, while others guess the user's password.
const FRESH_FOR_NAME: Rate = Rate { burst: 5.0, per_second: 0.2 };
/// A failure is forgotten after this long without another.
const FORGET: Duration = Duration::from_secs(60 * 60);
/// Maximum number of entries in each table (addresses, networks, browsers).
const MAX_ENTRIES: usize = 10_000;

/// The origin of a sign-in attempt.
#[derive(Clone, Debug)]
pub enum Visitor {
    /// A browser that signed in before: the name in its device cookie, and its address.
    Known(String, IpAddr),
    /// Any other browser, by its address, and the name of the user that it wants to be, if it gives one.
    Stranger(IpAddr, Option<String>),
}

/// Failure counts, behind a lock.
#[derive(Default)]
pub struct Throttle(Mutex<Counts>);

struct Counts {
    addresses: BoundedMap<IpAddr, Failures>,
    /// By network and by wide network. They only decide whether an address is fresh; they cause no delay.
    networks: [BoundedMap<IpAddr, Failures>; 2],
    browsers: BoundedMap<String, Failures>,
    /// By the name of a user, for strangers; and a token bucket for attempts on it from fresh addresses.
    names: BoundedMap<String, Failures>,
    fresh_for_name: BoundedMap<String, TokenBucket>,
    all: Failures,
    /// Token bucket for attempts from fresh addresses; `None` before the first use.
    fresh: Option<TokenBucket>,
}

impl Default for Counts {
    fn default() -> Counts {
        let map = || BoundedMap::new(MAX_ENTRIES);
        let browsers = BoundedMap::new(MAX_ENTRIES);
        let (names, fresh_for_name) = (BoundedMap::new(MAX_ENTRIES), BoundedMap::new(MAX_ENTRIES));
        let (networks, all) = ([map(), map()], Failures::default());
        Counts { addresses: map(), networks, browsers, names, fresh_for_name, all, fresh: None }
    }
}

#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    last: Option<Instant>,
}

impl Failures {
    /// The remaining delay before the next attempt is accepted; zero if there is none.
    fn wait(&self, now: Instant, free: u32, longest: Duration) -> Duration {
        let Some(last) = self.last.filter(|_| self.count >= free) else { return Duration::ZERO };
        let delay = Duration::from_secs(1u64 << (self.count - free).min(16)).min(longest);
        (last + delay).saturating_duration_since(now)
    }

    /// Are there at least `count` failures that are not forgotten yet?
    fn has_failed(&self, now: Instant, count: u32) -> bool {
        self.count >= count && self.last.is_some_and(|last| now.saturating_duration_since(last) <= FORGET)
    }

    fn add(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > FORGET) {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }
}

impl Throttle {
    /// Starts an attempt. It counts as failed until [`Throttle::succeeded`] is called, so that parallel attempts do not
    /// all pass. The error is the time to wait.
    pub fn attempt(&self, visitor: &Visitor) -> Result<(), Duration> {
        self.attempt_at(visitor, Instant::now())
    }

    fn attempt_at(&self, visitor: &Visitor, now: Instant) -> Result<(), Duration> {
        let mut counts = self.0.lock().unpoisoned();
        let counts = &mut *counts;
        match visitor {
            Visitor::Known(browser, address) => {
                let failures = entry(&mut counts.browsers, browser.clone(), now);
                refuse_for(failures.wait(now, FREE, LONGEST))?;
                failures.add(now);
                entry(&mut counts.addresses, address_group(*address), now).add(now);
            }
            Visitor::Stranger(address, name) => {
                let failures = entry(&mut counts.addresses, address_group(*address), now);
                let mut in_all = counts.all.wait(now, FREE_IN_ALL, LONGEST_IN_ALL);
                let [network, wide] = &mut counts.networks;
                let network = entry(network, network_of(*address), now);
                let wide = entry(wide, wide_network_of(*address), now);
                let is_fresh = failures.count == 0
                    && !network.has_failed(now, FREE_IN_NETWORK)
                    && !wide.has_failed(now, FREE_IN_WIDE_NETWORK);
                if is_fresh
                    && !in_all.is_zero()
                    && counts.fresh.get_or_insert(TokenBucket::full(FRESH, now)).take(FRESH, now)
                {
                    in_all = Duration::ZERO;
                }
                let mut of_name = Duration::ZERO;
                if let Some(name) = name {
                    of_name = entry(&mut counts.names, name.clone(), now).wait(now, FREE_FOR_NAME, LONGEST_FOR_NAME);
                    let is_full: &dyn Fn(&TokenBucket) -> bool = &|bucket| bucket.is_full(FRESH_FOR_NAME, now);
                    let bucket = TokenBucket::full(FRESH_FOR_NAME, now);
                    let bucket = counts.fresh_for_name.get_or_insert(name.clone(), bucket, &[is_full]);
                    if is_fresh && !of_name.is_zero() && bucket.take(FRESH_FOR_NAME, now) {
                        of_name = Duration::ZERO;
                    }
                }
                refuse_for(failures.wait(now, FREE, LONGEST).max(in_all).max(of_name))?;
                if let Some(name) = name {
                    entry(&mut counts.names, name.clone(), now).add(now);
                }
                for failures in [failures, network, wide, &mut counts.all] {
                    failures.add(now);
                }
            }
        }
        Ok(())
    }

    /// The password was right. Resets the failures of the browser or the address, and takes the attempt back from the
    /// other counts. Returns how many failures there were before, as far as they are remembered.
    pub fn succeeded(&self, visitor: &Visitor) -> u32 {
        let mut counts = self.0.lock().unpoisoned();
        let failures = match visitor {
            Visitor::Known(browser, address) => {
                let failures = counts.browsers.remove(browser);
                // Failures of strangers at this address stay counted.
                counts.take_back(*address);
                failures
            }
            Visitor::Stranger(address, name) => {
                let failures = counts.addresses.remove(&address_group(*address));
                counts.take_back_of_networks(*address);
                counts.take_back_of_name(name);
                counts.all.count = counts.all.count.saturating_sub(1);
                failures
            }
        };
        // The attempt itself counted as one.
        failures.map_or(0, |failures| failures.count.saturating_sub(1))
    }

    /// The password was not checked (queue full): takes the attempt back from all counts.
    pub fn withdrawn(&self, visitor: &Visitor) {
        let mut counts = self.0.lock().unpoisoned();
        match visitor {
            Visitor::Known(browser, address) => {
                if let Some(failures) = counts.browsers.get_mut(browser) {
                    failures.count = failures.count.saturating_sub(1);
                }
                counts.take_back(*address);
            }
            Visitor::Stranger(address, name) => {
                counts.all.count = counts.all.count.saturating_sub(1);
                counts.take_back(*address);
                counts.take_back_of_networks(*address);
                counts.take_back_of_name(name);
            }
        }
    }
}

impl Counts {
    fn take_back_of_networks(&mut self, address: IpAddr) {
        let keys = [network_of(address), wide_network_of(address)];
        for (networks, key) in self.networks.iter_mut().zip(keys) {
            if let Some(failures) = networks.get_mut(&key) {
                failures.count = failures.count.saturating_sub(1);
            }
        }
    }

    /// Failures of others with the same name stay counted.
    fn take_back_of_name(&mut self, name: &Option<String>) {
        if let Some(failures) = name.as_ref().and_then(|name| self.names.get_mut(name)) {
            failures.count = failures.count.saturating_sub(1);
        }
    }

    /// Subtracts one failure from the count of the address.
    fn take_back(&mut self, address: IpAddr) {
        if let Some(failures) = self.addresses.get_mut(&address_group(address)) {
            failures.count = failures.count.saturating_sub(1);
        }
    }
}

fn refuse_for(wait: Duration) -> Result<(), Duration> {
    if wait.is_zero() { Ok(()) } else { Err(wait) }
}

fn entry<K: Hash + Eq>(map: &mut BoundedMap<K, Failures>, key: K, now: Instant) -> &mut Failures {
    let is_over = |f: &Failures| f.last.is_none_or(|last| now.saturating_duration_since(last) > FORGET);
    // When the table is full, removes expired entries first, then entries with too few failures for a delay.
    map.get_or_insert(key, Failures::default(), &[&is_over, &|f| f.count < FREE])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(last: u8) -> Visitor {
        Visitor::Stranger(IpAddr::from([192, 0, 2, last]), None)
    }

    #[test]
    fn delays_grow_for_one_address_and_end() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..FREE {
            assert_eq!(throttle.attempt_at(&stranger(1), start), Ok(()));
        }
        assert_eq!(throttle.attempt_at(&stranger(1), start), Err(Duration::from_secs(1)));
        assert_eq!(throttle.attempt_at(&stranger(2), start), Ok(()));
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..12 {
            if let Err(wait) = throttle.attempt_at(&stranger(1), now) {
                waits.push(wait.as_secs());
                now += wait;
                assert_eq!(throttle.attempt_at(&stranger(1), now), Ok(()));
            }
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        throttle.succeeded(&stranger(1));
        assert_eq!(throttle.attempt_at(&stranger(1), now), Ok(()));
    }

    #[test]
    fn attempts_at_the_same_moment_do_not_all_pass() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let passed = (0..100).filter(|_| throttle.attempt_at(&stranger(1), now).is_ok()).count();
        assert_eq!(passed, FREE as usize);
    }

    #[test]
    fn a_thousand_strangers_slow_one_another_and_not_the_owners_browser() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let passed = (0..1_000u32).filter(|i| {
            throttle.attempt_at(&Visitor::Stranger(IpAddr::from((i << 16).to_be_bytes()), None), now).is_ok()
        });
        assert_eq!(passed.count(), FREE_IN_ALL as usize + FRESH.burst as usize);
        let owner = Visitor::Known("laptop".into(), IpAddr::from([198, 51, 100, 1]));
        assert_eq!(throttle.attempt_at(&owner, now), Ok(()));
        let soon = now + Duration::from_millis(200);
        assert_eq!(throttle.attempt_at(&stranger(9), soon), Ok(()), "an address that has not failed yet");
        let guesser = stranger(10);
        while throttle.attempt_at(&guesser, soon).is_ok() {}
        assert!(throttle.attempt_at(&guesser, soon).is_err());
    }

    #[test]
    fn addresses_of_a_network_that_guesses_are_not_fresh() {
        let wide = |network: u16, subnet: u16| {
            Visitor::Stranger(IpAddr::from([0x2001, 0xdb8, network, subnet, 0, 0, 0, 1]), None)
        };
        for spread in [false, true] {
            let (throttle, mut now) = (Throttle::default(), Instant::now());
            // One site (/48) with 65,536 subnets, or one customer (/32) with 65,536 sites: only the common delay limits
            // them, to about one guess in two seconds.
            let mut next = 0;
            let mut guess = |now| {
                next += 1;
                throttle.attempt_at(&if spread { wide(next, 0) } else { wide(7, next) }, now).is_ok()
            };
            assert_eq!((0..1_000).filter(|_| guess(now)).count(), FREE_IN_ALL as usize);
            let mut passed = 0;
            for _ in 0..600 {
                now += Duration::from_millis(100);
                passed += usize::from(guess(now));
            }
            assert!(passed <= 31, "{passed} in a minute");
            assert_eq!(throttle.attempt_at(&stranger(1), now), Ok(()), "the owner, elsewhere");
        }
    }

    #[test]
    fn a_known_browser_is_delayed_by_itself_alone_and_counts_for_its_address() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let home = IpAddr::from([192, 0, 2, 1]);
        while throttle.attempt_at(&Visitor::Stranger(home, None), now).is_ok() {}
        let owner = Visitor::Known("laptop".into(), home);
        for _ in 0..FREE {
            assert_eq!(throttle.attempt_at(&owner, now), Ok(()), "strangers behind the same address are others");
        }
        assert_eq!(throttle.attempt_at(&owner, now), Err(Duration::from_secs(1)));
        // Each new browser name has free attempts, but their failures also count for strangers at the same address.
        let elsewhere = IpAddr::from([198, 51, 100, 7]);
        for name in ["a", "b"] {
            let browser = Visitor::Known(name.into(), elsewhere);
            (0..FREE).for_each(|_| assert_eq!(throttle.attempt_at(&browser, now), Ok(())));
        }
        assert!(throttle.attempt_at(&Visitor::Stranger(elsewhere, None), now).is_err());
        // A success of the owner takes back one attempt at the address; the failures of strangers stay.
        throttle.succeeded(&owner);
        assert!(throttle.attempt_at(&Visitor::Stranger(home, None), now).is_err());
    }

    #[test]
    fn guesses_at_one_name_are_slowed_whatever_their_address_and_its_user_is_not_locked_out() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let stranger = |i: u32, name: &str| Visitor::Stranger(IpAddr::from((i << 16).to_be_bytes()), Some(name.into()));
        let passed = (0..90).filter(|i| throttle.attempt_at(&stranger(*i, "alice"), start).is_ok()).count();
        assert_eq!(passed, FREE_FOR_NAME as usize + FRESH_FOR_NAME.burst as usize);
        assert_eq!(throttle.attempt_at(&stranger(500, "bob"), start), Ok(()), "another name");
        let owner = Visitor::Known("laptop".into(), IpAddr::from([198, 51, 100, 1]));
        assert_eq!(throttle.attempt_at(&owner, start), Ok(()), "a browser that the user signed in with");
        // In a minute of guesses from ever new addresses, the user at a new place gets through, too.
        let mut passed = 0;
        for second in 1..=60 {
            let now = start + Duration::from_secs(second);
            passed += usize::from(throttle.attempt_at(&stranger(1_000 + second as u32, "alice"), now).is_ok());
        }
        assert!((10..=14).contains(&passed), "{passed} in a minute");
        throttle.succeeded(&stranger(1_060, "alice"));
        assert!(throttle.attempt_at(&stranger(3, "alice"), start + Duration::from_secs(60)).is_err());
    }

    #[test]
    fn whoever_has_used_up_what_is_free_is_not_forgotten_for_others() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        (0..FREE).for_each(|_| assert_eq!(throttle.attempt_at(&stranger(1), now), Ok(())));
        let mut counts = throttle.0.lock().unwrap();
        for i in 0..2 * MAX_ENTRIES as u32 {
            entry(&mut counts.addresses, IpAddr::from((0x0a00_0000 | i).to_be_bytes()), now).add(now);
        }
        assert!(counts.addresses.len() <= MAX_ENTRIES);
        drop(counts);
        assert!(throttle.attempt_at(&stranger(1), now).is_err());
    }

    #[test]
    fn the_table_is_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for i in 0..30_000u32 {
            let _ = throttle.attempt_at(&Visitor::Stranger(IpAddr::from(i.to_be_bytes()), None), now);
        }
        assert!(throttle.0.lock().unwrap().addresses.len() <= MAX_ENTRIES);
    }
}
