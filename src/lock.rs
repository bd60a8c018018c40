//! Handles poisoned locks: a thread panicked while it held them.

use std::sync::PoisonError;

/// Takes a lock even if it is poisoned. After a panic, the request is answered with 500 and the process goes on
/// serving. This is safe here because data behind locks is changed only in steps that each leave it consistent.
pub(crate) trait Unpoisoned {
    /// The lock guard; for a wait with a timeout, the guard and the result of the wait.
    type Guard;

    /// Returns the guard, whether or not the lock is poisoned.
    fn unpoisoned(self) -> Self::Guard;
}

impl<G> Unpoisoned for Result<G, PoisonError<G>> {
    type Guard = G;

    fn unpoisoned(self) -> G {
        self.unwrap_or_else(PoisonError::into_inner)
    }
}
