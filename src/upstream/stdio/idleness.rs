//! Which process is needed the least.

use std::time::{Duration, Instant};

/// How long after its last use a session whose requests nobody waits for makes room for others.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// How much a process is needed; the least needed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Idleness {
    /// It has requests in flight but no connected client.
    pub(super) is_abandoned: bool,
    /// A client listens to it.
    pub(super) is_heard: bool,
    /// When it was last used.
    pub(super) since: Instant,
}

impl Idleness {
    /// Is it time enough since that nobody is on the way to come back for the answer?
    pub(crate) fn is_evident(&self) -> bool {
        !self.is_abandoned || self.since.elapsed() >= ABANDONED_AFTER
    }
}
