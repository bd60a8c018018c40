//! What the operator sees.

pub mod lines;
pub mod log;
pub mod metrics;
pub mod quota;
