//! A disk that misbehaves on command.

use std::sync::{Arc, Mutex};

use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::tokens::Secret;
use redb::StorageBackend;

use super::eventually;
use super::local::Local;

/// A disk that can lose power at any write, and run full.
#[derive(Default, Debug)]
pub(crate) struct Disk {
    /// What has been synced.
    pub(crate) durable: Vec<u8>,
    /// What the process sees.
    pub(crate) current: Vec<u8>,
    /// Writes since the last sync, in order.
    pub(crate) pending: Vec<(u64, Vec<u8>)>,
    pub(crate) operations: u64,
    /// The operation at which the power goes.
    pub(crate) crash_at: Option<u64>,
    pub(crate) full: bool,
    /// Databases that have it open.
    pub(crate) users: u32,
}

#[derive(Clone, Debug)]
struct FaultyBackend(Arc<Mutex<Disk>>);

impl Disk {
    pub(crate) fn operate(&mut self) -> Result<(), std::io::Error> {
        self.operations += 1;
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            return Err(std::io::Error::other("the power is gone"));
        }
        if self.full {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// What is found after the power went: what was synced, and of the rest whatever `chance` picks.
    pub(crate) fn after_crash(&self, mut chance: impl FnMut() -> bool) -> Vec<u8> {
        let mut image = self.durable.clone();
        for (offset, data) in &self.pending {
            if chance() {
                let start = *offset as usize;
                if image.len() < start + data.len() {
                    image.resize(start + data.len(), 0);
                }
                image[start..start + data.len()].copy_from_slice(data);
            }
        }
        image
    }
}

impl StorageBackend for FaultyBackend {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.0.lock().unwrap().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let disk = self.0.lock().unwrap();
        let start = offset as usize;
        out.copy_from_slice(&disk.current[start..start + out.len()]);
        Ok(())
    }

    fn close(&self) -> Result<(), std::io::Error> {
        self.0.lock().unwrap().users -= 1;
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        let mut disk = self.0.lock().unwrap();
        disk.operate()?;
        disk.current.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        let mut disk = self.0.lock().unwrap();
        disk.operate()?;
        disk.durable = disk.current.clone();
        disk.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let mut disk = self.0.lock().unwrap();
        disk.operate()?;
        let start = offset as usize;
        disk.current[start..start + data.len()].copy_from_slice(data);
        disk.pending.push((offset, data.to_vec()));
        Ok(())
    }
}

/// The application on what `disk` has kept, which the one before it must have let go.
pub(crate) fn open_with(
    settings: Settings,
    disk: &Arc<Mutex<Disk>>,
    secret: &Secret,
    clock: &Arc<Clock>,
) -> Result<Local, String> {
    let backend = FaultyBackend(disk.clone());
    let store = EmbeddedStore::with_backend(move || {
        // The database before this one is closed by another thread.
        closed(&backend.0);
        backend.0.lock().unwrap().users += 1;
        backend.clone()
    })
    .map_err(|e| format!("{e:?}"))?;
    Local::with_settings(settings, Box::new(store), secret, clock.clone())
}

/// Waits until no database has the disk open.
pub(crate) fn closed(disk: &Mutex<Disk>) {
    eventually("the disk is let go", || disk.lock().unwrap().users == 0);
}
