//! Everything that runs, and the sessions that there are.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::child::{Child, Launch, Listener};
use super::launcher::Limits;
use super::modern::Era;
use super::places::Place;
use super::session::Session;
use super::shared::SharedChild;
use super::spares::Spare;
use super::waiting::{PatientMutex, WaitList};
use super::{Account, Line, StdioConfig};
use crate::clock::Timestamp;
use crate::identity::UserId;
use crate::login::Login;
use crate::net::cancellation::Cancellation;
use crate::store::Tx;
use crate::store::rows::McpSession;
use crate::tokens::artefacts::McpSessionId;

/// How long children may take at the end of the process, each step of theirs included.
const END_TIMEOUT: Duration = Duration::from_secs(6);

/// Everything that runs, and the bounds on it.
pub(super) struct Host {
    pub(super) login: Arc<Login>,
    pub(super) config: StdioConfig,
    pub(super) launch: Launch,
    pub(super) state: Mutex<State>,
    /// Children that have been told to end.
    pub(super) leaving: AtomicUsize,
    pub(super) has_room: WaitList,
    /// Held while a child is asked which revisions it knows.
    pub(super) probing: PatientMutex<()>,
    pub(super) me: Weak<Host>,
}

#[derive(Default)]
pub(super) struct State {
    /// Processes, those that are about to end included.
    pub(super) children: usize,
    /// Newcomers that wait for room.
    pub(super) waiting: usize,
    pub(super) spares: Vec<Spare>,
    pub(super) sessions: HashMap<String, Arc<Session>>,
    /// All sessions that there are, those without a child included, and when they were last used.
    pub(super) known: HashMap<String, Known>,
    /// Children of several clients: of an account's for the modern revisions, of everyone for shared mode.
    pub(super) shared: HashMap<String, Arc<Place>>,
    /// Which revisions the server knows, and until when that is believed.
    pub(super) era: Option<(Era, Instant)>,
    pub(super) is_ending: bool,
}

pub(super) struct Known {
    pub(super) user: UserId,
    pub(super) used: Timestamp,
    pub(super) saved: Timestamp,
}

impl Host {
    pub(super) fn new(config: StdioConfig, login: Arc<Login>) -> Result<Arc<Host>, String> {
        let (program, arguments) = config.command.split_first().ok_or("there is no command to run")?;
        let launch = Launch {
            program: program.clone(),
            arguments: arguments.to_vec(),
            user: config.user.clone(),
            limits: Limits {
                nice: config.nice,
                memory: config.memory,
                open_files: config.open_files,
                no_new_privileges: config.user.is_some(),
            },
            buffer: config.buffer,
        };
        let mut known = HashMap::new();
        let lifetime = config.session_lifetime;
        login
            .core
            .state
            .scan(|name: &str, row: McpSession| {
                let used = row.expires_at.saturating_sub(lifetime);
                known.insert(name.to_string(), Known { user: row.user, used, saved: used });
            })
            .map_err(|e| format!("the state can't be read: {e}"))?;
        Ok(Arc::new_cyclic(|me| Host {
            login,
            config,
            launch,
            state: Mutex::new(State { known, ..State::default() }),
            leaving: AtomicUsize::new(0),
            has_room: WaitList::default(),
            probing: PatientMutex::default(),
            me: me.clone(),
        }))
    }

    /// Bytes held for one session.
    pub(super) fn buffer(&self) -> usize {
        self.config.buffer
    }

    /// The id by which a client names a session.
    pub(super) fn session_id(&self, session: &Session) -> String {
        self.login.core.keys.seal(&McpSessionId { session: session.name.clone(), owner: session.account.digest() })
    }

    /// The session that `id` names, if it is one of `account`'s.
    pub(super) fn find(self: &Arc<Self>, id: &str, account: &Account) -> Option<Arc<Session>> {
        let id: McpSessionId = self.login.core.keys.open(id, self.login.core.now()).ok()?;
        if id.owner != account.digest() {
            return None;
        }
        if let Some(session) = self.state().sessions.get(&id.session) {
            return Some(session.clone());
        }
        let row: McpSession = self.login.core.state.get(&id.session).ok()??;
        if row.user != account.user || row.client != account.client {
            return None;
        }
        let session = Session::restore(self, account.clone(), row);
        let mut state = self.state();
        if !state.known.contains_key(&id.session) {
            // It was ended while it was read.
            return None;
        }
        Some(state.sessions.entry(id.session).or_insert(session).clone())
    }

    /// Keeps a new session. The user's longest idle one ends, if that makes too many.
    pub(super) fn adopt(&self, session: &Arc<Session>) {
        let now = self.login.core.now();
        let user = &session.account.user;
        let mut state = self.state();
        state.sessions.insert(session.name.clone(), session.clone());
        let known = Known { user: user.clone(), used: now, saved: 0 };
        state.known.insert(session.name.clone(), known);
        let mut of_user: Vec<_> =
            state.known.iter().filter(|(_, k)| k.user == *user).map(|(n, k)| (k.used, n.clone())).collect();
        drop(state);
        of_user.sort();
        let too_many = of_user.len().saturating_sub(self.config.max_sessions_per_user);
        for (_, name) in of_user.into_iter().filter(|(_, name)| *name != session.name).take(too_many) {
            log::info!(session = name.as_str(), user:% = user; "the user's longest idle session is ended to make room for another (--stdio-max-sessions-per-user, STDIO_MAX_SESSIONS_PER_USER)");
            let old = self.state().sessions.get(&name).cloned();
            old.inspect(|s| s.end());
            self.forget(&name);
        }
        if let Some(row) = session.row(now + self.config.session_lifetime) {
            let write = move |tx: &mut Tx<'_>| {
                tx.put(&row.name, &row);
                Ok(())
            };
            if self.login.core.state.transact(write).is_ok() {
                self.note_saved(&session.name);
            }
        }
    }

    /// Writes what a session needs to survive, unless it was ended meanwhile.
    pub(super) fn save(&self, session: &Arc<Session>) {
        let expires_at = self.login.core.now() + self.config.session_lifetime;
        let (session, name) = (session.clone(), session.name.clone());
        // The row is made in the transaction, so that the last one has all that there is.
        let written = self.login.core.state.transact(move |tx| {
            let is_kept = tx.get::<McpSession>(&session.name)?.is_some();
            if let Some(row) = session.row(expires_at).filter(|_| is_kept) {
                tx.put(&row.name, &row);
            }
            Ok(())
        });
        // A failure is told by the state itself; the session is then lost with the process only.
        if written.is_ok() {
            self.note_saved(&name);
        }
    }

    pub(super) fn note_saved(&self, name: &str) {
        let now = self.login.core.now();
        if let Some(known) = self.state().known.get_mut(name) {
            known.saved = now;
        }
    }

    /// A session has ended for good.
    pub(super) fn forget(&self, name: &str) {
        let mut state = self.state();
        let session = state.sessions.remove(name);
        let known = state.known.remove(name);
        drop(state);
        drop(session);
        if known.is_some() {
            let name = name.to_string();
            let _ = self.login.core.state.transact(move |tx| {
                tx.delete::<McpSession>(&name);
                Ok(())
            });
        }
    }

    /// A way to a server for a session of `account`; the error is for the client.
    pub(super) fn connect(
        &self,
        account: &Account,
        listener: Arc<dyn Listener>,
        cancellation: &Cancellation,
    ) -> Result<Arc<dyn Line>, String> {
        if self.config.is_shared {
            let shared = self.shared_child("shared", None, SharedChild::legacy, cancellation)?;
            let port = shared.attach(&account.user, listener).ok_or("the MCP server has just ended; try again")?;
            return Ok(Arc::new(port));
        }
        let child = match self.take_spare(account, &listener) {
            Some(child) => child,
            None => self.start(Some(account), listener, cancellation)?,
        };
        log::info!(user:% = account.user, client:% = account.client, pid = child.pid(); "a session has an MCP server of its own");
        self.prepare_spare(Some(account.clone()));
        Ok(Arc::new(child))
    }

    pub(super) fn start(
        &self,
        account: Option<&Account>,
        listener: Arc<dyn Listener>,
        cancellation: &Cancellation,
    ) -> Result<Child, String> {
        let slot = self.take_slot(account.map(|a| &a.user), cancellation)?;
        crate::blocking::announce();
        Child::start(&self.launch, account, listener, slot).map_err(|e| {
            log::error!(error:% = e; "the MCP server can't be started");
            "the MCP server can't be started; its operator finds the reason in the log".to_string()
        })
    }

    /// Ends what has been idle for too long, and notes what has been used.
    pub(super) fn sweep(&self) {
        let (now, lifetime) = (self.login.core.now(), self.config.session_lifetime);
        let state = self.state();
        let sessions: Vec<_> = state.sessions.values().cloned().collect();
        let places: Vec<_> = state.shared.values().cloned().collect();
        drop(state);
        let mut to_save = Vec::new();
        for session in &sessions {
            let unused = session.unused();
            session.give_up();
            if unused >= self.config.idle_timeout && session.idleness().is_some_and(|i| !i.is_heard) {
                session.park();
            }
            let mut state = self.state();
            if let Some(known) = state.known.get_mut(&session.name) {
                known.used = now.saturating_sub(unused.as_secs());
                // An hour or less is lost of a session's life when the machine stops.
                let is_stale = known.used.saturating_sub(known.saved) > (lifetime / 8).min(3_600);
                to_save.extend(is_stale.then(|| session.clone()));
            }
            // The table, and the list of this very sweep: nobody else holds it, and nobody can without the table.
            let is_held = Arc::strong_count(session) > 2;
            if unused >= self.config.idle_timeout && !is_held && session.is_dispensable() {
                state.sessions.remove(&session.name);
            }
        }
        to_save.iter().for_each(|s| self.save(s));
        for shared in places.iter().filter_map(|place| place.child()) {
            let is_idle = shared.is_unheard() && shared.used().elapsed() >= self.config.idle_timeout;
            if shared.is_stuck() || (is_idle && !self.config.is_shared) {
                shared.end();
            }
        }
        drop(places);
        let mut state = self.state();
        let State { known, sessions, shared, .. } = &mut *state;
        known.retain(|name, k| k.used + lifetime > now || sessions.contains_key(name));
        shared.retain(|_, place| {
            let Some(tenant) = place.tenant.try_lock() else { return true };
            let is_over = tenant.child.as_ref().is_none_or(|child| child.has_ended());
            // Who crashes is remembered for a while.
            let is_forgiven =
                tenant.child.as_ref().is_none_or(|child| child.used().elapsed() >= self.config.idle_timeout);
            !is_over || !is_forgiven || Arc::strong_count(place) > 1
        });
    }

    /// Ends every child, in order; the sessions stay in the store.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.is_ending = true;
        let spares = std::mem::take(&mut state.spares);
        let sessions: Vec<_> = state.sessions.drain().map(|(_, s)| s).collect();
        let shared: Vec<_> = state.shared.drain().map(|(_, place)| place).collect();
        drop(state);
        self.has_room.wake();
        drop(spares);
        sessions.iter().for_each(|s| s.put_aside());
        shared.iter().filter_map(|place| place.child()).for_each(|child| child.end());
        let deadline = Instant::now() + END_TIMEOUT;
        while let Ok(waiting) = self.has_room.join()
            && self.state().children > 0
            && waiting.wait(deadline.saturating_duration_since(Instant::now()), &Cancellation::none()).is_ok()
        {}
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}
