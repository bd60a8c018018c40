//! Sign-ins that have come back from a provider: each counts once, so that nobody can have a provider asked at will.

use std::sync::Mutex;

use crate::bounded_map::BoundedMap;
use crate::clock::Timestamp;
use crate::lock::Unpoisoned;

/// Sign-ins remembered at one time.
const MAX_SPENT: usize = 20_000;

/// Ids of the states that have come back, and when each expires.
pub(super) struct SpentStates(Mutex<BoundedMap<String, Timestamp>>);

impl Default for SpentStates {
    fn default() -> SpentStates {
        SpentStates(Mutex::new(BoundedMap::new(MAX_SPENT)))
    }
}

impl SpentStates {
    /// Did it come before?
    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.lock().unpoisoned().contains_key(id)
    }

    /// Takes note of one; false when it came before.
    pub(super) fn spend(&self, id: &str, exp: Timestamp, now: Timestamp) -> bool {
        let (mut spent, id) = (self.0.lock().unpoisoned(), id.to_string());
        spent.make_room(&id, &[&|exp| *exp <= now]);
        spent.insert(id, exp).is_none()
    }
}
