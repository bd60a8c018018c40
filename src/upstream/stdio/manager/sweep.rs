//! Ends idle processes, drops unused sessions from memory, and ends all processes at shutdown.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::lock::Unpoisoned;
use crate::net::cancellation::Cancellation;
use crate::upstream::stdio::backoff::is_remembered;
use crate::upstream::stdio::manager::table::{ProcessManager, State};

/// How long all child processes may take to end when the proxy shuts down, including every step (stdin closed, SIGTERM,
/// SIGKILL).
const END_TIMEOUT: Duration = Duration::from_secs(6);

/// The managers, each with the time of its next sweep.
static SWEEPER: Mutex<Sweeper> = Mutex::new(Sweeper { managers: Vec::new(), is_running: false });
static CHANGED: Condvar = Condvar::new();

struct Sweeper {
    managers: Vec<(Weak<ProcessManager>, Instant)>,
    is_running: bool,
}

/// Sweeps each manager when it is due, for as long as there is one.
fn sweep_all() {
    let mut sweeper = SWEEPER.lock().unpoisoned();
    loop {
        let now = Instant::now();
        sweeper.managers.retain(|(manager, _)| manager.strong_count() > 0);
        let mut due = Vec::new();
        for (manager, at) in sweeper.managers.iter_mut().filter(|(_, at)| *at <= now) {
            if let Some(manager) = manager.upgrade() {
                *at = now + manager.sweep_pause();
                due.push(manager);
            }
        }
        let Some(next) = sweeper.managers.iter().map(|(_, at)| *at).min() else {
            sweeper.is_running = false;
            return;
        };
        drop(sweeper);
        due.iter().for_each(|manager| manager.sweep());
        drop(due);
        sweeper = SWEEPER.lock().unpoisoned();
        let pause = next.saturating_duration_since(Instant::now());
        sweeper = CHANGED.wait_timeout(sweeper, pause).unpoisoned().0;
    }
}

impl ProcessManager {
    /// Has the sweeper, which all managers share, run [`Self::sweep`] from now on. The error is one line.
    pub(crate) fn start_sweeping(self: &Arc<Self>) -> Result<(), String> {
        let mut sweeper = SWEEPER.lock().unpoisoned();
        sweeper.managers.push((Arc::downgrade(self), Instant::now()));
        if !std::mem::replace(&mut sweeper.is_running, true) {
            let thread = std::thread::Builder::new().name("sessions".into()).stack_size(128 << 10).spawn(sweep_all);
            thread.map_err(|e| format!("no thread could be started: {e}"))?;
        }
        drop(sweeper);
        CHANGED.notify_all();
        Ok(())
    }

    /// The pause between two sweeps.
    fn sweep_pause(&self) -> Duration {
        (self.limits().idle / 4).clamp(Duration::from_millis(250), Duration::from_secs(30))
    }

    /// Ends idle and stuck processes, drops unused sessions from memory, and saves when sessions were last used.
    pub(crate) fn sweep(&self) {
        let (now, lifetime) = (self.login.core.now(), self.config.session_lifetime);
        let idle_timeout = self.limits().idle;
        let state = self.state();
        let sessions: Vec<_> = state.sessions.values().cloned().collect();
        let entries: Vec<_> = state.shared.values().cloned().collect();
        drop(state);
        let mut to_save = Vec::new();
        for session in &sessions {
            let unused = session.unused();
            session.give_up();
            if unused >= idle_timeout && session.idleness().is_some_and(|i| !i.is_heard) {
                session.park();
            }
            let mut state = self.state();
            if let Some(known) = state.known.get_mut(session.name()) {
                known.used = now.saturating_sub(unused.as_secs());
                // Saving only this often limits writes. After a crash, a session expires at most about an hour too
                // early.
                let is_stale = known.used.saturating_sub(known.saved) > (lifetime / 8).min(3_600);
                to_save.extend(is_stale.then(|| session.clone()));
            }
            // The table and this sweep's list hold two references, so a third means that the session is in use. No new
            // one can appear while the table is locked.
            let is_held = Arc::strong_count(session) > 2;
            if unused >= idle_timeout && !is_held && session.is_dispensable() {
                state.sessions.remove(session.name());
            }
        }
        to_save.iter().for_each(|s| self.save_session(s));
        for shared in entries.iter().filter_map(|entry| entry.child()) {
            let is_idle = shared.is_unheard() && shared.used().elapsed() >= idle_timeout;
            if shared.is_stuck() || (is_idle && !self.config.is_shared) {
                shared.end();
            }
        }
        drop(entries);
        let mut state = self.state();
        let State { known, sessions, shared, .. } = &mut *state;
        known.retain(|name, k| k.used + lifetime > now || sessions.contains_key(name));
        shared.retain(|_, entry| {
            let Some(state) = entry.state.try_lock() else { return true };
            let is_over = state.child.as_ref().is_none_or(|child| child.has_ended());
            // Keep the entry of an ended process until `idle_timeout` after its last use, because the next start checks
            // whether it crashed.
            let is_forgiven = state.child.as_ref().is_none_or(|child| child.used().elapsed() >= idle_timeout);
            // Without its entry a server that crashes would be started again at once.
            let is_paused = is_remembered(state.not_before);
            !is_over || !is_forgiven || is_paused || Arc::strong_count(entry) > 1
        });
    }

    /// Ends all processes gracefully and waits for them, up to [`END_TIMEOUT`]. The sessions stay in the store.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.is_ending = true;
        let spares = std::mem::take(&mut state.spares);
        let sessions: Vec<_> = state.sessions.drain().map(|(_, s)| s).collect();
        let shared: Vec<_> = state.shared.drain().map(|(_, entry)| entry).collect();
        drop(state);
        self.has_room.wake();
        drop(spares);
        sessions.iter().for_each(|s| s.put_aside());
        shared.iter().filter_map(|entry| entry.child()).for_each(|child| child.end());
        let deadline = Instant::now() + END_TIMEOUT;
        while let Ok(waiting) = self.has_room.join()
            && self.state().children > 0
            && waiting.wait(deadline.saturating_duration_since(Instant::now()), &Cancellation::none()).is_ok()
        {}
    }
}
