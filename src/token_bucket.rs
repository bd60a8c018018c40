//! A token bucket: allows a burst at once, then a steady rate per second.

use std::time::{Duration, Instant};

/// How much a bucket holds, and how fast it fills.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Tokens in a full bucket.
    pub burst: f64,
    /// Tokens added in a second.
    pub per_second: f64,
}

/// One token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    level: f64,
    since: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn full(rate: Rate, now: Instant) -> TokenBucket {
        TokenBucket { level: rate.burst, since: now }
    }

    /// Takes a token; false when there is none.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.take_many(1.0, rate, now)
    }

    /// Takes so many tokens, or none.
    pub(crate) fn take_many(&mut self, count: f64, rate: Rate, now: Instant) -> bool {
        self.level = self.level(rate, now);
        self.since = now;
        let has_enough = self.level >= count;
        if has_enough {
            self.level -= count;
        }
        has_enough
    }

    /// How long until there are so many tokens, as of the last attempt to take them.
    pub(crate) fn wait(&self, count: f64, rate: Rate) -> Duration {
        Duration::try_from_secs_f64((count - self.level).max(0.0) / rate.per_second).unwrap_or(Duration::MAX)
    }

    /// True if the bucket is full, so that it is equivalent to a new one.
    pub(crate) fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) >= rate.burst
    }

    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        (self.level + passed * rate.per_second).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_steady_rate_and_never_more_than_full() {
        let (rate, start) = (Rate { burst: 2.0, per_second: 0.5 }, Instant::now());
        let mut bucket = TokenBucket::full(rate, start);
        let mut taken = |seconds| bucket.take(rate, start + Duration::from_secs(seconds));
        assert_eq!([0, 0, 0, 1, 2, 3].map(&mut taken), [true, true, false, false, true, false]);
        assert_eq!([1_000, 1_000, 1_000].map(taken), [true, true, false]);
        assert!(bucket.is_full(rate, start + Duration::from_secs(2_000)) && !bucket.is_full(rate, start));
    }
}
