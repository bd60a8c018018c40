//! Sign-ins that have come back from a provider: each counts once, so that nobody can have a provider asked at will.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::clock::Timestamp;

/// Sign-ins remembered at one time.
const MAX_SPENT: usize = 20_000;

/// Ids of the states that have come back, and when each expires.
#[derive(Default)]
pub(super) struct SpentStates(Mutex<HashMap<String, Timestamp>>);

impl SpentStates {
    /// Did it come before?
    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).contains_key(id)
    }

    /// Takes note of one; false when it came before.
    pub(super) fn spend(&self, id: &str, exp: Timestamp, now: Timestamp) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if spent.len() >= MAX_SPENT {
            spent.retain(|_, exp| *exp > now);
            if spent.len() >= MAX_SPENT {
                spent.clear();
            }
        }
        spent.insert(id.to_string(), exp).is_none()
    }
}
