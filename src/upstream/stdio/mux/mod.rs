//! One process for several clients.
//!
//! - [`shared_process`] – the process, and a client's handle to it; [`state`] – its clients and message routing
//! - [`probe`] – requests that the proxy sends on its own behalf

pub(super) mod probe;
pub(super) mod shared_process;
pub(super) mod state;
