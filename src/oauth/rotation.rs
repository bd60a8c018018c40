//! The rules of refresh token rotation (OAuth 2.1 section 4.3.1), independent of storage and transport.
//!
//! Every refresh starts a new generation. The *parent* is the token that was used for it, the *successor* the token
//! that was issued.
//!
//! - Clients send the same token twice when requests race. For [`GRACE`] seconds, the parent gets the same successor
//!   again.
//! - The answer can get lost, for example when a laptop goes to sleep. For up to [`UNSEEN_GRACE`] seconds after the
//!   rotation, and only while no token of the successor's attempt was ever used, the parent gets *another* successor,
//!   which replaces the first one.
//! - If a thief had rotated first, thief and client now hold different tokens. The first use of the replaced refresh
//!   token ends the grant.
//! - The use of any older token ends the grant too.

use crate::clock::Timestamp;
use crate::store::rows::Rotation;

/// How long after the newest token was issued its parent gets the same token again, in seconds.
pub const GRACE: u64 = 60;
/// How long after the rotation the parent gets another successor, in seconds, while no token of the current one was
/// used.
pub const UNSEEN_GRACE: u64 = 86_400;

/// The fields of the refresh token that a client presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Its generation.
    pub generation: u64,
    /// Its attempt.
    pub attempt: u64,
    /// When it was made.
    pub since: Timestamp,
}

/// What a presented refresh token leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the newest token: start a new generation.
    Rotate(Rotation),
    /// It is the parent within [`GRACE`]: issue the same successor again.
    Repeat,
    /// It is the parent, and the client did not get the answer: issue another successor, which replaces the previous
    /// one.
    Replace(Rotation),
    /// It is an old token that must not be used again, so it may have been copied: the grant ends.
    Reuse,
    /// According to the stored state it was never issued, so the state was set back to an earlier one. The token is
    /// refused, but the grant does not end.
    Unknown,
}

/// The rotation of a new grant.
pub fn first(now: Timestamp) -> Rotation {
    Rotation { generation: 1, attempt: 0, since: now, parent: None, rotated_at: now, seen: true }
}

/// Judges a token at time `now`.
pub fn judge(newest: Rotation, token: Presented, now: Timestamp) -> Verdict {
    let Rotation { generation, attempt, since, parent, rotated_at, seen } = newest;
    if token.generation == generation && token.attempt == attempt && token.since == since {
        let parent = Some((attempt, since));
        let generation = generation + 1;
        return Verdict::Rotate(Rotation { generation, attempt: 0, since: now, parent, rotated_at: now, seen: false });
    }
    if token.generation == generation {
        // All attempts before the newest were issued; anything else of this generation was not.
        return if token.attempt < attempt { Verdict::Reuse } else { Verdict::Unknown };
    }
    if token.generation > generation {
        return Verdict::Unknown;
    }
    if token.generation + 1 < generation {
        return Verdict::Reuse;
    }
    match parent {
        Some(parent) if (token.attempt, token.since) == parent => {}
        Some((last, _)) if token.attempt < last => return Verdict::Reuse,
        _ => return Verdict::Unknown,
    }
    if now.saturating_sub(since) <= GRACE {
        return Verdict::Repeat;
    }
    if !seen && now.saturating_sub(rotated_at) <= UNSEEN_GRACE {
        return Verdict::Replace(Rotation { attempt: attempt + 1, since: now, ..newest });
    }
    Verdict::Reuse
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: Rotation =
        Rotation { generation: 5, attempt: 2, since: 1_000, parent: Some((1, 700)), rotated_at: 900, seen: false };

    fn token(generation: u64, attempt: u64, since: Timestamp) -> Presented {
        Presented { generation, attempt, since }
    }

    #[test]
    fn the_newest_rotates_at_any_age() {
        for now in [1_000, 1_059, 9_999_999] {
            let next = Rotation {
                generation: 6,
                attempt: 0,
                since: now,
                parent: Some((2, 1_000)),
                rotated_at: now,
                seen: false,
            };
            assert_eq!(judge(NEWEST, token(5, 2, 1_000), now), Verdict::Rotate(next));
        }
    }

    #[test]
    fn the_parent_repeats_for_a_minute_then_replaces_for_a_day_while_nothing_was_seen() {
        let (seen, parent) = (Rotation { seen: true, ..NEWEST }, token(4, 1, 700));
        let replaced = |now| Verdict::Replace(Rotation { attempt: 3, since: now, ..NEWEST });
        for (newest, now, verdict) in [
            (seen, 1_000, Verdict::Repeat),
            (seen, 1_000 + GRACE, Verdict::Repeat),
            (seen, 1_001 + GRACE, Verdict::Reuse),
            (NEWEST, 1_000 + GRACE, Verdict::Repeat),
            (NEWEST, 1_001 + GRACE, replaced(1_001 + GRACE)),
            (NEWEST, 900 + UNSEEN_GRACE, replaced(900 + UNSEEN_GRACE)),
            (NEWEST, 901 + UNSEEN_GRACE, Verdict::Reuse),
        ] {
            assert_eq!(judge(newest, parent, now), verdict, "{newest:?} at {now}");
        }
    }

    #[test]
    fn what_was_replaced_or_is_older_is_reuse_and_what_was_never_given_out_unknown() {
        for (presented, verdict) in [
            (token(5, 1, 950), Verdict::Reuse),
            (token(5, 0, 900), Verdict::Reuse),
            (token(4, 0, 650), Verdict::Reuse),
            (token(3, 7, 1), Verdict::Reuse),
            (token(6, 0, 1_001), Verdict::Unknown),
            (token(5, 3, 1_001), Verdict::Unknown),
            (token(5, 2, 999), Verdict::Unknown),
            (token(4, 1, 701), Verdict::Unknown),
            (token(4, 2, 700), Verdict::Unknown),
        ] {
            assert_eq!(judge(NEWEST, presented, 1_001), verdict, "{presented:?}");
        }
    }

    #[test]
    fn a_clock_that_went_back_ends_nothing() {
        assert_eq!(judge(Rotation { seen: true, ..NEWEST }, token(4, 1, 700), 10), Verdict::Repeat);
    }
}
