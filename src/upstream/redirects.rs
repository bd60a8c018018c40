//! 307 and 308 of the upstream server on its own host, remembered for each path.
//!
//! Many servers answer `/mcp` with a redirect to `/mcp/`; clients would have to send each body twice.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a redirect is believed.
const FRESH: Duration = Duration::from_secs(600);
/// Paths remembered at one time.
const MAX_PATHS: usize = 256;

/// Path to path.
#[derive(Default)]
pub(super) struct Redirects(Mutex<HashMap<String, (String, Instant)>>);

impl Redirects {
    /// Where a request for `target` (path and query) goes at once.
    pub(super) fn follow(&self, target: &str) -> Option<String> {
        let map = self.0.lock().unwrap_or_else(|e| e.into_inner());
        map.get(target).filter(|(_, at)| at.elapsed() < FRESH).map(|(to, _)| to.clone())
    }

    /// Learns that `from` leads to `to`.
    pub(super) fn learn(&self, from: &str, to: &str) {
        // Queries can be anything: remembering them would let clients fill the table.
        if from.contains('?') || from.len() + to.len() > 1_024 {
            return;
        }
        let mut map = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if map.len() >= MAX_PATHS {
            map.clear();
        }
        map.insert(from.into(), (to.into(), Instant::now()));
    }

    /// Forgets what `from` led to, since it does no more.
    pub(super) fn forget(&self, from: &str) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).remove(from);
    }
}
