//! How much a process is needed, to decide which one makes room for another.

use std::time::{Duration, Instant};

/// A session whose requests have no connected client makes room for others only after it was unused for so long.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// How much a process is needed; sorts the least needed first.
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
    /// May the process make room? An abandoned one only after [`ABANDONED_AFTER`], because until then its client may
    /// reconnect for the answer.
    pub(crate) fn is_evident(&self) -> bool {
        !self.is_abandoned || self.since.elapsed() >= ABANDONED_AFTER
    }
}
