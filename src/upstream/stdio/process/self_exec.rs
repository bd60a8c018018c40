//! Helpers for running this same binary again in another role: supervisor, launcher, init of a container, or the demo's
//! server.

use std::path::PathBuf;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// The error for people who call an internal subcommand by hand.
pub(crate) const OWN_USE: &str = "this command is for the proxy's own use";

/// Placeholder on the command line for an id or a limit that is not set.
pub(crate) const NONE: &str = "-";

/// The path of the running binary. `/proc/self/exe` works even after the file has been replaced.
pub fn own_program() -> PathBuf {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() { link } else { std::env::args_os().next().map(PathBuf::from).unwrap_or(link) }
}

/// Keeps this process's memory and environment, and with them its secrets, from other processes of the same user.
pub(crate) fn hide() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| format!("the process can't be hidden: {e}"))
}
