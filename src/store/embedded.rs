//! The embedded store: one redb file, and one writer thread that commits several jobs at once.
//!
//! After an I/O error, redb is unusable until the file is reopened. This module reopens it, so that the store recovers
//! without a restart, for example when a full disk has room again.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, TableDefinition, TableError, WriteTransaction,
};

use super::backend::{FORMAT, Job, Row, Store, StoreError, Table, Transaction};
use crate::lock::Unpoisoned;

/// Cache size in bytes. The default of redb is 1 GiB.
const CACHE: usize = 1 << 20;
/// Maximum number of jobs in one commit.
const GROUP: usize = 256;
/// Pause between attempts to reopen the file.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// What is noted about the store itself.
const ABOUT: TableDefinition<'static, &'static str, u64> = TableDefinition::new("about");
const FORMAT_KEY: &str = "format";

/// Rows in a redb database.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    jobs: Mutex<Sender<Queued>>,
}

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

struct Shared {
    database: RwLock<Option<Arc<Database>>>,
    opener: Opener,
    last_attempt: Mutex<Option<Instant>>,
}

struct Queued {
    job: Job,
    done: Sender<Result<(), StoreError>>,
}

/// Why a data directory's store can't be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it open.
    InUse,
    /// A later version has written it, in this format.
    Newer(u64),
    /// Anything else.
    Failed(String),
}

impl From<DatabaseError> for OpenError {
    fn from(error: DatabaseError) -> OpenError {
        match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse,
            other => OpenError::Failed(other.to_string()),
        }
    }
}

impl EmbeddedStore {
    /// Opens the file at `path`, or creates it with mode 0600.
    pub fn open(path: &Path) -> Result<EmbeddedStore, OpenError> {
        let path: PathBuf = path.to_path_buf();
        EmbeddedStore::with_opener(Box::new(move || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            builder().create_with_backend(FileBackend::new(file.map_err(|e| DatabaseError::Storage(e.into()))?)?)
        }))
    }

    /// A store in memory, lost when the process ends.
    pub fn in_memory() -> Result<EmbeddedStore, OpenError> {
        EmbeddedStore::with_backend(InMemoryBackend::new)
    }

    /// A store on a backend from `make`. `make` is called again whenever the store is reopened; the new backend must
    /// have the data of the previous one.
    pub fn with_backend<B: StorageBackend>(
        make: impl Fn() -> B + Send + Sync + 'static,
    ) -> Result<EmbeddedStore, OpenError> {
        EmbeddedStore::with_opener(Box::new(move || builder().create_with_backend(make())))
    }

    fn with_opener(opener: Opener) -> Result<EmbeddedStore, OpenError> {
        let database = opener()?;
        let shared = Arc::new(Shared {
            database: RwLock::new(Some(Arc::new(database))),
            opener,
            last_attempt: Mutex::new(None),
        });
        shared.make_tables().map_err(|e| OpenError::Failed(e.0))?;
        shared.check_format()?;
        let (jobs, queue) = channel();
        let writer = shared.clone();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.write_until_closed(&queue))
            .map_err(|e| OpenError::Failed(e.to_string()))?;
        Ok(EmbeddedStore { shared, jobs: Mutex::new(jobs) })
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

impl Store for EmbeddedStore {
    fn get(&self, table: Table, key: &str) -> Result<Option<Row>, StoreError> {
        self.shared.read(|db| {
            let read = db.begin_read()?;
            let table = read.open_table(definition(table))?;
            Ok(table.get(key)?.map(|v| unpack(v.value())))
        })
    }

    fn transact(&self, job: Job) -> Result<(), StoreError> {
        let (done, result) = channel();
        let gone = || StoreError("the store's writer has ended".into());
        self.jobs.lock().unpoisoned().send(Queued { job, done }).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())?
    }

    fn count(&self, table: Table) -> Result<u64, StoreError> {
        self.shared.read(|db| Ok(db.begin_read()?.open_table(definition(table))?.len()?))
    }

    fn snapshot(&self, visit: &mut dyn FnMut(Table, &str, Row) -> bool) -> Result<(), StoreError> {
        self.shared.read(|db| {
            let read = db.begin_read()?;
            for table in Table::ALL {
                for entry in read.open_table(definition(table))?.iter()? {
                    let (key, value) = entry?;
                    if !visit(table, key.value(), unpack(value.value())) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&str, Row)) -> Result<(), StoreError> {
        self.shared.read(|db| {
            for entry in db.begin_read()?.open_table(definition(table))?.iter()? {
                let (key, value) = entry?;
                visit(key.value(), unpack(value.value()));
            }
            Ok(())
        })
    }
}

fn definition(table: Table) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Encodes a row: eight bytes of expiry (big-endian), then the value.
fn pack(row: &Row) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + row.value.len());
    out.extend_from_slice(&row.expires_at.to_be_bytes());
    out.extend_from_slice(&row.value);
    out
}

fn unpack(bytes: &[u8]) -> Row {
    match bytes.split_first_chunk::<8>() {
        Some((expiry, value)) => Row { expires_at: u64::from_be_bytes(*expiry), value: value.to_vec() },
        None => Row { expires_at: 0, value: Vec::new() },
    }
}

impl Shared {
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        if let Some(db) = &*self.database.read().unpoisoned() {
            return Ok(db.clone());
        }
        let mut last = self.last_attempt.lock().unpoisoned();
        if last.is_some_and(|at| at.elapsed() < REOPEN_PAUSE) {
            return Err(StoreError("the store is closed after an error".into()));
        }
        let mut slot = self.database.write().unpoisoned();
        if let Some(db) = &*slot {
            return Ok(db.clone());
        }
        *last = Some(Instant::now());
        let db = Arc::new((self.opener)().map_err(failed)?);
        *slot = Some(db.clone());
        Ok(db)
    }

    fn close(&self) {
        self.database.write().unpoisoned().take();
    }

    fn read<R>(&self, f: impl FnOnce(&Database) -> Result<R, redb::Error>) -> Result<R, StoreError> {
        f(&*self.database()?).map_err(|e| {
            self.close();
            failed(e)
        })
    }

    fn make_tables(&self) -> Result<(), StoreError> {
        let db = self.database()?;
        // Check with a read transaction first, so that a start with existing tables writes nothing.
        let read = db.begin_read().map_err(failed)?;
        let missing =
            Table::ALL.iter().any(|t| matches!(read.open_table(definition(*t)), Err(TableError::TableDoesNotExist(_))));
        drop(read);
        if !missing {
            return Ok(());
        }
        let write = begin(&db)?;
        for table in Table::ALL {
            write.open_table(definition(table)).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }

    /// Refuses what a later version has written. Writes down the format where none is noted, as before there were several.
    fn check_format(&self) -> Result<(), OpenError> {
        let failed = |e: redb::Error| OpenError::Failed(e.to_string());
        let db = self.database().map_err(|e| OpenError::Failed(e.0))?;
        let noted = || -> Result<Option<u64>, redb::Error> {
            match db.begin_read()?.open_table(ABOUT) {
                Ok(about) => Ok(about.get(FORMAT_KEY)?.map(|format| format.value())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(e) => Err(e.into()),
            }
        };
        match noted().map_err(failed)? {
            Some(format) if format > FORMAT => return Err(OpenError::Newer(format)),
            Some(FORMAT) => return Ok(()),
            _ => {}
        }
        let note = || -> Result<(), redb::Error> {
            let write = begin(&db).map_err(|e| redb::Error::Corrupted(e.0))?;
            write.open_table(ABOUT)?.insert(FORMAT_KEY, FORMAT)?;
            Ok(write.commit()?)
        };
        note().map_err(failed)
    }

    fn write_until_closed(&self, queue: &Receiver<Queued>) {
        while let Ok(first) = queue.recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            self.write_group(group);
        }
    }

    /// Runs the whole group in one transaction with one commit. A job that returns an error does not affect the others.
    fn write_group(&self, group: Vec<Queued>) {
        let (jobs, senders): (Vec<Job>, Vec<_>) = group.into_iter().map(|q| (q.job, q.done)).unzip();
        // A panic in the database or in a job must not end the only writer thread.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.commit(jobs)))
            .unwrap_or_else(|_| Err(StoreError("internal error: a transaction panicked".into())));
        if result.is_err() {
            self.close();
        }
        for (i, done) in senders.into_iter().enumerate() {
            let outcome = match &result {
                Ok(outcomes) => outcomes[i].clone(),
                Err(e) => Err(e.clone()),
            };
            // Sending fails only if the caller no longer waits; then nobody needs the result.
            let _ = done.send(outcome);
        }
    }

    fn commit(&self, jobs: Vec<Job>) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let db = self.database()?;
        let write = begin(&db)?;
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            let mut overlay = Overlay { write: &write, changes: HashMap::new() };
            let outcome = job(&mut overlay);
            if outcome.is_ok() {
                overlay.apply()?;
            }
            outcomes.push(outcome);
        }
        write.commit().map_err(failed)?;
        Ok(outcomes)
    }
}

fn begin(db: &Database) -> Result<WriteTransaction, StoreError> {
    let mut write = db.begin_write().map_err(failed)?;
    write.set_durability(Durability::Immediate).map_err(failed)?;
    // Without quick repair, the first start after a crash would scan the whole file.
    write.set_quick_repair(true);
    Ok(write)
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError(error.to_string())
}

/// The changes of one job, buffered until the job has succeeded.
struct Overlay<'w> {
    write: &'w WriteTransaction,
    changes: HashMap<(Table, String), Option<Row>>,
}

impl Transaction for Overlay<'_> {
    fn get(&mut self, table: Table, key: &str) -> Result<Option<Row>, StoreError> {
        if let Some(changed) = self.changes.get(&(table, key.to_string())) {
            return Ok(changed.clone());
        }
        let table = self.write.open_table(definition(table)).map_err(failed)?;
        let row = table.get(key).map_err(failed)?.map(|v| unpack(v.value()));
        Ok(row)
    }

    fn put(&mut self, table: Table, key: &str, row: Row) {
        self.changes.insert((table, key.to_string()), Some(row));
    }

    fn delete(&mut self, table: Table, key: &str) {
        self.changes.insert((table, key.to_string()), None);
    }
}

impl Overlay<'_> {
    fn apply(self) -> Result<(), StoreError> {
        for ((table, key), change) in self.changes {
            let mut table = self.write.open_table(definition(table)).map_err(failed)?;
            match change {
                Some(row) => table.insert(key.as_str(), pack(&row).as_slice()).map_err(failed)?,
                None => table.remove(key.as_str()).map_err(failed)?,
            };
        }
        Ok(())
    }
}
