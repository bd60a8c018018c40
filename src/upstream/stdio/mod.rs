//! An MCP server that speaks over stdio, on the network: child processes, one for each session unless they are shared.
//!
//! - [`streamable`], [`sse`], [`modern`], [`fields`] – HTTP as each generation of clients speaks it
//! - [`session`] – what a session is, and how it outlives its child
//! - [`shared`] – one child for clients that do not know of each other
//! - [`child`], [`lines`], [`supervisor`], [`launcher`] – the process, from its start to its orderly end
//! - [`events`], [`bell`] – what clients are sent, and how those who wait for it are woken
//! - [`users`] – under whom they run
//! - [`init`] – the proxy as the first process of a container
//!
//! Locks are taken in the order host, session, shared child, inbox of a child; a listener is told of nothing under any.

mod bell;
mod child;
mod events;
mod fields;
pub mod init;
pub mod launcher;
pub mod lines;
mod modern;
mod session;
mod shared;
mod sse;
mod streamable;
pub mod supervisor;
mod users;

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, TryLockError, Weak};
use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

pub use users::RunAs;

use self::child::{Child, Full, Launch, Listener};
use self::launcher::Limits;
use self::lines::TooLong;
use self::modern::Era;
use self::session::{Idleness, Session};
use self::shared::{Ear, SharedChild};
use super::{Origin, Upstream};
use crate::clock::Timestamp;
use crate::context::Context;
use crate::http::{Request, Response};
use crate::identity::{ClientId, UserId};
use crate::observe::quota::Quota;
use crate::store::Tx;
use crate::store::rows::McpSession;
use crate::tokens::artefacts::McpSessionId;
use crate::tokens::{digest, random_name};

/// The MCP endpoint.
const ENDPOINT: &str = "/mcp";
/// How long a request waits for another session's child to make room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a child may take to say which revisions it knows; npx may have to fetch it first.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an answer to that is believed.
const ERA_LASTS: Duration = Duration::from_secs(3_600);
/// How long silence is taken for one.
const SILENCE_LASTS: Duration = Duration::from_secs(600);
/// How long an error is that may pass.
const ERROR_LASTS: Duration = Duration::from_secs(30);
/// How long children may take at the end of the process, each step of theirs included.
const END_TIMEOUT: Duration = Duration::from_secs(6);

/// The stdio server and how it is run.
#[derive(Clone, Debug)]
pub struct StdioConfig {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// One child for all sessions.
    pub is_shared: bool,
    /// Children kept ready for the next session.
    pub spare: usize,
    /// Children at one time.
    pub max_children: usize,
    /// How long a child may be idle.
    pub idle_timeout: Duration,
    /// Sessions of one user, those without a child included.
    pub max_sessions_per_user: usize,
    /// How long a session is kept after its last use, in seconds.
    pub session_lifetime: u64,
    /// Under whom children run; `None` for the user of the proxy.
    pub user: Option<RunAs>,
    /// Bytes of data that each process of a child may have.
    pub memory: Option<u64>,
    /// Added to children's niceness.
    pub nice: Option<i32>,
    /// Bytes held for a client that does not read, and for a child that does not; longest message of a child.
    pub buffer: usize,
    /// The limit of open files that the proxy was started with, which children get.
    pub open_files: Option<u64>,
}

/// A child for modern clients, and the revisions that its server knows, if it named them.
type Modern = (Arc<SharedChild>, Arc<[String]>);

/// On whose behalf a child runs.
#[derive(Clone, Debug, PartialEq)]
struct Account {
    user: UserId,
    email: Option<String>,
    client: ClientId,
}

impl Account {
    fn is_same(&self, other: &Account) -> bool {
        self.user == other.user && self.client == other.client
    }

    /// Stands for the account in session ids.
    fn digest(&self) -> String {
        digest(format!("{}\0{}", self.user, self.client).as_bytes())
    }
}

/// Where lines for a server go. Dropping it ends a child, or leaves a shared one.
trait Line: Send + Sync {
    /// Sends a line, and waits for nothing.
    fn send(&self, line: Vec<u8>) -> Result<(), Full>;
}

impl Line for Child {
    fn send(&self, line: Vec<u8>) -> Result<(), Full> {
        Child::send(self, line)
    }
}

/// The server, as the rest of the program sees it.
pub struct StdioUpstream(Arc<Host>);

impl StdioUpstream {
    /// Gets ready to run the server of `config`. The error is one line.
    pub fn new(config: StdioConfig, context: Arc<Context>) -> Result<StdioUpstream, String> {
        launcher::check_program(&config.command)?;
        hide()?;
        let host = Host::new(config, context)?;
        let sweeper = Arc::downgrade(&host);
        let pause = (host.config.idle_timeout / 4).clamp(Duration::from_millis(250), Duration::from_secs(30));
        let sweep = move || {
            while let Some(host) = sweeper.upgrade() {
                host.sweep();
                drop(host);
                std::thread::sleep(pause);
            }
        };
        let thread = std::thread::Builder::new().name("sessions".into()).stack_size(128 << 10).spawn(sweep);
        thread.map_err(|e| format!("no thread could be started: {e}"))?;
        host.prepare_spare(host.last_account());
        // Who has just consented is about to begin a session.
        let newcomers = Arc::downgrade(&host);
        host.context.on_consent(move |user, client| {
            let account = Account { user: user.id.clone(), email: user.email.clone(), client: client.clone() };
            if let Some(host) = newcomers.upgrade() {
                host.prepare_spare(Some(account));
            }
        });
        Ok(StdioUpstream(host))
    }
}

impl Upstream for StdioUpstream {
    fn forward(&self, request: &mut Request<'_>, origin: &Origin) -> Response {
        let principal = &origin.principal;
        let account =
            Account { user: principal.user.clone(), email: principal.email.clone(), client: principal.client.clone() };
        match request.parts.uri.path().trim_end_matches('/') {
            ENDPOINT => streamable::handle(&self.0, &account, request),
            sse::STREAM => sse::stream(&self.0, &account, request),
            sse::MESSAGES => sse::message(&self.0, &account, request),
            _ => Response::text(StatusCode::NOT_FOUND, "the MCP endpoint is /mcp"),
        }
    }

    fn endpoint(&self) -> Option<&str> {
        Some(ENDPOINT)
    }

    fn end(&self) {
        self.0.end();
    }
}

/// Everything that runs, and the bounds on it.
struct Host {
    context: Arc<Context>,
    config: StdioConfig,
    launch: Launch,
    state: Mutex<State>,
    /// Children that have been told to end.
    leaving: AtomicUsize,
    has_room: Condvar,
    /// Held while a child is asked which revisions it knows.
    probing: Mutex<()>,
    me: Weak<Host>,
}

#[derive(Default)]
struct State {
    /// Processes, those that are about to end included.
    children: usize,
    /// Newcomers that wait for room.
    waiting: usize,
    spares: Vec<Spare>,
    sessions: HashMap<String, Arc<Session>>,
    /// All sessions that there are, those without a child included, and when they were last used.
    known: HashMap<String, Known>,
    /// Children of several clients: of an account's for the modern revisions, of everyone for shared mode.
    shared: HashMap<String, Arc<Place>>,
    /// Which revisions the server knows, and until when that is believed.
    era: Option<(Era, Instant)>,
    is_ending: bool,
}

struct Spare {
    account: Option<Account>,
    child: Child,
}

struct Known {
    user: UserId,
    used: Timestamp,
    saved: Timestamp,
}

/// Where a shared child is, or is going to be.
#[derive(Default)]
struct Place {
    /// Whose it is; `None` for everyone's.
    user: Option<UserId>,
    tenant: Mutex<Tenant>,
}

#[derive(Default)]
struct Tenant {
    child: Option<Arc<SharedChild>>,
    /// How often in a row it ended as soon as it was started.
    crashes: u32,
    not_before: Option<Instant>,
}

impl Place {
    /// Waits for whoever is starting the child.
    fn tenant(&self) -> MutexGuard<'_, Tenant> {
        match self.tenant.try_lock() {
            Ok(tenant) => tenant,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => {
                crate::blocking::announce();
                self.tenant.lock().unwrap_or_else(|e| e.into_inner())
            }
        }
    }

    /// The child, unless it is being started.
    fn child(&self) -> Option<Arc<SharedChild>> {
        self.tenant.try_lock().ok()?.child.clone()
    }
}

/// One of the children that there may be.
struct Slot {
    host: Weak<Host>,
    is_leaving: AtomicBool,
}

impl Slot {
    /// Its child has been told to end.
    fn leave(&self) {
        if !self.is_leaving.swap(true, Ordering::Relaxed)
            && let Some(host) = self.host.upgrade()
        {
            host.leaving.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(host) = self.host.upgrade() {
            let mut state = host.state();
            state.children -= 1;
            if *self.is_leaving.get_mut() {
                host.leaving.fetch_sub(1, Ordering::Relaxed);
            }
            drop(state);
            host.has_room.notify_all();
        }
    }
}

/// Whom room is made by.
enum Occupant {
    Session(Arc<Session>),
    Shared(Arc<SharedChild>),
}

impl Occupant {
    /// Ends the child, which has work to do.
    fn evict(self) {
        match self {
            Occupant::Session(session) => session.evict(),
            Occupant::Shared(shared) => shared.end(),
        }
    }
}

impl Host {
    fn new(config: StdioConfig, context: Arc<Context>) -> Result<Arc<Host>, String> {
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
        context
            .state
            .scan(|name: &str, row: McpSession| {
                let used = row.expires_at.saturating_sub(lifetime);
                known.insert(name.to_string(), Known { user: row.user, used, saved: used });
            })
            .map_err(|e| format!("the state can't be read: {e}"))?;
        Ok(Arc::new_cyclic(|me| Host {
            context,
            config,
            launch,
            state: Mutex::new(State { known, ..State::default() }),
            leaving: AtomicUsize::new(0),
            has_room: Condvar::new(),
            probing: Mutex::new(()),
            me: me.clone(),
        }))
    }

    /// Bytes held for one session.
    fn buffer(&self) -> usize {
        self.config.buffer
    }

    /// The id by which a client names a session.
    fn session_id(&self, session: &Session) -> String {
        self.context.keys.seal(&McpSessionId { session: session.name.clone(), owner: session.account.digest() })
    }

    /// The session that `id` names, if it is one of `account`'s.
    fn find(self: &Arc<Self>, id: &str, account: &Account) -> Option<Arc<Session>> {
        let id: McpSessionId = self.context.keys.open(id, self.context.now()).ok()?;
        if id.owner != account.digest() {
            return None;
        }
        if let Some(session) = self.state().sessions.get(&id.session) {
            return Some(session.clone());
        }
        let row: McpSession = self.context.state.get(&id.session).ok()??;
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
    fn adopt(&self, session: &Arc<Session>) {
        let now = self.context.now();
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
            if self.context.state.transact(write).is_ok() {
                self.note_saved(&session.name);
            }
        }
    }

    /// Writes what a session needs to survive, unless it was ended meanwhile.
    fn save(&self, session: &Arc<Session>) {
        let expires_at = self.context.now() + self.config.session_lifetime;
        let (session, name) = (session.clone(), session.name.clone());
        // The row is made in the transaction, so that the last one has all that there is.
        let written = self.context.state.transact(move |tx| {
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

    fn note_saved(&self, name: &str) {
        let now = self.context.now();
        if let Some(known) = self.state().known.get_mut(name) {
            known.saved = now;
        }
    }

    /// A session has ended for good.
    fn forget(&self, name: &str) {
        let mut state = self.state();
        let session = state.sessions.remove(name);
        let known = state.known.remove(name);
        drop(state);
        drop(session);
        if known.is_some() {
            let name = name.to_string();
            let _ = self.context.state.transact(move |tx| {
                tx.delete::<McpSession>(&name);
                Ok(())
            });
        }
    }

    /// A way to a server for a session of `account`; the error is for the client.
    fn connect(&self, account: &Account, listener: Arc<dyn Listener>) -> Result<Arc<dyn Line>, String> {
        if self.config.is_shared {
            let shared = self.shared_child("shared", None, SharedChild::legacy)?;
            let port = shared.attach(&account.user, listener).ok_or("the MCP server has just ended; try again")?;
            return Ok(Arc::new(port));
        }
        let child = match self.take_spare(account, &listener) {
            Some(child) => child,
            None => self.start(Some(account), listener)?,
        };
        log::info!(user:% = account.user, client:% = account.client, pid = child.pid(); "a session has an MCP server of its own");
        self.prepare_spare(Some(account.clone()));
        Ok(Arc::new(child))
    }

    fn start(&self, account: Option<&Account>, listener: Arc<dyn Listener>) -> Result<Child, String> {
        let slot = self.take_slot(account.map(|a| &a.user))?;
        Child::start(&self.launch, account, listener, slot).map_err(|e| {
            log::error!(error:% = e; "the MCP server can't be started");
            "the MCP server can't be started; its operator finds the reason in the log".to_string()
        })
    }

    /// The child that several clients share under `key`, started if there is none.
    fn shared_child(
        &self,
        key: &str,
        account: Option<&Account>,
        new: fn(String) -> Arc<SharedChild>,
    ) -> Result<Arc<SharedChild>, String> {
        let user = account.map(|a| a.user.clone());
        let place = self
            .state()
            .shared
            .entry(key.into())
            .or_insert_with(|| Arc::new(Place { user, ..Place::default() }))
            .clone();
        let mut tenant = place.tenant();
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
        let child = self.start(account, Arc::new(Ear(Arc::downgrade(&shared))))?;
        log::info!(pid = child.pid(); "an MCP server was started for several clients");
        shared.run(child);
        tenant.child = Some(shared.clone());
        Ok(shared)
    }

    /// The child for `account`'s modern clients, and the revisions that it knows; `None` if it knows no modern one.
    fn modern(&self, account: &Account) -> Result<Option<Modern>, String> {
        let known = || self.state().era.clone().filter(|(_, until)| Instant::now() < *until).map(|(era, _)| era);
        let key = match self.config.is_shared {
            true => "modern".to_string(),
            false => format!("modern {}", account.digest()),
        };
        let owner = (!self.config.is_shared).then_some(account);
        match known() {
            Some(Era::Modern(versions)) => {
                return self.shared_child(&key, owner, SharedChild::modern).map(|child| Some((child, versions)));
            }
            Some(_) => return Ok(None),
            None => {}
        }
        // One asks, the others wait for what it learns.
        crate::blocking::announce();
        let probing = self.probing.lock().unwrap_or_else(|e| e.into_inner());
        if known().is_some() {
            drop(probing);
            return self.modern(account);
        }
        let shared = self.shared_child(&key, owner, SharedChild::modern)?;
        let (era, is_lasting) = modern::probe(&shared, account, PROBE_TIMEOUT);
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

    /// Room for one more child, of `user` or of everyone, made if need be.
    fn take_slot(&self, user: Option<&UserId>) -> Result<Arc<Slot>, String> {
        let deadline = Instant::now() + ROOM_TIMEOUT;
        let mut is_waiting = false;
        let mut state = self.state();
        loop {
            if state.is_ending {
                return Err("the proxy is stopping; try again".into());
            }
            // Those who wait already come first.
            let awaited = if is_waiting { 0 } else { state.waiting };
            if state.children + awaited < self.config.max_children {
                state.children += 1;
                return Ok(Arc::new(Slot { host: self.me.clone(), is_leaving: AtomicBool::new(false) }));
            }
            // Each newcomer has room made for it once: those who leave already are for those who wait already.
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
            crate::blocking::announce();
            state.waiting += 1;
            let is_full = |state: &mut State| state.children >= self.config.max_children && !state.is_ending;
            let waited = self.has_room.wait_timeout_while(state, left, is_full);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
            state.waiting -= 1;
            is_waiting = true;
        }
        log::warn!(children = self.config.max_children; "no MCP server can be started: all are at work (--stdio-max-children, STDIO_MAX_CHILDREN)");
        Err("all MCP servers that there may be are at work; try again".into())
    }

    /// Has a child end: a spare one, else the one that has been idle the longest, those first to which no client
    /// listens. When all are at work, the user who has the most of them gives one, if that leaves it no fewer than `user`
    /// has then. False when there is none to give.
    fn make_way(&self, user: Option<&UserId>) -> bool {
        let mut state = self.state();
        if let Some(spare) = state.spares.pop() {
            drop(state);
            drop(spare);
            return true;
        }
        let sessions: Vec<_> = state.sessions.values().cloned().collect();
        let places: Vec<_> = state.shared.values().cloned().collect();
        drop(state);
        let shared: Vec<_> = places.iter().filter_map(|place| Some((place, place.child()?))).collect();
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
            at_work.entry(&session.account.user).or_default().push((session.used(), occupant));
        }
        for (place, shared) in &shared {
            if let Some(user) = &place.user {
                at_work.entry(user).or_default().push((shared.used(), Occupant::Shared(shared.clone())));
            }
        }
        let own = user.and_then(|u| at_work.get(u)).map_or(0, Vec::len);
        let most = at_work.into_iter().filter(|(_, has)| has.len() >= own + 2).max_by_key(|(_, has)| has.len());
        let Some((heaviest, has)) = most.filter(|_| user.is_some()) else { return false };
        log::warn!(user:% = heaviest, children = has.len(); "all MCP servers are at work: the user who has the most of them has to give one to another user (--stdio-max-children, STDIO_MAX_CHILDREN)");
        if let Some((_, occupant)) = has.into_iter().min_by_key(|(used, _)| *used) {
            occupant.evict();
        }
        true
    }

    /// A spare child that was started for `account`.
    fn take_spare(&self, account: &Account, listener: &Arc<dyn Listener>) -> Option<Child> {
        loop {
            let mut state = self.state();
            let fits = |s: &Spare| s.account.as_ref().is_some_and(|a| a.is_same(account));
            let at = state.spares.iter().position(fits)?;
            let spare = state.spares.remove(at);
            drop(state);
            if spare.child.hand_over(listener.clone()) {
                return Some(spare.child);
            }
        }
    }

    /// Sees to it that a child waits for `account`'s next session. Its environment tells it who that is, so that it is
    /// of no use to another; without an account it only shows whether the server starts, and has npx fetch it.
    fn prepare_spare(&self, account: Option<Account>) {
        let wanted = if self.config.is_shared { 0 } else { self.config.spare };
        let mut state = self.state();
        let is_for = |s: &Spare| match (&s.account, &account) {
            (Some(a), Some(b)) => a.is_same(b),
            (None, None) => true,
            _ => false,
        };
        if wanted == 0 || state.is_ending || state.spares.iter().any(is_for) {
            return;
        }
        let other = (state.spares.len() >= wanted).then(|| state.spares.remove(0));
        let has_room = state.children < self.config.max_children;
        state.children += usize::from(has_room);
        drop(state);
        drop(other);
        if !has_room {
            return;
        }
        let slot = Arc::new(Slot { host: self.me.clone(), is_leaving: AtomicBool::new(false) });
        let listener = Arc::new(SpareEar(self.me.clone()));
        match Child::start(&self.launch, account.as_ref(), listener, slot) {
            Ok(child) => {
                log::debug!(pid = child.pid(); "a spare MCP server is ready for the next session");
                let mut state = self.state();
                let mut gone = Vec::new();
                match state.is_ending {
                    true => gone.push(Spare { account, child }),
                    false => state.spares.push(Spare { account, child }),
                }
                gone.extend(state.spares.extract_if(.., |s| s.child.has_ended()));
                drop(state);
                drop(gone);
            }
            Err(e) => log::error!(error:% = e; "the MCP server can't be started"),
        }
    }

    /// Whose session was the last one before the proxy was started?
    fn last_account(&self) -> Option<Account> {
        let last = self.state().known.iter().max_by_key(|(_, k)| k.used).map(|(name, _)| name.clone())?;
        let row: McpSession = self.context.state.get(&last).ok()??;
        Some(Account { user: row.user, email: row.email, client: row.client })
    }

    /// Ends what has been idle for too long, and notes what has been used.
    fn sweep(&self) {
        let (now, lifetime) = (self.context.now(), self.config.session_lifetime);
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
            let Ok(tenant) = place.tenant.try_lock() else { return true };
            let is_over = tenant.child.as_ref().is_none_or(|child| child.has_ended());
            // Who crashes is remembered for a while.
            let is_forgiven =
                tenant.child.as_ref().is_none_or(|child| child.used().elapsed() >= self.config.idle_timeout);
            !is_over || !is_forgiven || Arc::strong_count(place) > 1
        });
    }

    /// Ends every child, in order; the sessions stay in the store.
    fn end(&self) {
        let mut state = self.state();
        state.is_ending = true;
        let spares = std::mem::take(&mut state.spares);
        let sessions: Vec<_> = state.sessions.drain().map(|(_, s)| s).collect();
        let shared: Vec<_> = state.shared.drain().map(|(_, place)| place).collect();
        drop(state);
        self.has_room.notify_all();
        drop(spares);
        sessions.iter().for_each(|s| s.put_aside());
        shared.iter().filter_map(|place| place.child()).for_each(|child| child.end());
        let has_children = |state: &mut State| state.children > 0;
        drop(self.has_room.wait_timeout_while(self.state(), END_TIMEOUT, has_children));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Hears a child that nobody works with yet.
struct SpareEar(Weak<Host>);

impl Listener for SpareEar {
    fn line(&self, line: Vec<u8>) {
        note_noise(&String::from_utf8_lossy(&line), "spare");
    }

    fn long_line(&self, _: &TooLong) {}

    fn ended(&self, _: Duration) {
        let Some(host) = self.0.upgrade() else { return };
        // Another is started with the next session, not now: one that can't run would be started without end.
        let gone = host.state().spares.extract_if(.., |s| s.child.has_ended()).collect::<Vec<_>>();
        drop(gone);
    }

    fn name(&self) -> String {
        "spare".into()
    }
}

/// Keeps this process's memory and environment, and with them its secrets, from other processes of the same user.
pub(crate) fn hide() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| format!("the process can't be hidden: {e}"))
}

/// A random name for a session or a child.
fn new_name() -> String {
    random_name()
}

/// A line of a child as text. A bare carriage return within it, which JSON takes for a blank, would end a line of an
/// event.
fn text_of(line: Vec<u8>, session: &str) -> Option<String> {
    match String::from_utf8(line) {
        Ok(text) if text.contains('\r') => Some(text.replace('\r', " ")),
        Ok(text) => Some(text),
        Err(e) => {
            note_noise(&String::from_utf8_lossy(e.as_bytes()), session);
            None
        }
    }
}

/// Tells the operator of a line that is no message.
fn note_noise(text: &str, session: &str) {
    static QUOTA: LazyLock<Mutex<Quota>> = LazyLock::new(|| Mutex::new(Quota::new(100, 10)));
    let Some(omitted) = QUOTA.lock().unwrap_or_else(|e| e.into_inner()).take() else { return };
    let shown: String = text.chars().take(200).collect();
    log::warn!(session = session, line = shown.as_str(), omitted = omitted; "the MCP server wrote to stdout what is no JSON-RPC message; it is skipped");
}
