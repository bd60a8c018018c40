//! Root's rights that are not needed once the ports are open: given up, so that whoever takes this process over has not
//! got them.

use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

/// What a process goes on to do that takes a right.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Reads files again that may be somebody else's.
    pub reads_others: bool,
    /// Writes to what may be somebody else's.
    pub writes_others: bool,
    /// Starts programs under another user, and ends them.
    pub has_children: bool,
    /// Those are to have its rights.
    pub hands_rights_on: bool,
}

/// Gives up what a process of root's does not need. Called before the first thread is started,
/// since rights are a thread's own.
pub fn drop_unneeded(needs: Needs) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    if needs.hands_rights_on {
        // A child that is root as well would lose them too, and servers may count on them.
        return Ok(());
    }
    let failed = |e: rustix::io::Errno| format!("root's rights can't be given up: {e}");
    let held = capabilities(None).map_err(failed)?.permitted;
    let kept = held & needed(needs, held);
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

fn needed(needs: Needs, held: CapabilitySet) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    if needs.reads_others {
        // Containers have the one right, as a rule, and not the other.
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
