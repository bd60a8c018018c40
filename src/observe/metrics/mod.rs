//! Metrics for Prometheus: counted while requests are answered, and shown by the monitoring port.
//!
//! - [`registry`] – all metrics; [`request_series`] – those of requests; [`labels`] – the words that their labels may have
//! - [`event_counter`] – counts events that matter for security

mod event_counter;
mod labels;
mod registry;
mod request_series;

pub use event_counter::EventCounter;
pub use labels::method_label;
pub use registry::{Ended, Metrics, ServerSnapshot, Snapshot, StoreOperation, UpstreamError, install, installed};
