//! What the tests share.

pub mod flow;
pub mod idp;
pub mod local;
pub mod pebble;
pub mod proxy;
pub mod scripted;
pub mod stdio;
pub mod tls;
pub mod tls_client;
pub mod upstream;
pub mod usage;
pub mod wire;

use std::time::{Duration, Instant};

/// How long anything may take before the test fails: generous, since machines can be slow.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come to pass: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
