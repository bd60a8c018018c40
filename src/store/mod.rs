//! Storage for everything that must survive a restart.
//!
//! [`backend`] is the interface, small enough for a second implementation: rows by table and key, each with an expiry,
//! and
//! transactions that are durable when they return. [`embedded`] stores the rows in a file. The rest of the program uses
//! [`State`], which has typed rows ([`rows`]), hides expired rows, and mirrors revocations in memory.

mod backend;
pub mod embedded;
pub mod rows;
mod state;

pub use backend::{FORMAT, Job, Row, Store, StoreError, Table, Transaction};
pub use state::{State, Tx};
