//! The proxy as the first process of a container: someone has to pass signals on and to bury processes whose parents
//! have gone. A process that does nothing else does it, and the proxy is its child.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::self_exec::{hide, own_program};

/// The word on the command line that makes the program a first process, whatever its process id.
pub const COMMAND: &str = "stdio-init";

/// Is this the first process of a container?
pub fn is_first() -> bool {
    getpid().is_init()
}

/// Runs the program with `arguments` as a child, until that ends; its exit code.
pub fn run(arguments: &[OsString]) -> Result<u8, String> {
    let failed = |e: &dyn std::fmt::Display| format!("the first process of the container failed: {e}");
    hide()?;
    // Processes whose parents end become this one's, which the first process has anyway.
    let _ = set_child_subreaper(Some(getpid()));
    let signals = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
    let mut signals = signal_hook::iterator::Signals::new(signals).map_err(|e| failed(&e))?;
    // A group of its own: a Ctrl-C would else reach it twice.
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
