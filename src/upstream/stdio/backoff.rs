//! Pauses between starts of a server that crashes.

use std::time::{Duration, Instant};

/// A child that ends sooner after its start than this has crashed at once.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(10);
/// Longest pause before another start.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Twice as long after each crash, from one second on.
pub(crate) fn pause_after(crashes: u32) -> Duration {
    Duration::from_secs(1 << crashes.saturating_sub(1).min(6)).min(MAX_PAUSE)
}

/// Whole seconds until `at`, if that is yet to come.
pub(crate) fn seconds_left(at: Option<Instant>) -> Option<u64> {
    let left = at?.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.as_secs() + 1)
}

pub(crate) fn tried_again_in(seconds: u64) -> String {
    format!(
        "the MCP server ends as soon as it is started; it is tried again in {seconds} s, and its operator finds the reason in the log"
    )
}
