//! All processes and sessions, under one lock.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};
use std::time::Instant;

use crate::clock::Timestamp;
use crate::identity::UserId;
use crate::lock::Unpoisoned;
use crate::login::Login;
use crate::store::rows::McpSession;
use crate::upstream::forward::ProcessLimits;
use crate::upstream::stdio::config::StdioConfig;
use crate::upstream::stdio::mux::probe::Revisions;
use crate::upstream::stdio::mux::shared_process::SharedProcess;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::child::Child;
use crate::upstream::stdio::process::environment::Launch;
use crate::upstream::stdio::process::launcher::Limits;
use crate::upstream::stdio::session::Session;
use crate::upstream::stdio::waiting::{TimedMutex, WaitList};

/// Holds all processes and sessions and enforces their limits.
pub(crate) struct ProcessManager {
    pub(super) login: Arc<Login>,
    pub(super) config: StdioConfig,
    pub(super) launch: Launch,
    pub(super) state: Mutex<State>,
    /// What a reload of the servers file can change.
    pub(super) limits: RwLock<ProcessLimits>,
    /// Number of processes that were told to end and still hold a slot.
    pub(super) leaving: AtomicUsize,
    pub(super) has_room: WaitList,
    /// Locked while one request probes which MCP revisions the server supports.
    pub(super) probing: TimedMutex<()>,
    pub(super) me: Weak<ProcessManager>,
}

#[derive(Default)]
pub(crate) struct State {
    /// Number of processes, including those that are starting or ending.
    pub(crate) children: usize,
    /// Number of callers that wait for a free process slot.
    pub(super) waiting: usize,
    pub(super) spares: Vec<WarmProcess>,
    pub(super) sessions: HashMap<String, Arc<Session>>,
    /// All sessions with their last use, including those without a process and those that are only in the store.
    pub(crate) known: HashMap<String, Known>,
    /// Shared processes. In shared mode there are at most two, with the keys `shared` (older revisions) and `modern`, and
    /// all clients use them. In the other mode there is at most one per owner, for the modern revisions only, with the key
    /// `modern` and the digest of the owner.
    pub(super) shared: HashMap<String, Arc<SharedEntry>>,
    /// The MCP revisions that the server supports, and when this cached probe result expires.
    pub(super) revisions: Option<(Revisions, Instant)>,
    pub(super) is_ending: bool,
    /// What the server says about itself, if it has been asked at the start.
    pub(crate) about: Option<String>,
    /// It did not answer, or could not be started, the last time.
    pub(crate) is_down: bool,
}

pub(crate) struct Known {
    pub(super) user: UserId,
    pub(super) used: Timestamp,
    pub(super) saved: Timestamp,
}

/// The entry of one shared process. It exists before the process is started.
#[derive(Default)]
pub(crate) struct SharedEntry {
    /// The user it belongs to; `None` if all users share it.
    pub(super) user: Option<UserId>,
    pub(super) state: TimedMutex<SharedState>,
}

/// A shared process, and the crash history that may delay its next start.
#[derive(Default)]
pub(crate) struct SharedState {
    pub(super) child: Option<Arc<SharedProcess>>,
    /// Number of consecutive crashes shortly after the start.
    pub(super) crashes: u32,
    pub(super) not_before: Option<Instant>,
}

/// A process that is ready before anybody needs it.
pub(crate) struct WarmProcess {
    pub(super) owner: Option<Owner>,
    /// Calls the check at the start off when it is dropped, which is before the process ends.
    pub(super) _check: Option<Box<dyn Send>>,
    pub(super) child: Child,
}

impl ProcessManager {
    pub(crate) fn new(config: StdioConfig, login: Arc<Login>) -> Result<Arc<ProcessManager>, String> {
        let (program, arguments) = config.command.split_first().ok_or("there is no command to run")?;
        let launch = Launch {
            server: config.server.clone(),
            program: program.clone(),
            arguments: arguments.to_vec(),
            env: config.env.clone(),
            cwd: config.cwd.clone(),
            own_variables: config.own_variables.clone(),
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
                if !config.has_session(row.server.as_deref()) {
                    return;
                }
                let used = row.expires_at.saturating_sub(lifetime);
                known.insert(name.to_string(), Known { user: row.user, used, saved: used });
            })
            .map_err(|e| format!("the state can't be read: {e}"))?;
        Ok(Arc::new_cyclic(|me| ProcessManager {
            limits: RwLock::new(config.limits()),
            login,
            config,
            launch,
            state: Mutex::new(State { known, ..State::default() }),
            leaving: AtomicUsize::new(0),
            has_room: WaitList::default(),
            probing: TimedMutex::default(),
            me: me.clone(),
        }))
    }

    pub(crate) fn limits(&self) -> ProcessLimits {
        *self.limits.read().unpoisoned()
    }

    /// Changes the limits. Processes that are too many stay until they end by themselves.
    pub(crate) fn set_limits(&self, limits: ProcessLimits) {
        *self.limits.write().unpoisoned() = limits;
        self.has_room.wake();
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}
