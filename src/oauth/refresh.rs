//! The rules of refresh token rotation (OAuth 2.1 section 4.3.1), apart from storage and transport.
//!
//! Every refresh makes a new generation. The one before stays good for a short grace, since clients send the same
//! token twice when requests race, and for up to a day if nothing of the new generation was ever seen, since a laptop
//! can fall asleep before the answer reaches it. In both cases the *same* successor is given again, so that however
//! often a token is repeated there is one line of generations. Anything older is a stolen copy: the grant ends.

use crate::clock::Timestamp;

/// How long the previous token stays good in any case.
pub const GRACE: u64 = 60;
/// How long it stays good while nothing of the new generation has been seen.
pub const UNSEEN_GRACE: u64 = 86_400;

/// The grant's newest refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Its number.
    pub generation: u64,
    /// When it was made.
    pub since: Timestamp,
    /// Has a token of its generation been seen?
    pub seen: bool,
}

/// What a presented refresh token leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the newest: a successor is made.
    Rotate(Newest),
    /// It is the one before, and its client may have missed the answer: the same successor again.
    Repeat,
    /// It is a copy: the grant ends.
    Reuse,
    /// It is of a generation that was never given out: the state was set back. It is refused and nothing ends.
    Unknown,
}

/// Judges the token of `generation`, made at `since`, at time `now`.
pub fn judge(newest: Newest, generation: u64, since: Timestamp, now: Timestamp) -> Verdict {
    let age = now.saturating_sub(newest.since);
    if generation == newest.generation {
        return match since == newest.since {
            true => Verdict::Rotate(Newest { generation: generation + 1, since: now, seen: false }),
            false => Verdict::Unknown,
        };
    }
    if generation > newest.generation {
        return Verdict::Unknown;
    }
    let previous = generation + 1 == newest.generation;
    if previous && (age <= GRACE || (!newest.seen && age <= UNSEEN_GRACE)) { Verdict::Repeat } else { Verdict::Reuse }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: Newest = Newest { generation: 5, since: 1_000, seen: false };

    #[test]
    fn the_newest_rotates_at_any_age() {
        for now in [1_000, 1_059, 9_999_999] {
            assert_eq!(
                judge(NEWEST, 5, 1_000, now),
                Verdict::Rotate(Newest { generation: 6, since: now, seen: false })
            );
        }
    }

    #[test]
    fn the_one_before_is_repeated_within_the_grace_and_until_its_successor_is_seen() {
        let seen = Newest { seen: true, ..NEWEST };
        for (newest, age, verdict) in [
            (seen, 0, Verdict::Repeat),
            (seen, GRACE, Verdict::Repeat),
            (seen, GRACE + 1, Verdict::Reuse),
            (NEWEST, GRACE + 1, Verdict::Repeat),
            (NEWEST, UNSEEN_GRACE, Verdict::Repeat),
            (NEWEST, UNSEEN_GRACE + 1, Verdict::Reuse),
        ] {
            assert_eq!(judge(newest, 4, 900, 1_000 + age), verdict, "{newest:?} after {age}");
        }
    }

    #[test]
    fn older_ones_are_reuse_and_later_ones_unknown() {
        assert_eq!(judge(NEWEST, 3, 800, 1_001), Verdict::Reuse);
        assert_eq!(judge(NEWEST, 6, 1_001, 1_001), Verdict::Unknown);
        assert_eq!(judge(NEWEST, 5, 999, 1_001), Verdict::Unknown, "same number, another line");
    }

    #[test]
    fn a_clock_that_went_back_ends_nothing() {
        assert_eq!(judge(Newest { seen: true, ..NEWEST }, 4, 900, 10), Verdict::Repeat);
    }
}
