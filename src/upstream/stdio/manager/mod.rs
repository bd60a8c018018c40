//! The process manager: everything that runs, and the bounds on it.
//!
//! - [`table`] – all processes and sessions; [`sessions`] – found, kept, saved, forgotten
//! - [`start`] – giving a session a process; [`slots`] – how many there may be, and who makes room for whom
//! - [`warm_pool`] – processes that are ready before anybody needs them
//! - [`shared`] – processes that several clients share
//! - [`sweep`] – ending what is idle, and in the end everything

mod sessions;
mod shared;
mod slots;
mod start;
mod sweep;
mod table;
mod warm_pool;

pub(super) use table::ProcessManager;
