//! What must survive a restart.
//!
//! [`backend`] is small enough for a second implementation: rows by table and key, each with an expiry, and transactions
//! that are durable when they return. [`embedded`] keeps them in a file. [`State`] is what the rest of the program
//! sees: typed rows ([`rows`]), expiry applied, revocations mirrored in memory.

mod backend;
pub mod embedded;
pub mod rows;
mod state;

pub use backend::{Job, Row, Store, StoreError, Table, Transaction};
pub use state::{State, Tx};
