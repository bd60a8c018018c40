//! Limits log lines that others can cause: a burst, a rate per second, and a count of the lines left out.

use std::time::Instant;

use crate::token_bucket::{Rate, TokenBucket};

/// A limit for log lines.
#[derive(Debug)]
pub struct Quota {
    rate: Rate,
    bucket: TokenBucket,
    omitted: u64,
}

impl Quota {
    /// Lets `burst` lines through at once and `per_second` more in each second.
    pub fn new(burst: u32, per_second: u32) -> Quota {
        let rate = Rate { burst: burst.into(), per_second: per_second.into() };
        Quota { rate, bucket: TokenBucket::full(rate, Instant::now()), omitted: 0 }
    }

    /// Returns `None` if no line may be written now, else the number of lines that were left out since the last written
    /// one.
    pub fn take(&mut self) -> Option<u64> {
        self.take_at(Instant::now())
    }

    fn take_at(&mut self, now: Instant) -> Option<u64> {
        match self.bucket.take(self.rate, now) {
            true => Some(std::mem::take(&mut self.omitted)),
            false => {
                self.omitted += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_beyond_the_bound_are_counted() {
        let mut quota = Quota::new(3, 1);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let taken: Vec<_> = [0, 0, 0, 0, 0, 500, 1_000, 1_000, 60_000].map(|ms| quota.take_at(at(ms))).into();
        assert_eq!(taken, [Some(0), Some(0), Some(0), None, None, None, Some(3), None, Some(1)]);
    }
}
