//! Records which access tokens have been used, so that the previous refresh tokens end, and when grants and API keys were
//! last used, so that their owner can see it.

use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use crate::bounded_map::BoundedMap;
use crate::clock::Timestamp;
use crate::identity::GrantId;
use crate::lock::Unpoisoned;
use crate::net::address::address_group;
use crate::store::rows::{Grant, LastUse, Phase};
use crate::store::{State, StoreError};
use crate::tokens::access::AccessToken;

/// Records what is used.
///
/// `resource::bearer` calls this for every request, so it does no I/O: a separate thread writes the rows, once for each
/// attempt of a generation, and the time of the last use every ten minutes.
pub struct Seen {
    noted: Mutex<BoundedMap<GrantId, (u64, u64)>>,
    uses: Mutex<BoundedMap<GrantId, Used>>,
    /// From where API keys were used in the last day, and when last.
    addresses: Mutex<BoundedMap<GrantId, Vec<(IpAddr, Timestamp)>>>,
    state: Arc<State>,
    queue: SyncSender<Note>,
}

struct Used {
    last: LastUse,
    written_at: Timestamp,
}

enum Note {
    /// A token of this generation and attempt was used.
    Generation(GrantId, u64, u64),
    Use(GrantId, LastUse),
}

/// Maximum number of grants whose newest recorded generation, or last use, is remembered. Forgetting one costs a needless
/// transaction.
const MAX_NOTED: usize = 10_000;
/// Maximum number of records in the queue. If it is full, the record is dropped, and the next request tries again.
const MAX_WAITING: usize = 1_000;
/// How often the last use of a grant is written, in seconds.
const WRITE_EVERY: u64 = 600;
/// How many addresses of an API key are remembered, and how long after the last use one is new again, in seconds.
const MAX_ADDRESSES: usize = 32;
const NEW_AFTER: u64 = 86_400;
/// How long the last use is kept, in seconds.
const KEPT: u64 = 90 * 86_400;

impl Seen {
    /// Starts the thread that writes the records.
    pub fn start(state: Arc<State>) -> std::io::Result<Seen> {
        let (queue, notes) = sync_channel::<Note>(MAX_WAITING);
        let writer = state.clone();
        std::thread::Builder::new().name("seen".into()).spawn(move || {
            for note in notes {
                // `State` logs the failure. The previous refresh token then stays usable for longer.
                let _ = match note {
                    Note::Generation(grant, generation, attempt) => mark_seen(&writer, grant, generation, attempt),
                    Note::Use(grant, last) => writer.transact(move |tx| {
                        tx.put(grant.as_str(), &last);
                        Ok(())
                    }),
                };
            }
        })?;
        let (noted, uses) = (Mutex::new(BoundedMap::new(MAX_NOTED)), Mutex::new(BoundedMap::new(MAX_NOTED)));
        let addresses = Mutex::new(BoundedMap::new(MAX_NOTED));
        Ok(Seen { noted, uses, addresses, state, queue })
    }

    pub(super) fn note(&self, token: &AccessToken, address: IpAddr, now: Timestamp) {
        self.note_use(&token.grant, address, now);
        // The first generation has no previous refresh token.
        if token.generation < 2 {
            return;
        }
        let mut noted = self.noted.lock().unpoisoned();
        let newest = (token.generation, token.attempt);
        if noted.get(&token.grant).is_some_and(|known| *known >= newest) {
            return;
        }
        let note = Note::Generation(token.grant.clone(), token.generation, token.attempt);
        if self.queue.try_send(note).is_ok() {
            noted.insert(token.grant.clone(), newest);
        }
    }

    /// Notes the use of an API key. Returns the address that it was used from before, if it has not been used from this one
    /// (IPv6: /64) in the last day, as far as is remembered.
    pub(super) fn note_key_use(&self, key: &GrantId, address: IpAddr, now: Timestamp) -> Option<IpAddr> {
        let group = address_group(address);
        let before = self.last_use(key);
        self.note_use(key, address, now);
        let mut addresses = self.addresses.lock().unpoisoned();
        let known = addresses.get_or_insert(key.clone(), Vec::new(), &[]);
        known.retain(|(_, at)| now.saturating_sub(*at) < NEW_AFTER);
        if let Some((_, at)) = known.iter_mut().find(|(known, _)| *known == group) {
            *at = now;
            return None;
        }
        if known.len() >= MAX_ADDRESSES {
            known.remove(0);
        }
        known.push((group, now));
        before.map(|last| last.address).filter(|previous| address_group(*previous) != group)
    }

    pub(super) fn note_use(&self, grant: &GrantId, address: IpAddr, now: Timestamp) {
        let last = LastUse { at: now, address, expires_at: now + KEPT };
        let mut uses = self.uses.lock().unpoisoned();
        if let Some(used) = uses.get_mut(grant)
            && now.saturating_sub(used.written_at) < WRITE_EVERY
        {
            used.last = last;
            return;
        }
        if self.queue.try_send(Note::Use(grant.clone(), last)).is_ok() {
            uses.insert(grant.clone(), Used { last, written_at: now });
        }
    }

    /// When and from where the grant, or what stands for that of an API key, was last used.
    pub fn last_use(&self, grant: &GrantId) -> Option<LastUse> {
        let remembered = self.uses.lock().unpoisoned().get(grant).map(|used| used.last);
        remembered.or_else(|| self.state.get::<LastUse>(grant.as_str()).unwrap_or_default())
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
