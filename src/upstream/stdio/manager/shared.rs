//! Finds, starts and probes the processes that several clients share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::cancellation::Cancellation;
use crate::tokens::random_name;
use crate::upstream::stdio::backoff;
use crate::upstream::stdio::manager::table::{ProcessManager, SharedEntry, SharedState};
use crate::upstream::stdio::mux::probe::{self, Revisions};
use crate::upstream::stdio::mux::shared_process::{SharedListener, SharedProcess};
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::waiting::TimedGuard;

/// How long a process may take to answer the revision probe; npx may have to download the server first.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a request waits while another request probes or starts the process.
const START_TIMEOUT: Duration = Duration::from_secs(45);
/// How long a probe answer is cached.
const ERA_LASTS: Duration = Duration::from_secs(3_600);
/// How long a missing probe answer is cached.
const SILENCE_LASTS: Duration = Duration::from_secs(600);
/// How long a probe error is cached that may be temporary.
const ERROR_LASTS: Duration = Duration::from_secs(30);

/// A process for modern clients, and the revisions that its server listed (empty if it listed none).
pub(crate) type Modern = (Arc<SharedProcess>, Arc<[String]>);

impl SharedEntry {
    /// Locks the state. Waits up to [`START_TIMEOUT`] while another request starts the process.
    pub(crate) fn state(&self, cancellation: &Cancellation) -> Result<TimedGuard<'_, SharedState>, String> {
        self.state.lock(START_TIMEOUT, cancellation).map_err(|e| format!("the MCP server is still being started: {e}"))
    }

    /// The process; `None` if there is none, or while another thread holds the lock to start it.
    pub(crate) fn child(&self) -> Option<Arc<SharedProcess>> {
        self.state.try_lock()?.child.clone()
    }
}

impl ProcessManager {
    /// Returns the shared process for `key`. Starts it if none is running.
    pub(crate) fn shared_child(
        &self,
        key: &str,
        owner: Option<&Owner>,
        new: fn(String) -> Arc<SharedProcess>,
        cancellation: &Cancellation,
    ) -> Result<Arc<SharedProcess>, String> {
        let user = owner.map(|a| a.user.clone());
        let entry = self
            .state()
            .shared
            .entry(key.into())
            .or_insert_with(|| Arc::new(SharedEntry { user, ..SharedEntry::default() }))
            .clone();
        let mut state = entry.state(cancellation)?;
        if let Some(shared) = &state.child {
            if !shared.has_ended() {
                return Ok(shared.clone());
            }
            let has_crashed = shared.lived().is_some_and(|lived| lived < backoff::AT_ONCE);
            state.crashes = if has_crashed { state.crashes + 1 } else { 0 };
            // No pause after a single crash: the process may just have been killed.
            state.not_before = (state.crashes > 1).then(|| Instant::now() + backoff::pause_after(state.crashes - 1));
            state.child = None;
        }
        if let Some(seconds) = backoff::seconds_left(state.not_before) {
            return Err(backoff::tried_again_in(seconds));
        }
        let shared = new(random_name());
        let child = self.start(owner, SharedListener::of(&shared), cancellation)?;
        log::info!(server = self.config.server.as_str(), pid = child.pid(); "an MCP server was started for several clients");
        shared.run(child);
        state.child = Some(shared.clone());
        Ok(shared)
    }

    /// Returns the process for `owner`'s modern requests and the revisions it supports; `None` if the server supports
    /// no modern revision.
    pub(crate) fn modern(&self, owner: &Owner, cancellation: &Cancellation) -> Result<Option<Modern>, String> {
        let known = || self.state().revisions.clone().filter(|(_, until)| Instant::now() < *until).map(|(era, _)| era);
        let key = match self.config.is_shared {
            true => "modern".to_string(),
            false => format!("modern {}", owner.digest()),
        };
        let only_for = (!self.config.is_shared).then_some(owner);
        let new = if self.config.is_shared { SharedProcess::modern_of_all } else { SharedProcess::modern_of_one };
        match known() {
            Some(Revisions::Modern(versions)) => {
                return self.shared_child(&key, only_for, new, cancellation).map(|child| Some((child, versions)));
            }
            Some(_) => return Ok(None),
            None => {}
        }
        // One request probes the server; the others wait for its result.
        let probing = self.probing.lock(START_TIMEOUT, cancellation);
        let probing = probing
            .map_err(|e| format!("another request is still asking the MCP server for its protocol revisions: {e}"))?;
        if known().is_some() {
            drop(probing);
            return self.modern(owner, cancellation);
        }
        let shared = self.shared_child(&key, only_for, new, cancellation)?;
        let (era, is_lasting) = probe::probe(&shared, owner, PROBE_TIMEOUT, cancellation)
            .map_err(|e| format!("the MCP server could not be asked for its protocol revisions: {e}"))?;
        log::info!(server = self.config.server.as_str(), answer:? = era; "the MCP server was asked whether it knows revision 2026-07-28");
        let lasts = match era {
            _ if !is_lasting => ERROR_LASTS,
            Revisions::Silent => SILENCE_LASTS,
            Revisions::Modern(_) | Revisions::Legacy => ERA_LASTS,
        };
        self.state().revisions = Some((era.clone(), Instant::now() + lasts));
        match era {
            Revisions::Modern(versions) => Ok(Some((shared, versions))),
            Revisions::Legacy | Revisions::Silent => {
                shared.end();
                Ok(None)
            }
        }
    }
}
