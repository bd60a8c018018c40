//! The one place that reads the clock.
//!
//! Lifetimes are measured by wall time, which can jump: a board without a battery starts in the past, and a bad time
//! server can set the clock years ahead. A jump must not end every login at once. So for [`SETTLE`] after a jump, this
//! clock continues from its old time. If the wall clock has not come back by then, its new time is accepted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::lock::Unpoisoned;

/// Seconds since 1970-01-01 UTC.
pub type Timestamp = u64;

/// How far wall time and steady time may differ before it counts as a jump, in seconds.
const TOLERANCE: u64 = 30;
/// How long a jump must last before the new time is accepted, in seconds.
const SETTLE: u64 = 600;

/// A source of time.
pub enum Clock {
    /// The machine's clocks, or others that are read like them.
    System(Source, Mutex<Anchor>),
    /// Set by hand, for tests and simulations.
    Manual(AtomicU64),
}

/// Reads wall time, and steady time with any starting point, in seconds.
pub type Source = Box<dyn Fn() -> (u64, u64) + Send + Sync>;

/// Wall time and steady time at the same moment.
#[derive(Clone, Copy)]
pub struct Anchor {
    wall: u64,
    steady: u64,
    /// Steady time when a jump was seen that is not accepted yet.
    jumped: Option<u64>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock::on(Box::new(read))
    }

    /// A clock on another source.
    pub fn on(source: Source) -> Clock {
        let (wall, steady) = source();
        Clock::System(source, Mutex::new(Anchor { wall, steady, jumped: None }))
    }

    /// A clock that stands at `now` until [`Clock::advance`] moves it.
    pub fn manual(now: Timestamp) -> Clock {
        Clock::Manual(AtomicU64::new(now))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System(source, anchor) => {
                let (wall, steady) = source();
                let mut anchor = anchor.lock().unpoisoned();
                let (now, event) = anchor.judge(wall, steady);
                drop(anchor);
                if let Some(event) = event {
                    event.log();
                }
                now
            }
            Clock::Manual(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Moves a manual clock forward; a system clock can't be moved.
    pub fn advance(&self, seconds: u64) {
        if let Clock::Manual(now) = self {
            now.fetch_add(seconds, Ordering::SeqCst);
        }
    }
}

#[derive(Debug, PartialEq)]
enum Event {
    Jumped(i64),
    Returned,
    Believed,
}

impl Event {
    fn log(&self) {
        match self {
            Event::Jumped(by) => {
                log::warn!(seconds = by; "the system clock jumped; tokens are judged by the time before the jump until it has lasted {} minutes", SETTLE / 60)
            }
            Event::Returned => log::info!("the system clock is back where it was before it jumped"),
            Event::Believed => {
                log::warn!("the system clock has kept its new time; tokens are judged by it from now on")
            }
        }
    }
}

impl Anchor {
    fn judge(&mut self, wall: u64, steady: u64) -> (Timestamp, Option<Event>) {
        let expected = self.wall + (steady - self.steady);
        if wall.abs_diff(expected) <= TOLERANCE {
            // Small corrections are followed, so that drift never adds up to a jump.
            let event = self.jumped.take().map(|_| Event::Returned);
            (self.wall, self.steady) = (wall, steady);
            return (wall, event);
        }
        match self.jumped {
            None => {
                self.jumped = Some(steady);
                (expected, Some(Event::Jumped(wall as i64 - expected as i64)))
            }
            Some(since) if steady - since < SETTLE => (expected, None),
            Some(_) => {
                *self = Anchor { wall, steady, jumped: None };
                (wall, Some(Event::Believed))
            }
        }
    }
}

/// Wall time, and time since boot including the time asleep, so that waking up is not a jump.
fn read() -> (u64, u64) {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    (wall, clock_gettime(ClockId::Boottime).tv_sec.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_ridden_out_and_believed_only_when_it_lasts() {
        let mut a = Anchor { wall: 1_000_000, steady: 50, jumped: None };
        assert_eq!(a.judge(1_000_010, 60), (1_000_010, None));
        assert_eq!(a.judge(9_000_000, 61), (1_000_011, Some(Event::Jumped(7_999_989))));
        assert_eq!(a.judge(9_000_099, 160), (1_000_110, None));
        assert_eq!(a.judge(1_000_111, 161), (1_000_111, Some(Event::Returned)));
        assert_eq!(a.judge(500, 162), (1_000_112, Some(Event::Jumped(500 - 1_000_112))));
        assert_eq!(a.judge(1_100, 762), (1_100, Some(Event::Believed)));
        assert_eq!(a.judge(1_101, 763), (1_101, None));
    }
}
