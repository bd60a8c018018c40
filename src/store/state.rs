//! Typed access to the store. It hides expired rows and mirrors revocations in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::backend::{Job, Row, Store, StoreError, Table, Transaction};
use super::rows::{Grant, Phase, Revocation, Stored, Superseded};
use crate::clock::{Clock, Timestamp};
use crate::identity::GrantId;
use crate::lock::Unpoisoned;
use crate::observe::log::Episode;
use crate::observe::metrics::{self, StoreOperation};

/// How long expired rows are kept, in seconds: a clock that jumped ahead for less than a day must not delete valid
/// rows.
const COLLECT_AFTER: u64 = 86_400;
/// Maximum number of rows removed in one transaction, so that transactions of requests can run in between.
const COLLECT_BATCH: usize = 500;

/// Maximum number of generations of one grant with replaced access tokens. With the usual lifetimes, there are fewer
/// than sixty.
const MAX_SUPERSEDED: usize = 256;

/// Typed access to a [`Store`].
pub struct State {
    store: Box<dyn Store>,
    clock: Arc<Clock>,
    /// Grants whose access tokens are all refused, and until when.
    revoked: RwLock<HashMap<GrantId, Timestamp>>,
    /// Grants of which only some access tokens are refused.
    superseded: RwLock<HashMap<GrantId, Superseded>>,
    trouble: Episode,
    failed_at: Mutex<Option<Instant>>,
}

/// A typed transaction.
pub struct Tx<'t> {
    inner: &'t mut dyn Transaction,
    now: Timestamp,
    revoked: Vec<(GrantId, Timestamp)>,
    superseded: Vec<(GrantId, Superseded)>,
}

impl Tx<'_> {
    /// The time of the transaction.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// A row that has not expired.
    pub fn get<T: Stored>(&mut self, key: &str) -> Result<Option<T>, StoreError> {
        decode(self.inner.get(T::TABLE, key)?, self.now)
    }

    /// Writes a row.
    pub fn put<T: Stored>(&mut self, key: &str, row: &T) {
        self.inner.put(T::TABLE, key, encode(row));
    }

    /// Removes a row.
    pub fn delete<T: Stored>(&mut self, key: &str) {
        self.inner.delete(T::TABLE, key);
    }

    /// Revokes a grant. Its refresh tokens end at once. Its access tokens are in the revocation set until the last one
    /// has expired.
    pub fn revoke(&mut self, mut grant: Grant, access_token_lifetime: u64) {
        let until = self.now + access_token_lifetime.max(grant.access_token_lifetime);
        grant.phase = Phase::Revoked;
        grant.ended_at = self.now;
        // The row is not needed longer than the revocation: until then it answers requests with tokens of the grant. But an
        // assertion that was good for it could come again.
        let assertion = grant.asserted.as_ref().map_or(0, |asserted| asserted.exp);
        grant.expires_at = grant.expires_at.min(until).max(assertion);
        self.put(grant.id.as_str(), &grant);
        self.put(grant.id.as_str(), &Revocation { expires_at: until });
        self.revoked.push((grant.id, until));
    }

    /// Refuses access tokens of the grant's `generation` with an earlier attempt than `attempt`, until `until`, when
    /// all of them have expired. Returns false and writes nothing if the grant already has too many such generations.
    pub fn supersede(
        &mut self,
        grant: &GrantId,
        generation: u64,
        attempt: u64,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut row: Superseded = self.get(grant.as_str())?.unwrap_or_default();
        let now = self.now;
        row.generations.retain(|(g, _, end)| *g != generation && *end > now);
        if row.generations.len() >= MAX_SUPERSEDED {
            return Ok(false);
        }
        row.generations.push((generation, attempt, until));
        row.expires_at = row.expires_at.max(until);
        self.put(grant.as_str(), &row);
        self.superseded.push((grant.clone(), row));
        Ok(true)
    }
}

/// How long a failure says that the store is broken.
const BROKEN_FOR: Duration = Duration::from_secs(60);

impl State {
    /// Loads the revocations and the replaced tokens into memory. Everything else is read on demand.
    pub fn new(store: Box<dyn Store>, clock: Arc<Clock>) -> Result<State, StoreError> {
        let mut revoked = HashMap::new();
        store.scan(Table::Revocations, &mut |key, row| {
            revoked.insert(GrantId(key.to_string()), row.expires_at);
        })?;
        let mut superseded = HashMap::new();
        store.scan(Table::Superseded, &mut |key, row| {
            if let Ok(row) = serde_json::from_slice::<Superseded>(&row.value) {
                superseded.insert(GrantId(key.to_string()), row);
            }
        })?;
        let (revoked, superseded) = (RwLock::new(revoked), RwLock::new(superseded));
        Ok(State { store, clock, revoked, superseded, trouble: Episode::default(), failed_at: Mutex::default() })
    }

    /// The clock that decides when rows expire.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A row that has not expired.
    pub fn get<T: Stored>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let row = timed(StoreOperation::Read, || self.store.get(T::TABLE, key)).inspect_err(|e| self.tell(e))?;
        decode(row, self.clock.now())
    }

    /// Runs `job` as one transaction; when this returns `Ok`, what it wrote survives a crash.
    pub fn transact<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tx<'_>) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let now = self.clock.now();
        let done = Arc::new(Mutex::new(None));
        let slot = done.clone();
        crate::blocking::announce();
        let job: Job = Box::new(move |inner| {
            let mut tx = Tx { inner, now, revoked: Vec::new(), superseded: Vec::new() };
            let result = job(&mut tx)?;
            *slot.lock().unpoisoned() = Some((result, tx.revoked, tx.superseded));
            Ok(())
        });
        let result = timed(StoreOperation::Write, || self.store.transact(job));
        if let Err(error) = result {
            self.tell(&error);
            return Err(error);
        }
        if self.trouble.ends() {
            log::info!("the state can be written again");
        }
        let (result, revoked, superseded) =
            done.lock().unpoisoned().take().expect("a job that succeeded left its result");
        if !revoked.is_empty() {
            self.revoked.write().unpoisoned().extend(revoked);
        }
        if !superseded.is_empty() {
            self.superseded.write().unpoisoned().extend(superseded);
        }
        Ok(result)
    }

    /// Must access tokens of this grant be refused? Reads memory only.
    pub fn is_revoked(&self, grant: &GrantId) -> bool {
        let revoked = self.revoked.read().unpoisoned();
        // The set is usually empty; then skip the hashing.
        !revoked.is_empty() && revoked.contains_key(grant)
    }

    /// Must access tokens of this attempt be refused because a later one replaced it? Reads memory only.
    pub fn is_superseded(&self, grant: &GrantId, generation: u64, attempt: u64) -> bool {
        let superseded = self.superseded.read().unpoisoned();
        let is_replaced =
            |row: &Superseded| row.generations.iter().any(|(g, first, _)| *g == generation && attempt < *first);
        !superseded.is_empty() && superseded.get(grant).is_some_and(is_replaced)
    }

    /// How many rows there are, expired ones included.
    pub fn count<T: Stored>(&self) -> Result<u64, StoreError> {
        self.store.count(T::TABLE)
    }

    /// Calls `visit` with every row of all tables, as they were at one moment, for as long as it returns true.
    pub fn snapshot(&self, visit: &mut dyn FnMut(Table, &str, Row) -> bool) -> Result<(), StoreError> {
        self.store.snapshot(visit)
    }

    /// Calls `visit` with every row that has not expired. Skips rows that can't be decoded.
    pub fn scan<T: Stored>(&self, mut visit: impl FnMut(&str, T)) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.store.scan(T::TABLE, &mut |key, row| {
            if let Ok(Some(value)) = decode(Some(row), now) {
                visit(key, value);
            }
        })
    }

    /// Removes the given rows, in batches.
    pub fn remove<T: Stored>(&self, keys: Vec<String>) -> Result<usize, StoreError> {
        self.remove_keys(T::TABLE, keys, Timestamp::MAX)
    }

    /// Removes rows that expired at least a day ago, and returns their number.
    pub fn collect(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let mut removed = 0;
        for table in Table::ALL {
            let mut keys = Vec::new();
            self.store.scan(table, &mut |key, row| {
                if row.expires_at.saturating_add(COLLECT_AFTER) <= now {
                    keys.push(key.to_string());
                }
            })?;
            removed += self.remove_keys(table, keys, now.saturating_sub(COLLECT_AFTER))?;
        }
        let mut revoked = self.revoked.write().unpoisoned();
        revoked.retain(|_, until| until.saturating_add(COLLECT_AFTER) > now);
        let mut superseded = self.superseded.write().unpoisoned();
        superseded.retain(|_, row| row.expires_at.saturating_add(COLLECT_AFTER) > now);
        Ok(removed)
    }

    /// Removes the rows with these keys if they expire at or before `expired_by`, so that a row renewed in between
    /// stays.
    fn remove_keys(&self, table: Table, keys: Vec<String>, expired_by: Timestamp) -> Result<usize, StoreError> {
        let total = keys.len();
        for batch in keys.chunks(COLLECT_BATCH) {
            let batch = batch.to_vec();
            self.store.transact(Box::new(move |tx| {
                for key in &batch {
                    if tx.get(table, key)?.is_some_and(|row| row.expires_at <= expired_by) {
                        tx.delete(table, key);
                    }
                }
                Ok(())
            }))?;
        }
        Ok(total)
    }

    /// Does the store work, as far as is known? After a failure it counts as broken until it was written again, or for a
    /// minute: a proxy that gets no requests because of it would never find out that it is well.
    pub fn is_well(&self) -> bool {
        let failed_at = *self.failed_at.lock().unpoisoned();
        !self.trouble.lasts() || failed_at.is_none_or(|at| at.elapsed() > BROKEN_FOR)
    }

    fn tell(&self, error: &StoreError) {
        *self.failed_at.lock().unpoisoned() = Some(Instant::now());
        if self.trouble.begins() {
            log::error!(error:% = error; "the state can't be read or written; tokens that were issued stay valid, sign-ins and refreshes fail until it works again (is the disk of --data-path (DATA_PATH) full?)");
        }
    }
}

/// Notes for the metrics how long the store takes.
fn timed<R>(operation: StoreOperation, work: impl FnOnce() -> R) -> R {
    let Some(metrics) = metrics::installed() else { return work() };
    let began = Instant::now();
    let result = work();
    metrics.store_took(operation, began.elapsed());
    result
}

fn encode<T: Stored>(row: &T) -> Row {
    Row { expires_at: row.expires_at(), value: serde_json::to_vec(row).expect("rows are plain data") }
}

fn decode<T: Stored>(row: Option<Row>, now: Timestamp) -> Result<Option<T>, StoreError> {
    let Some(row) = row.filter(|r| now < r.expires_at) else { return Ok(None) };
    serde_json::from_slice(&row.value)
        .map(Some)
        .map_err(|e| StoreError(format!("a row of {} can't be read: {e}", T::TABLE.name())))
}
