//! Drops the Linux capabilities of root that the proxy does not need once its ports are open, so that an attacker who
//! takes over the process does not get them.

use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

/// What the process will do later that needs a capability.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// It reads files again that may belong to another user.
    pub reads_others: bool,
    /// It writes to files or sockets that may belong to another user.
    pub writes_others: bool,
    /// It starts and ends child processes, which may run as another user.
    pub has_children: bool,
    /// The child processes should keep all capabilities of this process.
    pub hands_rights_on: bool,
}

/// Drops the capabilities that a root process does not need; does nothing for other users. Must be called before the
/// first thread is started, since capabilities are per thread.
pub fn drop_unneeded(needs: Needs) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    if needs.hands_rights_on {
        // A child process that also runs as root would lose the capabilities too, and an MCP server may need them.
        return Ok(());
    }
    let failed = |e: rustix::io::Errno| format!("the capabilities of root can't be dropped: {e}");
    let held = capabilities(None).map_err(failed)?.permitted;
    let kept = held & needed(needs, held);
    // Without this, a program that root executes would get all capabilities back. This needs CAP_SETPCAP. A container
    // that has removed it has also removed others.
    if held.contains(CapabilitySet::SETPCAP) {
        for lost in (held - kept).iter() {
            remove_capability_from_bounding_set(lost).map_err(failed)?;
        }
    }
    hold(kept).map_err(failed)
}

/// Drops all capabilities of this thread, which will not start any more programs.
pub fn drop_all() -> Result<(), String> {
    hold(CapabilitySet::empty()).map_err(|e| format!("rights can't be given up: {e}"))
}

fn hold(kept: CapabilitySet) -> rustix::io::Result<()> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
}

fn needed(needs: Needs, held: CapabilitySet) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    if needs.reads_others {
        // Containers usually have CAP_DAC_OVERRIDE but not CAP_DAC_READ_SEARCH.
        let reading = CapabilitySet::DAC_READ_SEARCH;
        needed |= if held.contains(reading) { reading } else { CapabilitySet::DAC_OVERRIDE };
    }
    if needs.has_children {
        needed |= CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
    }
    if needs.writes_others {
        needed |= CapabilitySet::DAC_OVERRIDE;
    }
    needed
}
