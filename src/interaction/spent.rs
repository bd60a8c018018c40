//! Provider callbacks that were already handled. Each `state` is accepted only once, so that nobody can make the proxy
//! send requests to a provider by repeating a callback.

use std::sync::Mutex;

use crate::bounded_map::BoundedMap;
use crate::clock::Timestamp;
use crate::lock::Unpoisoned;

/// Maximum number of remembered callbacks.
const MAX_SPENT: usize = 20_000;

/// Ids of the `state` values that were already used, and when each expires.
pub(super) struct SpentStates(Mutex<BoundedMap<String, Timestamp>>);

impl Default for SpentStates {
    fn default() -> SpentStates {
        SpentStates(Mutex::new(BoundedMap::new(MAX_SPENT)))
    }
}

impl SpentStates {
    /// Was this id already used?
    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.lock().unpoisoned().contains_key(id)
    }

    /// Marks an id as used; false if it was used before.
    pub(super) fn spend(&self, id: &str, exp: Timestamp, now: Timestamp) -> bool {
        let (mut spent, id) = (self.0.lock().unpoisoned(), id.to_string());
        spent.make_room(&id, &[&|exp| *exp <= now]);
        spent.insert(id, exp).is_none()
    }
}
