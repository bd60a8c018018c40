//! One child process: how it is started, what it is sent, and who hears what it says.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use super::launcher::{Limits, own_program};
use super::lines::TooLong;
use super::pump::{Process, Pump};
use super::supervisor;
use super::users::RunAs;
use super::{Account, Slot};
use crate::flags::FLAGS;
use crate::wake::Waker;

/// Stack of a child's thread.
const STACK: usize = 256 << 10;

/// Bytes that a line takes besides its text.
pub(super) const OVERHEAD: usize = 64;

/// How children are started.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    /// Under whom they run, if not under whom the proxy does.
    pub(super) user: Option<RunAs>,
    pub(super) limits: Limits,
    /// Longest line, and most bytes that may wait for a child to read them.
    pub(super) buffer: usize,
}

/// Hears what a child says.
pub(super) trait Listener: Send + Sync {
    /// It wrote a line. Called on the child's thread: must not wait for a client.
    fn line(&self, line: Vec<u8>);

    /// It wrote a line that can't be held.
    fn long_line(&self, line: &TooLong);

    /// It has ended, so long after its start.
    fn ended(&self, lived: Duration);

    /// Whom it works for, in the log.
    fn name(&self) -> String;
}

/// The child does not read what it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A running child. Dropping it ends the process in order.
pub(super) struct Child {
    shared: Arc<Shared>,
    /// Kept until the process has ended, by its thread.
    slot: Weak<Slot>,
}

pub(super) struct Shared {
    pub(super) pid: AtomicU32,
    pub(super) inbox: Mutex<Inbox>,
    pub(super) waker: Waker,
    pub(super) room: usize,
}

pub(super) struct Inbox {
    pub(super) lines: VecDeque<Vec<u8>>,
    /// Bytes of the first line that have been written.
    pub(super) sent: usize,
    /// What all lines take together, [`OVERHEAD`] each included.
    pub(super) bytes: usize,
    pub(super) is_ending: bool,
    pub(super) has_ended: bool,
    pub(super) listener: Arc<dyn Listener>,
    /// Lines that others hear as if it had written them.
    pub(super) own_words: Vec<(Arc<dyn Listener>, Vec<u8>)>,
}

impl Child {
    /// Starts a child for `account`; `listener` hears what it says, and `slot` is kept until it has ended.
    pub(super) fn start(
        launch: &Launch,
        account: Option<&Account>,
        listener: Arc<dyn Listener>,
        slot: Arc<Slot>,
    ) -> io::Result<Child> {
        let (control, theirs) = UnixStream::pair()?;
        let (to_read, stdin) = io::pipe()?;
        let waker = Waker::new()?;
        let process = Process(command(launch, account).stdin(OwnedFd::from(theirs)).spawn()?);
        let inbox = Inbox {
            lines: VecDeque::new(),
            sent: 0,
            bytes: 0,
            is_ending: false,
            has_ended: false,
            listener,
            own_words: Vec::new(),
        };
        let pid = AtomicU32::new(process.0.id());
        let shared = Arc::new(Shared { pid, inbox: Mutex::new(inbox), waker, room: launch.buffer });
        let child = Child { shared: shared.clone(), slot: Arc::downgrade(&slot) };
        let pump = Pump::new(shared, process, control, stdin, slot)?;
        // The server begins when everything is there that it takes to end it.
        let begin = move || pump.run(to_read.into());
        std::thread::Builder::new().name("child".into()).stack_size(STACK).spawn(begin)?;
        Ok(child)
    }

    /// The server's process id, or its supervisor's as long as that has not told it.
    pub(super) fn pid(&self) -> u32 {
        self.shared.pid()
    }

    /// Sends it a line. Nothing waits here: a child that does not read fills its inbox, and then this fails.
    pub(super) fn send(&self, mut line: Vec<u8>) -> Result<(), Full> {
        let mut inbox = self.shared.inbox();
        line.push(b'\n');
        let size = line.len() + OVERHEAD;
        if inbox.bytes + size > self.shared.room {
            return Err(Full);
        }
        inbox.bytes += size;
        inbox.lines.push_back(line);
        drop(inbox);
        self.shared.waker.wake();
        Ok(())
    }

    /// Has `listener` hear `line` on the child's thread, where no lock is held.
    pub(super) fn deliver(&self, listener: Arc<dyn Listener>, line: Vec<u8>) {
        self.shared.inbox().own_words.push((listener, line));
        self.shared.waker.wake();
    }

    /// Has another hear what it says from now on; false when it has nothing to say any more.
    pub(super) fn hand_over(&self, listener: Arc<dyn Listener>) -> bool {
        let mut inbox = self.shared.inbox();
        inbox.listener = listener;
        !inbox.has_ended
    }

    pub(super) fn has_ended(&self) -> bool {
        self.shared.inbox().has_ended
    }

    /// Ends it in order: its stdin is closed, then comes SIGTERM, then SIGKILL, for all that it has started.
    pub(super) fn end(&self) {
        self.shared.inbox().is_ending = true;
        self.shared.waker.wake();
        if let Some(slot) = self.slot.upgrade() {
            slot.leave();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn listener(&self) -> Arc<dyn Listener> {
        self.inbox().listener.clone()
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }
}

/// Variables that name a proxy on the way out with a password in it: that is the operator's, and a server that needs one
/// can be given one of its own.
pub(super) fn proxies_with_credentials() -> Vec<String> {
    let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy") && !name.eq_ignore_ascii_case("no_proxy");
    let has_credentials = |value: &str| {
        let authority = value.split_once("://").map_or(value, |(_, rest)| rest);
        authority.split('/').next().unwrap_or_default().contains('@')
    };
    let all = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    all.filter(|(name, value)| is_proxy(name) && has_credentials(&value.to_string_lossy()))
        .map(|(name, _)| name)
        .collect()
}

/// The supervisor with the server's command line; its environment has nothing of the proxy's own.
fn command(launch: &Launch, account: Option<&Account>) -> Command {
    let mut command = Command::new(own_program());
    let ids = launch.user.as_ref().map(|u| [u.uid, u.gid]);
    let word = |i: usize| ids.map_or_else(|| supervisor::NONE.to_string(), |ids| ids[i].to_string());
    command.args([supervisor::COMMAND, &word(0), &word(1)]).args(launch.limits.words());
    command.arg(&launch.program).args(&launch.arguments);
    for flag in FLAGS {
        command.env_remove(flag.env).env_remove(format!("{}_FILE", flag.env));
    }
    for name in proxies_with_credentials() {
        command.env_remove(name);
    }
    let person = account.and_then(|a| a.person.as_ref());
    let told = [
        ("MCP_AUTH_USER", account.map(|a| a.user.to_string())),
        ("MCP_AUTH_EMAIL", account.and_then(|a| a.email.clone())),
        ("MCP_AUTH_CLIENT", account.map(|a| a.client.to_string())),
        ("MCP_AUTH_PROVIDER", person.map(|p| p.provider.to_string())),
        ("MCP_AUTH_NAME", person.and_then(|p| p.profile.name.clone())),
        ("MCP_AUTH_GROUPS", person.map(|p| p.profile.group_list()).filter(|g| !g.is_empty())),
    ];
    // What no environment can hold is left out.
    let told = told.map(|(name, value)| (name, value.filter(|v| !v.contains('\0'))));
    for (name, value) in told {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(user) = &launch.user {
        match &user.home {
            Some(home) => command.env("HOME", home),
            None => command.env_remove("HOME"),
        };
        match &user.name {
            Some(name) => command.env("USER", name).env("LOGNAME", name),
            None => command.env_remove("USER").env_remove("LOGNAME"),
        };
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
