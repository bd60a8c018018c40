//! What the operator sees.

pub mod lines;
pub mod log;
pub mod quota;
