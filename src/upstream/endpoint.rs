//! Rewrites the `endpoint` event of HTTP+SSE (MCP 2024-11-05), in which the server announces its path for messages.
//!
//! The client gets a path below that of its stream, because its token may be for the stream's URL only: a server that
//! announces `/messages?session=1` on `/sse` is reached at `/sse/messages?session=1`.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use ::http::Uri;

use crate::bounded_map::BoundedMap;
use crate::lock::Unpoisoned;
use crate::url::UpstreamUrl;

/// Most bytes of the first event, and of each block before it; a longer one is not rewritten.
const MAX_EVENT: usize = 8 << 10;
/// Paths of each kind that are remembered at one time.
const MAX_PATHS: usize = 64;

/// What servers have announced on their streams.
#[derive(Clone)]
pub(super) struct Announced(Arc<Mutex<Paths>>);

struct Paths {
    /// Streams that have announced a path that is not below their own.
    streams: BoundedMap<String, ()>,
    /// Announced paths that are not below the prefix of the upstream URL.
    outside: BoundedMap<String, ()>,
}

impl Default for Announced {
    fn default() -> Announced {
        let (streams, outside) = (BoundedMap::new(MAX_PATHS), BoundedMap::new(MAX_PATHS));
        Announced(Arc::new(Mutex::new(Paths { streams, outside })))
    }
}

impl Announced {
    /// The path that the server announced, if the client's `path` is one that an `endpoint` event was rewritten to.
    pub(super) fn behind<'p>(&self, path: &'p str) -> Option<&'p str> {
        let paths = self.0.lock().unpoisoned();
        let slashes = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        slashes
            .map(|at| path.split_at(at))
            .find(|(stream, _)| paths.streams.contains_key(*stream))
            .map(|(_, rest)| rest)
    }

    /// Is `path` announced, and outside the prefix of the upstream URL?
    pub(super) fn is_outside(&self, path: &str) -> bool {
        self.0.lock().unpoisoned().outside.contains_key(path)
    }
}

/// Passes on an event stream; if its first event is `endpoint`, rewrites the path for the client.
pub(super) struct EndpointRewriter<R> {
    inner: R,
    url: UpstreamUrl,
    announced: Announced,
    /// The client's path of the stream, without a slash at its end.
    stream: String,
    /// The bytes read so far while looking for the first event; `None` afterwards.
    looking: Option<Vec<u8>>,
    /// What is ready to be passed on.
    ready: Vec<u8>,
}

impl<R: Read> EndpointRewriter<R> {
    /// For the answer to a GET of `path`.
    pub(super) fn new(inner: R, url: UpstreamUrl, path: &str, announced: Announced) -> EndpointRewriter<R> {
        let stream = path.strip_suffix('/').unwrap_or(path).to_string();
        EndpointRewriter { inner, url, announced, stream, looking: Some(Vec::new()), ready: Vec::new() }
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
        let mut paths = self.announced.0.lock().unpoisoned();
        let path = match path.strip_prefix(&self.url.prefix).filter(|rest| rest.starts_with('/')) {
            Some(rest) => rest.to_string(),
            None => {
                paths.outside.insert(path.split('?').next().unwrap_or_default().into(), ());
                path
            }
        };
        let is_below =
            path.strip_prefix(&self.stream).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        if self.stream.is_empty() || is_below {
            return Some(path);
        }
        paths.streams.insert(self.stream.clone(), ());
        Some(format!("{}{path}", self.stream))
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

    fn on(path: &str, stream: &str, announced: &Announced) -> String {
        let settings = Settings { upstream: Some("http://h:1/base".into()), ..Settings::default() };
        let url = crate::app::config::Config::build(settings).unwrap().upstream.url.unwrap();
        let mut out = String::new();
        EndpointRewriter::new(stream.as_bytes(), url, path, announced.clone()).read_to_string(&mut out).unwrap();
        out
    }

    fn through(stream: &str, announced: &Announced) -> String {
        on("/", stream, announced)
    }

    #[test]
    fn the_clients_path_is_below_that_of_its_stream() {
        let announced = Announced::default();
        let event = |data: &str| format!("event: endpoint\ndata: {data}\n\n");
        for (stream, said, told) in [
            ("/sse", "/base/messages?s=/sse", "/sse/messages?s=/sse"),
            ("/a/sse/", "/base/messages", "/a/sse/messages"),
            ("/sse", "/outside/m?s=1", "/sse/outside/m?s=1"),
            ("/sse", "/base/ssession", "/sse/ssession"),
            ("/sse", "/base/sse/messages", "/sse/messages"),
            ("/sse", "/base/sse?s=1", "/sse?s=1"),
        ] {
            assert_eq!(on(stream, &event(said), &announced), event(told), "{stream} {said}");
        }
        assert_eq!(announced.behind("/sse/outside/m"), Some("/outside/m"));
        assert_eq!(announced.behind("/a/sse/messages"), Some("/messages"));
        assert!(announced.is_outside("/outside/m") && !announced.is_outside("/messages"));
        for other in ["/sse", "/ssex/m", "/messages", "/b/sse/m", "/"] {
            assert_eq!(announced.behind(other), None, "{other}");
        }
    }

    #[test]
    fn the_first_endpoint_is_put_in_the_clients_terms_and_nothing_else_is_touched() {
        let announced = Announced::default();
        let event = |data: &str| format!("event: endpoint\r\ndata: {data}\r\n\r\nevent: message\ndata: /base/x\n\n");
        assert_eq!(through(&event("/base/messages?s=1"), &announced), event("/messages?s=1"));
        assert_eq!(through(&event("http://h:1/base/m"), &announced), event("/m"));
        assert!(!announced.is_outside("/messages"));
        assert_eq!(through(&event("/outside?s=1"), &announced), event("/outside?s=1"));
        assert!(announced.is_outside("/outside") && !announced.is_outside("/outside?s=1"));
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
