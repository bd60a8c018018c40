//! Name resolution for outbound requests, without the thread that ureq starts for each.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::Uri;
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an answer is used without asking again.
const FRESH: Duration = Duration::from_secs(30);
/// Names remembered at one time.
const MAX_NAMES: usize = 64;
/// ureq takes no more addresses for a name.
const MAX_ADDRESSES: usize = 16;

/// Literal addresses at once, names from a small cache, and a stale answer rather than none.
#[derive(Debug, Default)]
pub struct CachingResolver(Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>);

impl CachingResolver {
    fn look_up(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
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
        match (host, port).to_socket_addrs() {
            Ok(found) => {
                let found: Vec<_> = found.take(MAX_ADDRESSES).collect();
                let mut cache = self.cache();
                if cache.len() >= MAX_NAMES {
                    cache.clear();
                }
                cache.insert(key, (Instant::now(), found.clone()));
                Ok(found)
            }
            Err(e) => {
                let Some((_, addresses)) = known else { return Err(e) };
                // Not asked again at once: each question may take the system's resolver many seconds.
                self.cache().insert(key, (Instant::now(), addresses.clone()));
                Ok(addresses)
            }
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Vec<SocketAddr>)>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Resolver for CachingResolver {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let found = self.look_up(host, port).map_err(|_| ureq::Error::HostNotFound)?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(MAX_ADDRESSES) {
            addresses.push(address);
        }
        if addresses.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addresses) }
    }
}
