//! The supervisor: a process of this same binary between the proxy and one MCP server. It is a child subreaper, so
//! every process that the server starts stays its descendant, even after leaving the process group or losing its
//! parent. It ends all of them when the proxy asks for it, and also when the proxy dies, even by `kill -9`.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, setsid, wait,
};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::launcher;
use super::self_exec::{OWN_USE, own_program};

/// The subcommand that runs this binary as a supervisor.
pub const COMMAND: &str = "stdio-supervisor";
/// How long a server may take to end after its stdin was closed, and again after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// How long descendants may take to exit after SIGTERM, once the server itself has exited.
const LAST_GRACE: Duration = Duration::from_secs(1);
/// How long SIGKILL is repeated, in case processes fork faster than they are killed.
const CHASE: Duration = Duration::from_secs(5);
/// Pause between two rounds of SIGKILL.
const ROUND: Duration = Duration::from_millis(5);
/// Upper bound for the whole shutdown of a server; after that, the proxy kills the supervisor.
pub(crate) const LONGEST_END: Duration = Duration::from_secs(12);
/// Sends the server's stdin (`SCM_RIGHTS`) to the supervisor at the other end of `control`, which then starts the
/// server.
pub(crate) fn begin(control: &UnixStream, stdin: OwnedFd) -> io::Result<()> {
    let fds = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(control, &[IoSlice::new(&[0])], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_stdin(control: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    recvmsg(control, &mut [IoSliceMut::new(&mut [0])], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let found = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Runs as a supervisor until the server and all of its descendants have exited, or SIGKILL was repeated for `CHASE`.
/// Returns the server's exit code.
pub fn run(words: &[OsString]) -> Result<u8, String> {
    let [uid, gid, words @ ..] = words else { return Err(OWN_USE.into()) };
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
    // Does nothing on these signals, since the proxy decides when to stop: Ctrl-C and `systemctl stop` reach this
    // process too.
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        let ignored = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal, ignored).map_err(|e| failed("signals can't be handled", &e))?;
    }
    let (child_ended, noted) = UnixStream::pair().map_err(|e| failed("no socket could be made", &e))?;
    child_ended.set_nonblocking(true).map_err(|e| failed("no socket could be made", &e))?;
    signal_hook::low_level::pipe::register(SIGCHLD, noted).map_err(|e| failed("signals can't be handled", &e))?;
    setsid().map_err(|e| failed("the supervisor can't have a session of its own", &e))?;
    // Otherwise an orphaned process would be reparented away, and the supervisor could not find it any more.
    set_child_subreaper(Some(getpid())).map_err(|e| failed("the supervisor can't keep processes together", &e))?;
    let control = io::stdin();
    // On an error the proxy is gone, and no server has been started.
    let Ok(stdin) = receive_stdin(control.as_fd()) else { return Ok(0) };

    let mut command = Command::new(own_program());
    command.arg(launcher::COMMAND).args(words).stdin(Stdio::from(stdin));
    if let (Some(uid), Some(gid)) = (id(uid), id(gid)) {
        command.uid(uid).gid(gid);
    }
    let server = command.spawn().map_err(|e| failed("the MCP server can't be started", &e))?;
    let server = Pid::from_child(&server);
    let _ = rustix::io::write(control.as_fd(), &server.as_raw_pid().to_ne_bytes());
    // Drop this process's copies of the server's stdout and stderr, so that the proxy sees EOF when the server closes
    // them.
    let (_, nowhere) = io::pipe().map_err(|e| failed("no pipe could be made", &e))?;
    let _ = (dup2_stdout(&nowhere), dup2_stderr(&nowhere));
    Ok(Supervisor { server, code: None, phase: Phase::Runs, is_told: false }.run(control.as_fd(), &child_ended))
}

fn id(word: &OsStr) -> Option<u32> {
    word.to_str()?.parse().ok()
}

/// Stage of the server's shutdown, with the time when the next step is due.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Runs,
    /// The server's stdin is closed; SIGTERM comes next.
    Closed(Instant),
    /// The server got SIGTERM; SIGKILL comes next.
    Terminated(Instant),
    /// The server has exited and its remaining descendants got SIGTERM; SIGKILL comes next.
    Left(Instant),
    /// Every descendant found gets SIGKILL, again and again until this time.
    Killed(Instant),
}

struct Supervisor {
    server: Pid,
    /// The server's exit code once it has exited; 128 + N if signal N killed it.
    code: Option<u8>,
    phase: Phase,
    /// The proxy has closed the control socket: it asks for the shutdown, or is gone.
    is_told: bool,
}

impl Supervisor {
    fn run(mut self, control: impl AsFd, mut child_ended: &UnixStream) -> u8 {
        loop {
            if !self.bury() {
                return self.code.unwrap_or(1);
            }
            if !self.go_on() {
                return self.code.unwrap_or(1);
            }
            let mut fds = vec![PollFd::new(&child_ended, PollFlags::IN)];
            if !self.is_told {
                fds.push(PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN));
            }
            let patience = self.patience().map(crate::net::poll::timespec);
            if poll(&mut fds, patience.as_ref()).is_err() {
                continue;
            }
            // The proxy sends nothing more on this socket, so any event means that it was closed.
            self.is_told |= fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
            let _ = child_ended.read(&mut [0; 64]);
        }
    }

    /// Reaps the children that have exited; false when no children are left.
    fn bury(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.server => {
                    let code = status.exit_status().or(status.terminating_signal().map(|s| 128 + s));
                    self.code = Some(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Takes the shutdown steps that are due; false when the time for SIGKILL is over.
    fn go_on(&mut self) -> bool {
        let now = Instant::now();
        if self.code.is_some() && !matches!(self.phase, Phase::Left(_) | Phase::Killed(_)) {
            send_to_descendants(Signal::TERM);
            self.phase = Phase::Left(now + LAST_GRACE);
        }
        match self.phase {
            Phase::Runs if self.is_told => self.phase = Phase::Closed(now + GRACE),
            Phase::Closed(due) if now >= due => {
                let _ = kill_process_group(self.server, Signal::TERM);
                self.phase = Phase::Terminated(now + GRACE);
            }
            Phase::Terminated(due) | Phase::Left(due) if now >= due => self.phase = Phase::Killed(now + CHASE),
            _ => {}
        }
        if let Phase::Killed(until) = self.phase {
            // The process id cannot be reused before the process is reaped.
            if self.code.is_none() {
                let _ = kill_process_group(self.server, Signal::KILL);
            }
            send_to_descendants(Signal::KILL);
            return now < until;
        }
        true
    }

    /// Timeout for `poll`: how long until the next step is due; `None` to wait for an event only.
    fn patience(&self) -> Option<Duration> {
        match self.phase {
            Phase::Runs => None,
            Phase::Closed(due) | Phase::Terminated(due) | Phase::Left(due) => {
                Some(due.saturating_duration_since(Instant::now()))
            }
            Phase::Killed(_) => Some(ROUND),
        }
    }
}

fn send_to_descendants(signal: Signal) {
    for pid in descendants() {
        // The process may have exited meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// All descendants of this process, breadth first.
fn descendants() -> Vec<Pid> {
    let mut found = children(getpid());
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        found.extend(children(pid));
        at += 1;
    }
    found
}

/// The children of a process. The kernel lists them for each thread, so this reads the lists of all its threads.
fn children(pid: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|l| l.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)).collect::<Vec<_>>())
        .collect()
}
