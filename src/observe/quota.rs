//! A bound on log lines that others can cause: so many at once, so many a second, and the count of those left out.

use std::time::Instant;

/// The bound.
#[derive(Debug)]
pub struct Quota {
    burst: f64,
    per_second: f64,
    left: f64,
    since: Instant,
    omitted: u64,
}

impl Quota {
    /// Lets `burst` lines through at once and `per_second` more in each second.
    pub fn new(burst: u32, per_second: u32) -> Quota {
        let burst = f64::from(burst);
        Quota { burst, per_second: per_second.into(), left: burst, since: Instant::now(), omitted: 0 }
    }

    /// May a line be written now? If so, how many were not since the last one that was.
    pub fn take(&mut self) -> Option<u64> {
        self.take_at(Instant::now())
    }

    fn take_at(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.burst);
        self.since = now;
        if self.left < 1.0 {
            self.omitted += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.omitted))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_beyond_the_bound_are_counted() {
        let mut quota = Quota::new(3, 1);
        let start = quota.since;
        let at = |ms| start + Duration::from_millis(ms);
        let taken: Vec<_> = [0, 0, 0, 0, 0, 500, 1_000, 1_000, 60_000].map(|ms| quota.take_at(at(ms))).into();
        assert_eq!(taken, [Some(0), Some(0), Some(0), None, None, None, Some(3), None, Some(1)]);
    }
}
