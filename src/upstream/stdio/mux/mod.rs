//! One process for several clients.
//!
//! - [`shared_process`] – the process, and a client's handle on it; [`state`] – where each message goes
//! - [`probe`] – what the proxy asks on its own behalf

pub(super) mod probe;
pub(super) mod shared_process;
pub(super) mod state;
