//! What the tests share.

pub(crate) mod disk;
pub(crate) mod events;
pub(crate) mod flow;
pub(crate) mod idp;
pub(crate) mod local;
pub(crate) mod pebble;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod scripted;
pub(crate) mod stdio;
pub(crate) mod tls;
pub(crate) mod tls_client;
pub(crate) mod upstream;
pub(crate) mod usage;
pub(crate) mod wire;

use std::time::{Duration, Instant};

/// How long anything may take before the test fails: generous, since machines can be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come to pass: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
