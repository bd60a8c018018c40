//! Remembers redirects (307 and 308) of the upstream server that only add or drop a slash at the end of the path.
//!
//! Many servers redirect `/mcp` to `/mcp/`; otherwise each body would have to be sent twice. Any other redirect may be
//! meant for one request alone, so it is followed but not remembered.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::http::Method;

use crate::bounded_map::BoundedMap;
use crate::lock::Unpoisoned;

/// How long a redirect is remembered.
const FRESH: Duration = Duration::from_secs(600);
/// Paths remembered at one time.
const MAX_PATHS: usize = 256;

/// Maps method and path to the path of the redirect, and to the time it was learned.
pub(super) struct Redirects(Mutex<BoundedMap<(Method, String), (String, Instant)>>);

impl Default for Redirects {
    fn default() -> Redirects {
        Redirects(Mutex::new(BoundedMap::new(MAX_PATHS)))
    }
}

impl Redirects {
    /// The remembered redirect for `target` (path and query), if there is one.
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

    /// Forgets the redirect of `from`, because it does not work any more.
    pub(super) fn forget(&self, method: &Method, from: &str) {
        self.0.lock().unpoisoned().remove(&(method.clone(), from.to_string()));
    }
}
