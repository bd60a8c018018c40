//! Locks whose holder panicked.

use std::sync::PoisonError;

/// Takes a lock although a thread panicked while it held it. A panic is answered with 500 and the process goes on
/// serving; what a lock guards here is changed in steps each of which leaves it whole.
pub(crate) trait Unpoisoned {
    /// The guard, or the guard with what the wait said.
    type Guard;

    /// The guard in any case.
    fn unpoisoned(self) -> Self::Guard;
}

impl<G> Unpoisoned for Result<G, PoisonError<G>> {
    type Guard = G;

    fn unpoisoned(self) -> G {
        self.unwrap_or_else(PoisonError::into_inner)
    }
}
