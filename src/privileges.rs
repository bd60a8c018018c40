//! Root's rights that are not needed once the ports are open: given up, so that whoever takes this process over has not
//! got them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

use crate::config::Config;
use crate::flags::FLAGS;
use crate::tls::configure::Source;

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
    let kept = held & needed(config, held);
    // A program that root starts would get all of them back, but for this. Where a container has taken the right to do
    // it away, it has taken others, too.
    if held.contains(CapabilitySet::SETPCAP) {
        for lost in (held - kept).iter() {
            remove_capability_from_bounding_set(lost).map_err(failed)?;
        }
    }
    hold(kept).map_err(failed)
}

/// Gives up all rights of this thread, which starts no program any more.
pub fn drop_all() -> Result<(), String> {
    hold(CapabilitySet::empty()).map_err(|e| format!("rights can't be given up: {e}"))
}

fn hold(kept: CapabilitySet) -> rustix::io::Result<()> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
}

fn needed(config: &Config, held: CapabilitySet) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    if reads_files_again(config) {
        // They may be somebody else's. Containers have the one right, as a rule, and not the other.
        let reading = CapabilitySet::DAC_READ_SEARCH;
        needed |= if held.contains(reading) { reading } else { CapabilitySet::DAC_OVERRIDE };
    }
    if config.stdio.is_some() {
        // Children run under another user, and are ended.
        needed |= CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
    }
    // To connect to a socket is to write to it.
    let has_socket = config.upstream.url.as_ref().is_some_and(|url| url.socket.is_some());
    if has_socket || !is_all_roots(&config.data_path) {
        needed |= CapabilitySet::DAC_OVERRIDE;
    }
    needed
}

/// Are there files that are read after the start: certificates, or those that variables name, with SIGHUP?
fn reads_files_again(config: &Config) -> bool {
    let certificates = config.tls.as_ref().is_some_and(|tls| matches!(tls.source, Source::Files(_)));
    certificates || FLAGS.iter().any(|f| std::env::var_os(format!("{}_FILE", f.env)).is_some_and(|v| !v.is_empty()))
}

/// Does everything in the data directory belong to root?
fn is_all_roots(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let mut below = fs::read_dir(path).into_iter().flatten().flatten();
    found.uid() == 0 && (!found.is_dir() || below.all(|entry| is_all_roots(&entry.path())))
}
