//! Which access tokens have been used, so that the refresh tokens before them end.

use crate::lock::Unpoisoned;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use crate::bounded_map::BoundedMap;
use crate::identity::GrantId;
use crate::store::rows::{Grant, Phase};
use crate::store::{State, StoreError};
use crate::tokens::access::AccessToken;

/// Notes that a client uses the newest generation of its tokens, so that the refresh token before it dies.
///
/// The guard does no I/O: the row is written by a thread of its own, once for each generation.
pub struct Seen {
    noted: Mutex<BoundedMap<GrantId, (u64, u64)>>,
    queue: SyncSender<(GrantId, u64, u64)>,
}

/// Generations remembered as noted; forgetting one costs a needless write.
const MAX_NOTED: usize = 10_000;
/// Notes that may wait to be written; one more is made again with the next request.
const MAX_WAITING: usize = 1_000;

impl Seen {
    /// Starts the thread that writes the notes.
    pub fn start(state: Arc<State>) -> std::io::Result<Seen> {
        let (queue, notes) = sync_channel::<(GrantId, u64, u64)>(MAX_WAITING);
        std::thread::Builder::new().name("seen".into()).spawn(move || {
            for (grant, generation, attempt) in notes {
                // A failure is told by the state itself; the grace then simply lasts longer.
                let _ = mark_seen(&state, grant, generation, attempt);
            }
        })?;
        Ok(Seen { noted: Mutex::new(BoundedMap::new(MAX_NOTED)), queue })
    }

    pub(super) fn note(&self, token: &AccessToken) {
        // The first generation has no predecessor that could be alive.
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
