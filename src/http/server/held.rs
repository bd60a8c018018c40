//! Limits the memory that unfinished requests use together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of unfinished requests that all connections hold together.
static HELD_IN_ALL: AtomicUsize = AtomicUsize::new(0);
/// Upper limit of [`HELD_IN_ALL`], because clients could otherwise fill the memory with requests that lack only the
/// last byte. A connection may always hold [`HELD_IN_ANY_CASE`] bytes, even above this limit.
const MOST_HELD_IN_ALL: usize = 32 << 20;
const HELD_IN_ANY_CASE: usize = 8 << 10;

/// The part of [`HELD_IN_ALL`] that one waiting connection uses.
#[derive(Default)]
pub(super) struct Share(usize);

impl Share {
    /// Raises this share to `bytes`; false if there is no room for that many.
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
