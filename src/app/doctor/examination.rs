//! What the steps of one look share.

use std::path::PathBuf;

use super::link::Link;
use super::probe::Prober;
use super::report::Report;

/// One look at one server.
pub(super) struct Examination {
    /// The URL that is looked at, after redirects.
    pub(super) url: Link,
    /// The URL as the user has typed it.
    pub(super) typed: Link,
    pub(super) report: Report,
    pub(super) prober: Prober,
    pub(super) ca_file: Option<PathBuf>,
    /// Seconds since 1970.
    pub(super) now: u64,
    /// The server is on the public internet, so its documents may not lead to private addresses.
    pub(super) is_public: bool,
    /// The server is this program.
    pub(super) is_ours: bool,
    /// A token for the server, if the user has given one. It goes nowhere else than to the origin of the URL that the user
    /// has typed, and only there if its certificate is trusted.
    pub(super) token: Option<String>,
    pub(super) may_register: bool,
}
