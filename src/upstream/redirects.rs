//! 307 and 308 of the upstream server that only add or drop a slash at the end of the path, remembered.
//!
//! Many servers answer `/mcp` with a redirect to `/mcp/`; clients would have to send each body twice. Any other
//! redirect may be meant for one request alone, and is followed anew each time.

use crate::bounded_map::BoundedMap;
use crate::lock::Unpoisoned;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::http::Method;

/// How long a redirect is believed.
const FRESH: Duration = Duration::from_secs(600);
/// Paths remembered at one time.
const MAX_PATHS: usize = 256;

/// Method and path to path.
pub(super) struct Redirects(Mutex<BoundedMap<(Method, String), (String, Instant)>>);

impl Default for Redirects {
    fn default() -> Redirects {
        Redirects(Mutex::new(BoundedMap::new(MAX_PATHS)))
    }
}

impl Redirects {
    /// Where a request for `target` (path and query) goes at once.
    pub(super) fn follow(&self, method: &Method, target: &str) -> Option<String> {
        let map = self.0.lock().unpoisoned();
        if map.is_empty() {
            return None;
        }
        map.get(&(method.clone(), target.to_string())).filter(|(_, at)| at.elapsed() < FRESH).map(|(to, _)| to.clone())
    }

    /// Learns that `from` leads to `to`, if it is worth remembering.
    pub(super) fn learn(&self, method: &Method, from: &str, to: &str) {
        let only_a_slash = from.strip_suffix('/') == Some(to) || to.strip_suffix('/') == Some(from);
        // Queries can be anything: remembering them would let clients fill the table.
        if !only_a_slash || from.contains('?') || from.len() > 512 {
            return;
        }
        let mut map = self.0.lock().unpoisoned();
        map.insert((method.clone(), from.into()), (to.into(), Instant::now()));
    }

    /// Forgets what `from` led to, since it does no more.
    pub(super) fn forget(&self, method: &Method, from: &str) {
        self.0.lock().unpoisoned().remove(&(method.clone(), from.to_string()));
    }
}
