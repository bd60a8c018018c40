//! The process manager: holds all processes and sessions and enforces their limits.
//!
//! - [`table`] – all processes and sessions; [`sessions`] – finds, registers, saves and deletes sessions
//! - [`start`] – connects a session to a process; [`slots`] – limits the number of processes and frees slots
//! - [`warm_pool`] – processes started before a session needs them
//! - [`shared`] – processes that several clients share
//! - [`sweep`] – ends idle processes, and all processes at shutdown

mod sessions;
mod shared;
mod slots;
mod start;
mod sweep;
mod table;
mod warm_pool;

pub(super) use table::ProcessManager;
