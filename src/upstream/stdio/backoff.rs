//! Pauses between starts of a server that crashes.

use std::time::{Duration, Instant};

/// A child that exits within this time after its start has crashed.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(10);
/// Longest pause before another start.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The pause after `crashes` crashes: one second, doubled with each crash after the first, up to [`MAX_PAUSE`].
pub(crate) fn pause_after(crashes: u32) -> Duration {
    Duration::from_secs(1 << crashes.saturating_sub(1).min(6)).min(MAX_PAUSE)
}

/// Whole seconds until `at`, rounded up; `None` if `at` is unset or has passed.
pub(crate) fn seconds_left(at: Option<Instant>) -> Option<u64> {
    let left = at?.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.as_secs() + 1)
}

/// Are the crashes before this pause still counted? They are forgotten a while after it.
pub(crate) fn is_remembered(not_before: Option<Instant>) -> bool {
    not_before.is_some_and(|at| Instant::now() < at + MAX_PAUSE)
}

pub(crate) fn tried_again_in(seconds: u64) -> String {
    format!(
        "the MCP server crashes at its start; the next attempt is in {seconds} s, and the operator finds the reason in the log"
    )
}
