//! Children that several clients share: where they are, and who starts them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::host::Host;
use super::modern::{self, Era};
use super::shared::{Ear, SharedChild};
use super::waiting::{PatientGuard, PatientMutex};
use super::{Account, new_name, session};
use crate::identity::UserId;
use crate::net::cancellation::Cancellation;

/// How long a child may take to say which revisions it knows; npx may have to fetch it first.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long others wait for the one who asks, or starts a child.
const START_TIMEOUT: Duration = Duration::from_secs(45);
/// How long an answer to that is believed.
const ERA_LASTS: Duration = Duration::from_secs(3_600);
/// How long silence is taken for one.
const SILENCE_LASTS: Duration = Duration::from_secs(600);
/// How long an error is that may pass.
const ERROR_LASTS: Duration = Duration::from_secs(30);

/// A child for modern clients, and the revisions that its server knows, if it named them.
pub(super) type Modern = (Arc<SharedChild>, Arc<[String]>);

/// Where a shared child is, or is going to be.
#[derive(Default)]
pub(super) struct Place {
    /// Whose it is; `None` for everyone's.
    pub(super) user: Option<UserId>,
    pub(super) tenant: PatientMutex<Tenant>,
}

#[derive(Default)]
pub(super) struct Tenant {
    pub(super) child: Option<Arc<SharedChild>>,
    /// How often in a row it ended as soon as it was started.
    pub(super) crashes: u32,
    pub(super) not_before: Option<Instant>,
}

impl Place {
    /// Waits for whoever is starting the child.
    pub(super) fn tenant(&self, cancellation: &Cancellation) -> Result<PatientGuard<'_, Tenant>, String> {
        self.tenant.lock(START_TIMEOUT, cancellation).map_err(|e| format!("the MCP server is still being started: {e}"))
    }

    /// The child, unless it is being started.
    pub(super) fn child(&self) -> Option<Arc<SharedChild>> {
        self.tenant.try_lock()?.child.clone()
    }
}

impl Host {
    /// The child that several clients share under `key`, started if there is none.
    pub(super) fn shared_child(
        &self,
        key: &str,
        account: Option<&Account>,
        new: fn(String) -> Arc<SharedChild>,
        cancellation: &Cancellation,
    ) -> Result<Arc<SharedChild>, String> {
        let user = account.map(|a| a.user.clone());
        let place = self
            .state()
            .shared
            .entry(key.into())
            .or_insert_with(|| Arc::new(Place { user, ..Place::default() }))
            .clone();
        let mut tenant = place.tenant(cancellation)?;
        if let Some(shared) = &tenant.child {
            if !shared.has_ended() {
                return Ok(shared.clone());
            }
            let has_crashed = shared.lived().is_some_and(|lived| lived < session::AT_ONCE);
            tenant.crashes = if has_crashed { tenant.crashes + 1 } else { 0 };
            // One may have been killed; it is replaced at once.
            tenant.not_before = (tenant.crashes > 1).then(|| Instant::now() + session::pause_after(tenant.crashes - 1));
            tenant.child = None;
        }
        if let Some(seconds) = session::seconds_left(tenant.not_before) {
            return Err(session::tried_again_in(seconds));
        }
        let shared = new(new_name());
        let child = self.start(account, Arc::new(Ear(Arc::downgrade(&shared))), cancellation)?;
        log::info!(pid = child.pid(); "an MCP server was started for several clients");
        shared.run(child);
        tenant.child = Some(shared.clone());
        Ok(shared)
    }

    /// The child for `account`'s modern clients, and the revisions that it knows; `None` if it knows no modern one.
    pub(super) fn modern(&self, account: &Account, cancellation: &Cancellation) -> Result<Option<Modern>, String> {
        let known = || self.state().era.clone().filter(|(_, until)| Instant::now() < *until).map(|(era, _)| era);
        let key = match self.config.is_shared {
            true => "modern".to_string(),
            false => format!("modern {}", account.digest()),
        };
        let owner = (!self.config.is_shared).then_some(account);
        let new = if self.config.is_shared { SharedChild::modern_of_all } else { SharedChild::modern_of_one };
        match known() {
            Some(Era::Modern(versions)) => {
                return self.shared_child(&key, owner, new, cancellation).map(|child| Some((child, versions)));
            }
            Some(_) => return Ok(None),
            None => {}
        }
        // One asks, the others wait for what it learns.
        let probing = self.probing.lock(START_TIMEOUT, cancellation);
        let probing = probing.map_err(|e| format!("the MCP server has not said yet which revisions it knows: {e}"))?;
        if known().is_some() {
            drop(probing);
            return self.modern(account, cancellation);
        }
        let shared = self.shared_child(&key, owner, new, cancellation)?;
        let (era, is_lasting) = modern::probe(&shared, account, PROBE_TIMEOUT, cancellation)
            .map_err(|e| format!("the MCP server was not asked which revisions it knows: {e}"))?;
        log::info!(answer:? = era; "the MCP server was asked whether it knows revision 2026-07-28");
        let lasts = match era {
            _ if !is_lasting => ERROR_LASTS,
            Era::Silent => SILENCE_LASTS,
            Era::Modern(_) | Era::Legacy => ERA_LASTS,
        };
        self.state().era = Some((era.clone(), Instant::now() + lasts));
        match era {
            Era::Modern(versions) => Ok(Some((shared, versions))),
            Era::Legacy | Era::Silent => {
                shared.end();
                Ok(None)
            }
        }
    }
}
