//! How much memory unfinished requests may take together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of unfinished requests that all connections hold together.
static HELD_IN_ALL: AtomicUsize = AtomicUsize::new(0);
/// Most of those, beyond what each connection may hold in any case: strangers can send all but the last byte.
const MOST_HELD_IN_ALL: usize = 32 << 20;
const HELD_IN_ANY_CASE: usize = 8 << 10;

/// What a waiting connection has of [`HELD_IN_ALL`].
#[derive(Default)]
pub(super) struct Share(usize);

impl Share {
    /// Holds `bytes` from now on; false when there is no room for that many.
    #[must_use]
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.0);
        let before = HELD_IN_ALL.fetch_add(more, Ordering::Relaxed);
        self.0 += more;
        bytes <= HELD_IN_ANY_CASE || before + more <= MOST_HELD_IN_ALL
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        HELD_IN_ALL.fetch_sub(self.0, Ordering::Relaxed);
    }
}
