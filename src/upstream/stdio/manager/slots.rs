//! Process slots: limits the number of processes, and ends one process to free a slot for another.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::{Duration, Instant};

use crate::identity::UserId;
use crate::net::cancellation::Cancellation;
use crate::upstream::stdio::idleness::Idleness;
use crate::upstream::stdio::manager::table::{ProcessManager, State};
use crate::upstream::stdio::mux::shared_process::SharedProcess;
use crate::upstream::stdio::process::inbox::Slot;
use crate::upstream::stdio::session::Session;

/// How long a request waits for a free process slot.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);

/// One of the `max_children` process slots. Dropping it frees the slot.
pub(crate) struct ManagedSlot {
    manager: Weak<ProcessManager>,
    is_leaving: AtomicBool,
}

impl ManagedSlot {
    /// Creates a slot. The caller has already added it to `State::children`.
    pub(crate) fn new(manager: &ProcessManager) -> Arc<ManagedSlot> {
        Arc::new(ManagedSlot { manager: manager.me.clone(), is_leaving: AtomicBool::new(false) })
    }
}

impl Slot for ManagedSlot {
    fn leave(&self) {
        if !self.is_leaving.swap(true, Ordering::Relaxed)
            && let Some(manager) = self.manager.upgrade()
        {
            manager.leaving.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ManagedSlot {
    fn drop(&mut self) {
        if let Some(manager) = self.manager.upgrade() {
            let mut state = manager.state();
            state.children -= 1;
            if *self.is_leaving.get_mut() {
                manager.leaving.fetch_sub(1, Ordering::Relaxed);
            }
            drop(state);
            manager.has_room.wake();
        }
    }
}

/// A session or shared process that can be ended to free its slot.
pub(crate) enum Occupant {
    Session(Arc<Session>),
    Shared(Arc<SharedProcess>),
}

impl Occupant {
    /// Ends the process even if it is busy.
    pub(crate) fn evict(self) {
        match self {
            Occupant::Session(session) => session.evict(),
            Occupant::Shared(shared) => shared.end(),
        }
    }
}

impl ProcessManager {
    /// Takes a slot for one more process of `user` (`None`: of all users). If none is free, ends another process and
    /// waits for its slot.
    pub(crate) fn take_slot(
        &self,
        user: Option<&UserId>,
        cancellation: &Cancellation,
    ) -> Result<Arc<ManagedSlot>, String> {
        let deadline = Instant::now() + ROOM_TIMEOUT;
        let mut is_waiting = false;
        let mut state = self.state();
        loop {
            if state.is_ending {
                return Err("the proxy is stopping; try again".into());
            }
            // Callers that already wait go first: a new caller treats their slots as taken.
            let awaited = if is_waiting { 0 } else { state.waiting };
            if state.children + awaited < self.limits().children {
                state.children += 1;
                return Ok(ManagedSlot::new(self));
            }
            // Processes that are already ending are for the callers that already wait. End one more only if none is
            // left for this caller.
            if self.leaving.load(Ordering::Relaxed) <= state.waiting {
                drop(state);
                let has_way = self.make_way(user);
                state = self.state();
                if !has_way && self.leaving.load(Ordering::Relaxed) <= state.waiting {
                    break;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.waiting += 1;
            let waited;
            (state, waited) = self.wait_for_room(state, deadline, cancellation);
            state.waiting -= 1;
            if let Err(e) = waited {
                // If a process was ended for this caller, another caller gets the slot.
                return Err(format!("there was no room for an MCP server: {e}"));
            }
            is_waiting = true;
        }
        log::warn!(server = self.config.server.as_str(), children = self.limits().children; "no MCP server process can be started: the limit is reached and all are busy (--stdio-max-children, STDIO_MAX_CHILDREN)");
        Err("the limit of MCP server processes is reached and all are busy; try again".into())
    }

    /// Waits until a slot is freed or `deadline` passes. Another caller may take the slot first, so the caller must
    /// check again and may have to end one more process.
    fn wait_for_room<'h>(
        &'h self,
        state: MutexGuard<'h, State>,
        deadline: Instant,
        cancellation: &Cancellation,
    ) -> (MutexGuard<'h, State>, io::Result<()>) {
        let waiting = match self.has_room.join() {
            Ok(waiting) => waiting,
            Err(e) => return (state, Err(e)),
        };
        drop(state);
        let waited = waiting.wait(deadline.saturating_duration_since(Instant::now()), cancellation);
        let waited = waited.or_else(|e| if e.kind() == io::ErrorKind::TimedOut { Ok(()) } else { Err(e) });
        (self.state(), waited)
    }

    /// Ends one process to free its slot. In this order: a warm process; an idle process, sorted by [`Idleness`] (those
    /// with abandoned requests last, then those without a listening client first, then the longest idle); if all are
    /// busy and `user` is given, the least recently used process of the user who has the most, if that user then still
    /// has at least as many as `user` will have. Returns false if there is no process to end.
    pub(crate) fn make_way(&self, user: Option<&UserId>) -> bool {
        let mut state = self.state();
        if let Some(spare) = state.spares.pop() {
            drop(state);
            drop(spare);
            return true;
        }
        let sessions: Vec<_> = state.sessions.values().cloned().collect();
        let entries: Vec<_> = state.shared.values().cloned().collect();
        drop(state);
        let shared: Vec<_> = entries.iter().filter_map(|entry| Some((entry, entry.child()?))).collect();
        let shared: Vec<_> = shared.into_iter().filter(|(_, s)| !s.has_ended()).collect();

        let mut idle: Vec<_> = sessions
            .iter()
            .filter_map(|s| Some((s.idleness().filter(Idleness::is_evident)?, Occupant::Session(s.clone()))))
            .collect();
        idle.extend(shared.iter().filter_map(|(_, s)| Some((s.idleness()?, Occupant::Shared(s.clone())))));
        idle.sort_by_key(|(idleness, _)| *idleness);
        let has_gone = idle.into_iter().any(|(_, occupant)| match occupant {
            Occupant::Session(session) => session.park(),
            Occupant::Shared(shared) => {
                shared.end();
                true
            }
        });
        if has_gone {
            return true;
        }
        let mut at_work: HashMap<&UserId, Vec<(Instant, Occupant)>> = HashMap::new();
        for session in sessions.iter().filter(|s| s.has_child()) {
            let occupant = Occupant::Session(session.clone());
            at_work.entry(&session.owner().user).or_default().push((session.used(), occupant));
        }
        for (entry, shared) in &shared {
            if let Some(user) = &entry.user {
                at_work.entry(user).or_default().push((shared.used(), Occupant::Shared(shared.clone())));
            }
        }
        let own = user.and_then(|u| at_work.get(u)).map_or(0, Vec::len);
        let most = at_work.into_iter().filter(|(_, has)| has.len() >= own + 2).max_by_key(|(_, has)| has.len());
        let Some((heaviest, has)) = most.filter(|_| user.is_some()) else { return false };
        log::warn!(server = self.config.server.as_str(), user:% = heaviest, children = has.len(); "all MCP server processes are busy: one of the user who has the most is ended to free a slot for another user (--stdio-max-children, STDIO_MAX_CHILDREN)");
        if let Some((_, occupant)) = has.into_iter().min_by_key(|(used, _)| *used) {
            occupant.evict();
        }
        true
    }
}
