//! The proxy as the first process (init) of a container. Init has to forward signals and to reap orphaned processes. A
//! process of this binary does only that, and runs the proxy as its child.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::self_exec::{hide, own_program};

/// The subcommand that runs this binary as init, whatever its process id.
pub const COMMAND: &str = "stdio-init";

/// Is this the first process of a container?
pub fn is_first() -> bool {
    getpid().is_init()
}

/// Runs this binary with `arguments` as a child until it exits. Returns its exit code.
pub fn run(arguments: &[OsString]) -> Result<u8, String> {
    let failed = |e: &dyn std::fmt::Display| format!("the first process of the container failed: {e}");
    hide()?;
    // Orphaned processes become children of this one; with process id 1 they do anyway.
    let _ = set_child_subreaper(Some(getpid()));
    let signals = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
    let mut signals = signal_hook::iterator::Signals::new(signals).map_err(|e| failed(&e))?;
    // Its own process group: otherwise Ctrl-C would reach the proxy twice, from the terminal and from this process.
    let child = Command::new(own_program()).args(arguments).process_group(0).spawn().map_err(|e| failed(&e))?;
    let proxy = Pid::from_child(&child);
    crate::privileges::drop_all()?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if let Some(signal) = Signal::from_named_raw(signal) {
                let _ = kill_process(proxy, signal);
            }
        }
    });
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == proxy => {
                let code = status.exit_status().or(status.terminating_signal().map(|s| 128 + s));
                return Ok(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(&e)),
        }
    }
}
