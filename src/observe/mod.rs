//! What the operator sees.

pub mod events;
pub mod line;
pub mod lines;
pub mod log;
pub mod metrics;
pub mod quota;
