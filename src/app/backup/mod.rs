//! A copy of everything that the data directory has: made while the proxy serves (`backup`), and put back (`restore`).
//!
//! - [`mod@format`] – the file: JSON lines
//! - [`restore`] – writes it into an empty data directory

pub mod format;
pub mod restore;
