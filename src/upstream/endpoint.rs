//! Rewrites the `endpoint` event of HTTP+SSE (MCP 2024-11-05). In it the server announces its path for messages, but
//! the client has to use another path if the upstream URL has a path of its own.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use ::http::Uri;

use crate::bounded_map::BoundedMap;
use crate::lock::Unpoisoned;
use crate::url::UpstreamUrl;

/// Most bytes of the first event, and of each block before it; a longer one is not rewritten.
const MAX_EVENT: usize = 8 << 10;
/// Announced paths remembered at one time.
const MAX_PATHS: usize = 64;

/// Announced paths that are not below the prefix: requests for them are forwarded without adding the prefix.
#[derive(Clone)]
pub(super) struct Announced(Arc<Mutex<BoundedMap<String, ()>>>);

impl Default for Announced {
    fn default() -> Announced {
        Announced(Arc::new(Mutex::new(BoundedMap::new(MAX_PATHS))))
    }
}

impl Announced {
    /// Was `path` announced?
    pub(super) fn contains(&self, path: &str) -> bool {
        self.0.lock().unpoisoned().contains_key(path)
    }

    fn add(&self, path: &str) {
        self.0.lock().unpoisoned().insert(path.into(), ());
    }
}

/// Passes on an event stream; if its first event is `endpoint`, rewrites the path for the client.
pub(super) struct EndpointRewriter<R> {
    inner: R,
    url: UpstreamUrl,
    announced: Announced,
    /// The bytes read so far while looking for the first event; `None` afterwards.
    looking: Option<Vec<u8>>,
    /// What is ready to be passed on.
    ready: Vec<u8>,
}

impl<R: Read> EndpointRewriter<R> {
    pub(super) fn new(inner: R, url: UpstreamUrl, announced: Announced) -> EndpointRewriter<R> {
        EndpointRewriter { inner, url, announced, looking: Some(Vec::new()), ready: Vec::new() }
    }

    /// The event with its path as the client has to use it.
    fn rewrite(&self, event: &str) -> String {
        let is_endpoint = event.lines().any(|l| l.strip_prefix("event:").is_some_and(|v| v.trim() == "endpoint"));
        let data = event.lines().find_map(|l| l.strip_prefix("data:")).map(str::trim);
        match data.filter(|_| is_endpoint).and_then(|d| Some((d, self.in_the_clients_terms(d)?))) {
            Some((data, to)) => event.replacen(data, &to, 1),
            None => event.into(),
        }
    }

    /// Looks for the first event in `seen`. Moves to `ready` what can be passed on, rewritten if it is `endpoint`.
    fn look(&mut self, mut seen: Vec<u8>, is_last: bool) {
        while let Some(end) = end_of_block(&seen) {
            let rest = seen.split_off(end);
            let block = std::mem::replace(&mut seen, rest);
            match std::str::from_utf8(&block) {
                Ok(text) if has_event(text) => {
                    self.ready.extend_from_slice(self.rewrite(text).as_bytes());
                    return self.ready.append(&mut seen);
                }
                // A block with only comments or `retry` is not an event.
                _ => self.ready.extend_from_slice(&block),
            }
        }
        match is_last || seen.len() > MAX_EVENT {
            true => self.ready.append(&mut seen),
            false => self.looking = Some(seen),
        }
    }

    fn in_the_clients_terms(&self, endpoint: &str) -> Option<String> {
        let path = match endpoint.parse::<Uri>().ok()? {
            uri if uri.scheme().is_none() && endpoint.starts_with('/') => endpoint.to_string(),
            uri if uri.authority() == Some(&self.url.authority) => uri.path_and_query()?.to_string(),
            _ => return None,
        };
        if let Some(rest) = path.strip_prefix(&self.url.prefix).filter(|rest| rest.starts_with('/')) {
            return Some(rest.to_string());
        }
        self.announced.add(path.split('?').next().unwrap_or_default());
        Some(path)
    }
}

impl<R: Read> Read for EndpointRewriter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty()
            && let Some(mut seen) = self.looking.take()
        {
            let n = self.inner.read(buffer)?;
            seen.extend_from_slice(&buffer[..n]);
            self.look(seen, n == 0);
        }
        if self.ready.is_empty() {
            return self.inner.read(buffer);
        }
        let n = self.ready.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.ready[..n]);
        self.ready.drain(..n);
        Ok(n)
    }
}

/// Does the block have an event in it?
fn has_event(block: &str) -> bool {
    let block = block.trim_start_matches('\u{feff}');
    block.lines().any(|line| line == "data" || line.starts_with("data:") || line.starts_with("event:"))
}

/// The index behind the empty line that ends the first block.
fn end_of_block(bytes: &[u8]) -> Option<usize> {
    let at = |needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle).map(|i| i + needle.len());
    [at(b"\n\n"), at(b"\r\n\r\n"), at(b"\r\r")].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Settings;

    fn through(stream: &str, announced: &Announced) -> String {
        let settings = Settings { upstream: Some("http://h:1/base".into()), ..Settings::default() };
        let url = crate::app::config::Config::build(settings).unwrap().upstream.url.unwrap();
        let mut out = String::new();
        EndpointRewriter::new(stream.as_bytes(), url, announced.clone()).read_to_string(&mut out).unwrap();
        out
    }

    #[test]
    fn the_first_endpoint_is_put_in_the_clients_terms_and_nothing_else_is_touched() {
        let announced = Announced::default();
        let event = |data: &str| format!("event: endpoint\r\ndata: {data}\r\n\r\nevent: message\ndata: /base/x\n\n");
        assert_eq!(through(&event("/base/messages?s=1"), &announced), event("/messages?s=1"));
        assert_eq!(through(&event("http://h:1/base/m"), &announced), event("/m"));
        assert!(!announced.contains("/messages"));
        assert_eq!(through(&event("/outside?s=1"), &announced), event("/outside?s=1"));
        assert!(announced.contains("/outside") && !announced.contains("/outside?s=1"));
        for before in [": welcome\n\n", "retry: 1000\n\n", ":\r\n\r\n: \n\nid: 1\n\n", "\n\n", "\u{feff}: x\n\n"] {
            let stream = |data: &str| format!("{before}{}", event(data));
            assert_eq!(through(&stream("/base/messages"), &announced), stream("/messages"), "{before:?}");
        }
        for untouched in [
            event("https://elsewhere/base/m"),
            event("relative"),
            "event: message\ndata: /base/x\n\n".to_string(),
            "data: no end".to_string(),
            "x".repeat(MAX_EVENT * 2),
            String::new(),
        ] {
            assert_eq!(through(&untouched, &announced), untouched);
        }
    }
}
