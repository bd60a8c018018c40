//! Root's rights that are not needed once the ports are open: given up, so that whoever takes this process over has not
//! got them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::config::Config;

/// Gives up what a process of root's does not need to go on as `config` says. Called before the first thread is started,
/// since rights are a thread's own.
pub fn drop_unneeded(config: &Config) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    if config.stdio.as_ref().is_some_and(|s| s.user.is_none()) {
        // A child that is root as well would lose them too, and servers may count on them.
        return Ok(());
    }
    let failed = |e: rustix::io::Errno| format!("root's rights can't be given up: {e}");
    let held = capabilities(None).map_err(failed)?.permitted;
    let kept = held & needed(config);
    // A program that root starts would get all of them back, but for this.
    for lost in (held - kept).iter() {
        rustix::thread::remove_capability_from_bounding_set(lost).map_err(failed)?;
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed)
}

fn needed(config: &Config) -> CapabilitySet {
    // Lists and certificates are read again, and may be somebody else's.
    let mut needed = CapabilitySet::DAC_READ_SEARCH;
    if config.stdio.is_some() {
        // Children run under another user, and are ended.
        needed |= CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
    }
    if !is_all_roots(&config.data_path) {
        needed |= CapabilitySet::DAC_OVERRIDE;
    }
    needed
}

/// Does everything in the data directory belong to root?
fn is_all_roots(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let mut below = fs::read_dir(path).into_iter().flatten().flatten();
    found.uid() == 0 && (!found.is_dir() || below.all(|entry| is_all_roots(&entry.path())))
}
