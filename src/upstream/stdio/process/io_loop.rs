//! The I/O thread of one child: writes to its stdin, reads its stdout, logs its stderr, and ends it.

use std::collections::VecDeque;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdout, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open, waitid,
};

use super::inbox::{OVERHEAD, Shared, Slot};
use super::lines::{Lines, TooLong};
use super::supervisor;
use crate::observe::metrics::{self, UpstreamError};
use crate::observe::quota::Quota;

/// How long to read what is left of stdout and stderr after the child has exited.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);
/// How often to check whether the process has exited, if there is no pidfd.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Bytes read at a time.
const STEP: usize = 64 << 10;
/// Longest line of stderr that is logged, in bytes. Of a longer one, only the fact is logged.
const MAX_WORDS: usize = 4 << 10;
/// Rate limit for logging stderr: lines in a burst, and lines per second.
const WORDS_AT_ONCE: u32 = 1_000;
const WORDS_PER_SECOND: u32 = 100;
/// Lines of stderr that are kept for the log message if the child exits unexpectedly.
const LAST_WORDS: usize = 10;

/// Stage of the child's shutdown.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Runs,
    /// Its stdin and control socket are closed, so the supervisor ends it. If the supervisor still runs at this time,
    /// it gets SIGKILL.
    Ending(Instant),
    /// The supervisor got SIGKILL.
    Killed,
    /// The child has exited; the rest of its output is read until this time.
    Ended(Instant),
}

/// A supervisor process. If it still runs on drop, it is killed and reaped.
pub(crate) struct Process(pub(super) std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Only a supervisor that never got to start its server still runs here.
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The state of a child's I/O thread.
pub(crate) struct IoLoop {
    shared: Arc<Shared>,
    process: Process,
    supervisor: Pid,
    /// The supervisor's pidfd, readable when it has exited; `None` if the system has no pidfd.
    exit: Option<OwnedFd>,
    /// The control socket; closing it makes the supervisor end the server.
    control: Option<UnixStream>,
    /// The server's process id, which is also its process group id, once the supervisor has reported it.
    server: Option<Pid>,
    stdin: Option<PipeWriter>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    buffer: Vec<u8>,
    lines: Lines,
    words: Lines,
    words_quota: Quota,
    last_words: VecDeque<String>,
    started: Instant,
    phase: Phase,
    /// Held until the process has exited.
    _slot: Arc<dyn Slot>,
}

/// What the I/O thread waits for.
#[derive(Clone, Copy, PartialEq)]
enum Event {
    Control,
    Woken,
    Stdin,
    Stdout,
    Stderr,
    Exit,
}

impl IoLoop {
    /// For a supervisor that has been started but has not got the server's stdin yet.
    pub(crate) fn new(
        shared: Arc<Shared>,
        process: Process,
        control: UnixStream,
        stdin: PipeWriter,
        slot: Arc<dyn Slot>,
    ) -> io::Result<IoLoop> {
        let mut process = process;
        let pipes = (process.0.stdout.take(), process.0.stderr.take());
        let (Some(stdout), Some(stderr)) = pipes else { return Err(io::ErrorKind::BrokenPipe.into()) };
        for pipe in [stdout.as_fd(), stderr.as_fd(), stdin.as_fd(), control.as_fd()] {
            ioctl_fionbio(pipe, true)?;
        }
        let supervisor = Pid::from_child(&process.0);
        let room = shared.room;
        Ok(IoLoop {
            shared,
            process,
            supervisor,
            exit: pidfd_open(supervisor, PidfdFlags::empty()).ok(),
            control: Some(control),
            server: None,
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            buffer: vec![0; STEP],
            lines: Lines::new(room),
            words: Lines::new(MAX_WORDS),
            words_quota: Quota::new(WORDS_AT_ONCE, WORDS_PER_SECOND),
            last_words: VecDeque::new(),
            started: Instant::now(),
            phase: Phase::Runs,
            _slot: slot,
        })
    }

    pub(crate) fn run(mut self, stdin: OwnedFd) {
        if let Some(control) = &self.control
            && let Err(e) = supervisor::begin(control, stdin)
        {
            log::error!(server = self.shared.server.as_str(), error:% = e; "the MCP server can't be started");
            self.control = None;
        }
        while !self.is_over() {
            for event in self.wait() {
                match event {
                    Event::Control => self.read_control(),
                    Event::Woken => self.on_wake(),
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

    /// Has the child exited, and is its output closed or the time to read it over?
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
        let is_expected = self.server.is_none();
        let watched = [
            (Event::Control, self.control.as_ref().filter(|_| is_expected).map(AsFd::as_fd), input),
            (Event::Woken, Some(self.shared.waker.as_fd()), input),
            (Event::Stdin, self.stdin.as_ref().filter(|_| has_lines).map(AsFd::as_fd), output),
            (Event::Stdout, self.stdout.as_ref().map(AsFd::as_fd), input),
            (Event::Stderr, self.stderr.as_ref().map(AsFd::as_fd), input),
            (Event::Exit, self.exit.as_ref().filter(|_| !has_ended).map(AsFd::as_fd), input),
        ];
        let watched: Vec<_> = watched.into_iter().filter_map(|(event, fd, flags)| Some((event, fd?, flags))).collect();
        let mut fds: Vec<_> = watched.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.patience().map(crate::net::poll::timespec);
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = watched.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((event, ..), _)| *event).collect()
    }

    /// Timeout for `poll`: how long until the next step is due; `None` to wait for an event only.
    fn patience(&self) -> Option<Duration> {
        let due = match self.phase {
            Phase::Runs | Phase::Killed => None,
            Phase::Ending(due) | Phase::Ended(due) => Some(due),
        };
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        match &self.exit {
            Some(_) => left,
            None => Some(left.map_or(ASK_EVERY, |left| left.min(ASK_EVERY))),
        }
    }

    fn on_wake(&self) {
        self.shared.waker.clear();
        let own_words = std::mem::take(&mut self.shared.inbox().own_words);
        for (listener, line) in own_words {
            listener.line(line);
        }
    }

    /// Reads the server's process id, which the supervisor sends once it has started the server.
    fn read_control(&mut self) {
        let Some(control) = &mut self.control else { return };
        let mut id = [0; 4];
        match control.read(&mut id) {
            Ok(4) => {
                self.server = Pid::from_raw(i32::from_ne_bytes(id));
                self.shared.pid.store(u32::from_ne_bytes(id), Ordering::Relaxed);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // The supervisor has exited, which `go_on` notices.
            _ => self.control = None,
        }
    }

    fn write(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        let mut inbox = self.shared.inbox();
        while let Some(line) = inbox.lines.front() {
            match stdin.write(&line[inbox.sent..]) {
                Ok(n) if inbox.sent + n == line.len() => {
                    inbox.bytes -= line.len() + OVERHEAD;
                    inbox.lines.pop_front();
                    inbox.sent = 0;
                }
                Ok(n) => inbox.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The server has closed its stdin: drop the queue, and make every further `send` fail.
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
        let pid = self.shared.pid();
        let mut take = |line: Result<Vec<u8>, TooLong>| match line {
            Ok(line) => listener.line(line),
            Err(line) => {
                log::error!(server = self.shared.server.as_str(), pid = pid, bytes = line.limit; "the MCP server wrote a line longer than --stdio-buffer (STDIO_BUFFER); it is lost");
                listener.long_line(&line);
            }
        };
        match read(&mut self.stdout, &mut self.buffer) {
            Some(0) => self.lines.finish(&mut take),
            Some(n) => self.lines.add(&self.buffer[..n], &mut take),
            None => {}
        }
    }

    fn read_stderr(&mut self) {
        let mut lines = Vec::new();
        let mut take = |line: Result<Vec<u8>, TooLong>| match line {
            Ok(line) => lines.push(String::from_utf8_lossy(&line).into_owned()),
            Err(_) => lines.push("(a line too long to be shown)".into()),
        };
        match read(&mut self.stderr, &mut self.buffer) {
            Some(0) => self.words.finish(&mut take),
            Some(n) => self.words.add(&self.buffer[..n], &mut take),
            None => {}
        }
        let name = self.shared.listener().name();
        for line in lines {
            match self.words_quota.take() {
                Some(0) => {
                    log::info!(server = self.shared.server.as_str(), session = name.as_str(), pid = self.shared.pid(); "stderr: {line}")
                }
                Some(omitted) => {
                    log::info!(server = self.shared.server.as_str(), session = name.as_str(), pid = self.shared.pid(), omitted = omitted; "stderr: {line}");
                }
                None => {}
            }
            self.last_words.truncate(LAST_WORDS - 1);
            self.last_words.push_front(line);
        }
    }

    /// Takes the shutdown steps that are due.
    fn go_on(&mut self) {
        let now = Instant::now();
        if !matches!(self.phase, Phase::Ended(_)) && self.has_exited() {
            self.stdin = None;
            self.phase = Phase::Ended(now + LAST_WORDS_WAIT);
            return;
        }
        match self.phase {
            // A child that has closed its stdout or stdin can't answer requests any more, so it is ended too.
            Phase::Runs if self.stdout.is_none() || self.stdin.is_none() || self.shared.inbox().is_ending => {
                (self.stdin, self.control) = (None, None);
                self.phase = Phase::Ending(now + supervisor::LONGEST_END);
            }
            Phase::Ending(due) if now >= due => {
                let _ = kill_process(self.supervisor, Signal::KILL);
                self.phase = Phase::Killed;
            }
            _ => {}
        }
    }

    /// Checks without reaping (`WNOWAIT`), so that the process id stays valid.
    fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(self.supervisor), options), Ok(None))
    }

    fn bury(mut self) {
        let status = self.process.0.wait();
        // A supervisor that was killed leaves the server's process group running.
        if let (Some(server), Ok(Some(_))) = (self.server, status.as_ref().map(ExitStatusExt::signal)) {
            let _ = kill_process_group(server, Signal::KILL);
        }
        let how = status.map_or_else(|e| e.to_string(), how_it_ended);
        let (listener, was_asked) = {
            let mut inbox = self.shared.inbox();
            inbox.has_ended = true;
            (inbox.listener.clone(), inbox.is_ending)
        };
        let (name, pid) = (listener.name(), self.shared.pid());
        if was_asked {
            log::debug!(server = self.shared.server.as_str(), session = name.as_str(), pid = pid, how = how.as_str(); "the MCP server has ended");
        } else {
            if let Some(metrics) = metrics::installed() {
                metrics.upstream_failed(&self.shared.server, UpstreamError::Exited);
            }
            let last_words: Vec<String> = self.last_words.drain(..).rev().collect();
            log::warn!(server = self.shared.server.as_str(), session = name.as_str(), pid = pid, how = how.as_str(), stderr = last_words.join("\n").as_str(); "the MCP server exited unexpectedly");
        }
        listener.ended(self.started.elapsed());
    }
}

/// The supervisor exits with the server's exit code, or with 128 + N if signal N killed the server.
fn how_it_ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..) => format!("signal {}", code - 128),
        Some(code) => format!("exit code {code}"),
        None => format!("its supervisor ended abnormally: {status}"),
    }
}

/// Reads only once, so that a child that writes without pause does not block its thread's other work. Closes the pipe
/// and returns `Some(0)` at its end or on an error; returns `None` if there is nothing to read yet.
fn read<P: Read>(pipe: &mut Option<P>, buffer: &mut [u8]) -> Option<usize> {
    match pipe.as_mut()?.read(buffer) {
        Ok(n @ 1..) => Some(n),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        Ok(0) | Err(_) => {
            *pipe = None;
            Some(0)
        }
    }
}
