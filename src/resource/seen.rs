//! Records which access tokens have been used, so that the previous refresh tokens end.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use crate::bounded_map::BoundedMap;
use crate::identity::GrantId;
use crate::lock::Unpoisoned;
use crate::store::rows::{Grant, Phase};
use crate::store::{State, StoreError};
use crate::tokens::access::AccessToken;

/// Records that a client uses the newest generation of its tokens, so that the previous refresh token ends.
///
/// `resource::bearer` calls this for every request, so it does no I/O: a separate thread writes the row, once for each
/// attempt of a generation.
pub struct Seen {
    noted: Mutex<BoundedMap<GrantId, (u64, u64)>>,
    queue: SyncSender<(GrantId, u64, u64)>,
}

/// Maximum number of grants whose newest recorded generation is remembered. Forgetting one costs a needless
/// transaction.
const MAX_NOTED: usize = 10_000;
/// Maximum number of records in the queue. If it is full, the record is dropped, and the next request tries again.
const MAX_WAITING: usize = 1_000;

impl Seen {
    /// Starts the thread that writes the records.
    pub fn start(state: Arc<State>) -> std::io::Result<Seen> {
        let (queue, notes) = sync_channel::<(GrantId, u64, u64)>(MAX_WAITING);
        std::thread::Builder::new().name("seen".into()).spawn(move || {
            for (grant, generation, attempt) in notes {
                // `State` logs the failure. The previous refresh token then stays usable for longer.
                let _ = mark_seen(&state, grant, generation, attempt);
            }
        })?;
        Ok(Seen { noted: Mutex::new(BoundedMap::new(MAX_NOTED)), queue })
    }

    pub(super) fn note(&self, token: &AccessToken) {
        // The first generation has no previous refresh token.
        if token.generation < 2 {
            return;
        }
        let mut noted = self.noted.lock().unpoisoned();
        let newest = (token.generation, token.attempt);
        if noted.get(&token.grant).is_some_and(|known| *known >= newest) {
            return;
        }
        if self.queue.try_send((token.grant.clone(), token.generation, token.attempt)).is_ok() {
            noted.insert(token.grant.clone(), newest);
        }
    }
}

fn mark_seen(state: &State, id: GrantId, generation: u64, attempt: u64) -> Result<(), StoreError> {
    state.transact(move |tx| {
        if let Some(mut grant) = tx.get::<Grant>(id.as_str())?
            && let Phase::Active { rotation, .. } = &mut grant.phase
            && (rotation.generation, rotation.attempt) == (generation, attempt)
            && !rotation.seen
        {
            rotation.seen = true;
            tx.put(id.as_str(), &grant);
        }
        Ok(())
    })
}
