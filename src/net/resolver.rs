//! Name resolution for outbound connections.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::bounded_map::BoundedMap;
use crate::lock::Unpoisoned;

/// How long a result is used without another lookup.
const FRESH: Duration = Duration::from_secs(30);
/// Names remembered at one time.
const MAX_NAMES: usize = 64;
/// Addresses tried for one name.
const MAX_ADDRESSES: usize = 16;

/// Resolves names with a small cache. Literal addresses need no lookup. If a lookup fails, a stale result is used.
#[derive(Debug)]
pub struct CachingResolver(Mutex<BoundedMap<String, (Instant, Vec<SocketAddr>)>>);

impl Default for CachingResolver {
    fn default() -> CachingResolver {
        CachingResolver(Mutex::new(BoundedMap::new(MAX_NAMES)))
    }
}

impl CachingResolver {
    /// The addresses of `host`, in the order of the system's resolver.
    pub fn look_up(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let key = format!("{host}:{port}");
        let known = self.cache().get(&key).cloned();
        if let Some((at, addresses)) = &known
            && at.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        crate::blocking::announce();
        match (host, port).to_socket_addrs() {
            Ok(found) => {
                let found: Vec<_> = found.take(MAX_ADDRESSES).collect();
                let mut cache = self.cache();
                cache.insert(key, (Instant::now(), found.clone()));
                Ok(found)
            }
            Err(e) => {
                let Some((_, addresses)) = known else { return Err(e) };
                // Keeps the stale result for a while, because each lookup may take the system's resolver many seconds.
                self.cache().insert(key, (Instant::now(), addresses.clone()));
                Ok(addresses)
            }
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, BoundedMap<String, (Instant, Vec<SocketAddr>)>> {
        self.0.lock().unpoisoned()
    }
}
