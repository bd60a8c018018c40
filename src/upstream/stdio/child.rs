//! One child process and the thread that talks to it: lines in, lines out, its words on stderr into the log, and an
//! orderly end for it and everything that it started.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};

use super::Account;
use super::bell::Bell;
use super::keeper::Keeper;
use super::launcher::{self, Limits, own_program};
use super::lines::{Lines, TooLong};
use super::users::RunAs;
use crate::flags::FLAGS;

/// How long a child may take to end after its stdin was closed, and again after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// How long what a child leaves behind may take.
const LAST_GRACE: Duration = Duration::from_secs(1);
/// Where the system can't tell when a process ends, it is asked so often.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Stack of a child's thread.
const STACK: usize = 256 << 10;
/// Bytes read at a time.
const STEP: usize = 64 << 10;
/// Longest line of stderr that is logged whole.
const MAX_WORDS: usize = 4 << 10;
/// Lines of stderr that are remembered for the moment when the child fails.
const LAST_WORDS: usize = 10;

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
    fn long_line(&self, limit: usize);

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
}

struct Shared {
    pid: u32,
    inbox: Mutex<Inbox>,
    bell: Bell,
    room: usize,
}

struct Inbox {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the first line that have been written.
    sent: usize,
    /// Bytes of all lines.
    bytes: usize,
    is_ending: bool,
    has_ended: bool,
    listener: Arc<dyn Listener>,
}

impl Child {
    /// Starts a child for `account`; `listener` hears what it says, and `slot` is kept until it has ended.
    pub(super) fn start(
        launch: &Launch,
        account: Option<&Account>,
        keeper: &Arc<Keeper>,
        listener: Arc<dyn Listener>,
        slot: Box<dyn Send>,
    ) -> io::Result<Child> {
        let mut process = command(launch, account).spawn()?;
        let pid = process.id();
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let group = Pid::from_child(&process);
        let inbox = Inbox { lines: VecDeque::new(), sent: 0, bytes: 0, is_ending: false, has_ended: false, listener };
        let shared = Arc::new(Shared { pid, inbox: Mutex::new(inbox), bell: Bell::new()?, room: launch.buffer });
        for pipe in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            ioctl_fionbio(pipe, true)?;
        }
        keeper.add(pid);
        // Before this the process does nothing, and without it it ends: none escapes the keeper.
        stdin.write_all(&[launcher::GO])?;
        let pump = Pump {
            shared: shared.clone(),
            process,
            group,
            exit: pidfd_open(group, PidfdFlags::empty()).ok(),
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            lines: Lines::new(launch.buffer),
            words: Lines::new(MAX_WORDS),
            last_words: VecDeque::new(),
            keeper: keeper.clone(),
            started: Instant::now(),
            phase: Phase::Runs,
            _slot: slot,
        };
        std::thread::Builder::new().name("child".into()).stack_size(STACK).spawn(move || pump.run())?;
        Ok(Child { shared })
    }

    /// Its process id, which is also that of its group.
    pub(super) fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// Sends it a line. Nothing waits here: a child that does not read fills its inbox, and then this fails.
    pub(super) fn send(&self, mut line: Vec<u8>) -> Result<(), Full> {
        let mut inbox = self.shared.inbox();
        if inbox.bytes + line.len() > self.shared.room {
            return Err(Full);
        }
        line.push(b'\n');
        inbox.bytes += line.len();
        inbox.lines.push_back(line);
        drop(inbox);
        self.shared.bell.ring();
        Ok(())
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

    /// Ends it in order: its stdin is closed, then comes SIGTERM, then SIGKILL, for its whole group.
    pub(super) fn end(&self) {
        self.shared.inbox().is_ending = true;
        self.shared.bell.ring();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn listener(&self) -> Arc<dyn Listener> {
        self.inbox().listener.clone()
    }
}

/// The launcher with the server's command line; its environment has nothing of the proxy's own.
fn command(launch: &Launch, account: Option<&Account>) -> Command {
    let mut command = Command::new(own_program());
    command.arg(launcher::COMMAND).args(launch.limits.words()).arg(&launch.program).args(&launch.arguments);
    for flag in FLAGS {
        command.env_remove(flag.env).env_remove(format!("{}_FILE", flag.env));
    }
    let told = [
        ("MCP_AUTH_USER", account.map(|a| a.user.to_string())),
        ("MCP_AUTH_EMAIL", account.and_then(|a| a.email.clone())),
        ("MCP_AUTH_CLIENT", account.map(|a| a.client.to_string())),
    ];
    for (name, value) in told {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(user) = &launch.user {
        command.uid(user.uid).gid(user.gid);
        if let Some(home) = &user.home {
            command.env("HOME", home);
        }
        if let Some(name) = &user.name {
            command.env("USER", name).env("LOGNAME", name);
        }
    }
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How far the child's end has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Runs,
    /// Its stdin is closed; next comes SIGTERM.
    Closed(Instant),
    /// It got SIGTERM; next comes SIGKILL.
    Terminated(Instant),
    Killed,
    /// It has ended; what it left behind has until then.
    Ended(Instant),
}

/// The child's thread.
struct Pump {
    shared: Arc<Shared>,
    process: std::process::Child,
    group: Pid,
    /// Readable when the process has ended.
    exit: Option<OwnedFd>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    lines: Lines,
    words: Lines,
    last_words: VecDeque<String>,
    keeper: Arc<Keeper>,
    started: Instant,
    phase: Phase,
    _slot: Box<dyn Send>,
}

/// What a child's thread waits for.
#[derive(Clone, Copy, PartialEq)]
enum Event {
    Bell,
    Stdin,
    Stdout,
    Stderr,
    Exit,
}

impl Pump {
    fn run(mut self) {
        while !self.is_over() {
            for event in self.wait() {
                match event {
                    Event::Bell => self.shared.bell.clear(),
                    Event::Stdin => self.write(),
                    Event::Stdout => self.read_stdout(),
                    Event::Stderr => self.read_stderr(),
                    Event::Exit => {}
                }
            }
            self.go_on();
        }
        self.bury();
    }

    /// Ended, and nothing of it writes any more, or its last grace is over.
    fn is_over(&self) -> bool {
        match self.phase {
            Phase::Ended(until) => (self.stdout.is_none() && self.stderr.is_none()) || Instant::now() >= until,
            _ => false,
        }
    }

    fn wait(&self) -> Vec<Event> {
        let (input, output) = (PollFlags::IN, PollFlags::OUT);
        let has_lines = !self.shared.inbox().lines.is_empty();
        let has_ended = matches!(self.phase, Phase::Ended(_));
        let watched = [
            (Event::Bell, Some(self.shared.bell.as_fd()), input),
            (Event::Stdin, self.stdin.as_ref().filter(|_| has_lines).map(AsFd::as_fd), output),
            (Event::Stdout, self.stdout.as_ref().map(AsFd::as_fd), input),
            (Event::Stderr, self.stderr.as_ref().map(AsFd::as_fd), input),
            (Event::Exit, self.exit.as_ref().filter(|_| !has_ended).map(AsFd::as_fd), input),
        ];
        let watched: Vec<_> = watched.into_iter().filter_map(|(event, fd, flags)| Some((event, fd?, flags))).collect();
        let mut fds: Vec<_> = watched.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.patience().map(crate::net::timespec);
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = watched.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((event, ..), _)| *event).collect()
    }

    /// Until something has to be done though nothing happens.
    fn patience(&self) -> Option<Duration> {
        let due = match self.phase {
            Phase::Runs | Phase::Killed => None,
            Phase::Closed(due) | Phase::Terminated(due) | Phase::Ended(due) => Some(due),
        };
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        match &self.exit {
            Some(_) => left,
            None => Some(left.map_or(ASK_EVERY, |left| left.min(ASK_EVERY))),
        }
    }

    fn write(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        let mut inbox = self.shared.inbox();
        while let Some(line) = inbox.lines.front() {
            match stdin.write(&line[inbox.sent..]) {
                Ok(n) if inbox.sent + n == line.len() => {
                    inbox.bytes -= line.len();
                    inbox.lines.pop_front();
                    inbox.sent = 0;
                }
                Ok(n) => inbox.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // It closed its stdin, and takes nothing any more.
                Err(_) => {
                    inbox.lines.clear();
                    inbox.bytes = usize::MAX / 2;
                    drop(inbox);
                    self.stdin = None;
                    return;
                }
            }
        }
    }

    fn read_stdout(&mut self) {
        let listener = self.shared.listener();
        let mut take = |line: Result<Vec<u8>, TooLong>| match line {
            Ok(line) => listener.line(line),
            Err(TooLong(limit)) => {
                log::error!(pid = self.shared.pid, bytes = limit; "the MCP server wrote a line longer than --stdio-buffer (STDIO_BUFFER); it is lost");
                listener.long_line(limit);
            }
        };
        if read(&mut self.stdout, |bytes| self.lines.add(bytes, &mut take)) {
            self.lines.finish(&mut take);
        }
    }

    fn read_stderr(&mut self) {
        let mut lines = Vec::new();
        let mut take = |line: Result<Vec<u8>, TooLong>| match line {
            Ok(line) => lines.push(String::from_utf8_lossy(&line).into_owned()),
            Err(_) => lines.push("(a line too long to be shown)".into()),
        };
        if read(&mut self.stderr, |bytes| self.words.add(bytes, &mut take)) {
            self.words.finish(&mut take);
        }
        let name = self.shared.listener().name();
        for line in lines {
            log::info!(session = name.as_str(), pid = self.shared.pid; "stderr: {line}");
            self.last_words.truncate(LAST_WORDS - 1);
            self.last_words.push_front(line);
        }
    }

    /// Takes the steps of the child's end that are due.
    fn go_on(&mut self) {
        let now = Instant::now();
        if !matches!(self.phase, Phase::Ended(_)) && self.has_exited() {
            self.stdin = None;
            // Its children learn it too.
            let _ = kill_process_group(self.group, Signal::TERM);
            self.phase = Phase::Ended(now + LAST_GRACE);
            return;
        }
        match self.phase {
            Phase::Runs if self.shared.inbox().is_ending => {
                self.stdin = None;
                self.phase = Phase::Closed(now + GRACE);
            }
            Phase::Closed(due) if now >= due => {
                let _ = kill_process_group(self.group, Signal::TERM);
                self.phase = Phase::Terminated(now + GRACE);
            }
            Phase::Terminated(due) if now >= due => {
                let _ = kill_process_group(self.group, Signal::KILL);
                self.phase = Phase::Killed;
            }
            _ => {}
        }
    }

    /// Asks without letting go of the process id: the group still needs it.
    fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(self.group), options), Ok(None))
    }

    fn bury(mut self) {
        let _ = kill_process_group(self.group, Signal::KILL);
        self.keeper.remove(self.shared.pid);
        let how = self.process.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        let (listener, was_asked) = {
            let mut inbox = self.shared.inbox();
            inbox.has_ended = true;
            (inbox.listener.clone(), inbox.is_ending)
        };
        let name = listener.name();
        if was_asked {
            log::debug!(session = name.as_str(), pid = self.shared.pid, how = how.as_str(); "the MCP server has ended");
        } else {
            let last_words: Vec<String> = self.last_words.drain(..).rev().collect();
            log::warn!(session = name.as_str(), pid = self.shared.pid, how = how.as_str(), stderr = last_words.join("\n").as_str(); "the MCP server has ended by itself");
        }
        listener.ended(self.started.elapsed());
    }
}

/// Reads what is there; true at the end of the pipe, which is closed then.
fn read<P: Read>(pipe: &mut Option<P>, mut add: impl FnMut(&[u8])) -> bool {
    let Some(open) = pipe else { return false };
    let mut buffer = vec![0; STEP];
    loop {
        match open.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                add(&buffer[..n]);
                if n < buffer.len() {
                    return false;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    *pipe = None;
    true
}
