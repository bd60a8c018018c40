//! All processes and sessions, under one lock.

use crate::lock::Unpoisoned;
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use crate::clock::Timestamp;
use crate::identity::UserId;
use crate::login::Login;
use crate::store::rows::McpSession;
use crate::upstream::stdio::config::StdioConfig;
use crate::upstream::stdio::mux::probe::Revisions;
use crate::upstream::stdio::mux::shared_process::SharedProcess;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::child::Child;
use crate::upstream::stdio::process::environment::Launch;
use crate::upstream::stdio::process::launcher::Limits;
use crate::upstream::stdio::session::Session;
use crate::upstream::stdio::waiting::{TimedMutex, WaitList};

/// Everything that runs, and the bounds on it.
pub(crate) struct ProcessManager {
    pub(super) login: Arc<Login>,
    pub(super) config: StdioConfig,
    pub(super) launch: Launch,
    pub(super) state: Mutex<State>,
    /// Children that have been told to end.
    pub(super) leaving: AtomicUsize,
    pub(super) has_room: WaitList,
    /// Held while a child is asked which revisions it knows.
    pub(super) probing: TimedMutex<()>,
    pub(super) me: Weak<ProcessManager>,
}

#[derive(Default)]
pub(crate) struct State {
    /// Processes, those that are about to end included.
    pub(super) children: usize,
    /// Newcomers that wait for room.
    pub(super) waiting: usize,
    pub(super) spares: Vec<WarmProcess>,
    pub(super) sessions: HashMap<String, Arc<Session>>,
    /// All sessions that there are, those without a child included, and when they were last used.
    pub(super) known: HashMap<String, Known>,
    /// Children of several clients: of an owner's for the modern revisions, of everyone for shared mode.
    pub(super) shared: HashMap<String, Arc<SharedEntry>>,
    /// Which revisions the server knows, and until when that is believed.
    pub(super) revisions: Option<(Revisions, Instant)>,
    pub(super) is_ending: bool,
}

pub(crate) struct Known {
    pub(super) user: UserId,
    pub(super) used: Timestamp,
    pub(super) saved: Timestamp,
}

/// Where a shared child is, or is going to be.
#[derive(Default)]
pub(crate) struct SharedEntry {
    /// Whose it is; `None` for everyone's.
    pub(super) user: Option<UserId>,
    pub(super) state: TimedMutex<SharedState>,
}

/// A shared process, or why there is none.
#[derive(Default)]
pub(crate) struct SharedState {
    pub(super) child: Option<Arc<SharedProcess>>,
    /// How often in a row it ended as soon as it was started.
    pub(super) crashes: u32,
    pub(super) not_before: Option<Instant>,
}

/// A process that is ready before anybody needs it.
pub(crate) struct WarmProcess {
    pub(super) owner: Option<Owner>,
    pub(super) child: Child,
}

impl ProcessManager {
    pub(crate) fn new(config: StdioConfig, login: Arc<Login>) -> Result<Arc<ProcessManager>, String> {
        let (program, arguments) = config.command.split_first().ok_or("there is no command to run")?;
        let launch = Launch {
            program: program.clone(),
            arguments: arguments.to_vec(),
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
                let used = row.expires_at.saturating_sub(lifetime);
                known.insert(name.to_string(), Known { user: row.user, used, saved: used });
            })
            .map_err(|e| format!("the state can't be read: {e}"))?;
        Ok(Arc::new_cyclic(|me| ProcessManager {
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

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}
