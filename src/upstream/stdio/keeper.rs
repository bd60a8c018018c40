//! The keeper: a small process that ends the children when the proxy ends without having done so itself, even by
//! `kill -9`. It holds a pipe from the proxy and the ids of the children's process groups; at the end of the pipe it
//! ends every group, with the grandchildren that programs such as npx leave behind.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::launcher::own_program;

/// The word on the command line that makes the program a keeper.
pub const COMMAND: &str = "stdio-keeper";
/// How long the groups may take to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// Runs as the keeper, until the proxy ends.
pub fn run() -> Result<(), String> {
    // The proxy decides when the end is there: a Ctrl-C or `systemctl stop` reaches it too.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let ignored = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        signal_hook::flag::register(signal, ignored).map_err(|e| format!("signals can't be handled: {e}"))?;
    }
    let mut groups = HashSet::new();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match line.split_at_checked(1) {
            Some(("+", id)) => groups.extend(group(id)),
            Some(("-", id)) => groups.retain(|g| Some(*g) != group(id)),
            _ => {}
        }
    }
    end_all(&groups);
    Ok(())
}

fn group(id: &str) -> Option<Pid> {
    Pid::from_raw(id.parse().ok().filter(|id| *id > 1)?)
}

fn end_all(groups: &HashSet<Pid>) {
    if groups.is_empty() {
        return;
    }
    for group in groups {
        let _ = kill_process_group(*group, Signal::TERM);
    }
    std::thread::sleep(GRACE);
    for group in groups {
        let _ = kill_process_group(*group, Signal::KILL);
    }
}

/// The proxy's end of the pipe.
pub(super) struct Keeper(Mutex<State>);

#[derive(Default)]
struct State {
    pipe: Option<ChildStdin>,
    groups: HashSet<u32>,
}

impl Keeper {
    /// Starts the keeper.
    pub(super) fn start() -> io::Result<Keeper> {
        let pipe = Some(spawn()?);
        Ok(Keeper(Mutex::new(State { pipe, groups: HashSet::new() })))
    }

    /// From now on the group `id` is ended with the proxy.
    pub(super) fn add(&self, id: u32) {
        let mut state = self.state();
        state.groups.insert(id);
        state.tell(&format!("+{id}\n"));
    }

    /// The group `id` has ended; its id may soon be another's.
    pub(super) fn remove(&self, id: u32) {
        let mut state = self.state();
        state.groups.remove(&id);
        state.tell(&format!("-{id}\n"));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    /// Tells the keeper, or a new one if it has gone.
    fn tell(&mut self, line: &str) {
        if self.pipe.as_mut().is_some_and(|pipe| pipe.write_all(line.as_bytes()).is_ok()) {
            return;
        }
        let all: String = self.groups.iter().map(|id| format!("+{id}\n")).collect();
        let told = spawn().and_then(|mut pipe| pipe.write_all(all.as_bytes()).map(|()| pipe));
        self.pipe = told
            .inspect_err(|e| log::error!(error:% = e; "the keeper has gone and can't be started again: if the proxy is killed, its MCP servers may go on running"))
            .ok();
    }
}

fn spawn() -> io::Result<ChildStdin> {
    let mut command = Command::new(own_program());
    command.arg(COMMAND).env_clear().process_group(0);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    // It outlives the proxy; should it end sooner, it must not stay a zombie.
    std::thread::Builder::new().name("keeper".into()).stack_size(64 << 10).spawn(move || child.wait())?;
    Ok(pipe)
}
