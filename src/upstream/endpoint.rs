//! Rewrites the `endpoint` event of HTTP+SSE (MCP 2024-11-05), in which the server announces its path for messages.
//!
//! The client gets a path below that of its stream, because its token may be for the stream's URL only: a server that
//! announces `/messages?session=1` on `/sse` is reached at `/sse/messages?session=1`.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use ::http::Uri;

use crate::lock::Unpoisoned;
use crate::url::UpstreamUrl;

/// Most bytes of the first event, and of each block before it; a longer one is not rewritten.
const MAX_EVENT: usize = 8 << 10;
/// The message paths of open streams that the client and the server call by different names: for each of the client's paths
/// that of the server, and the number of streams that announced it. It has no more entries than there are open streams.
#[derive(Clone, Default)]
pub(super) struct Announced(Arc<Mutex<HashMap<String, (String, usize)>>>);

impl Announced {
    /// The server's path behind the client's `path`, if an open stream has announced exactly this one.
    pub(super) fn behind(&self, path: &str) -> Option<String> {
        self.0.lock().unpoisoned().get(path).map(|(server, _)| server.clone())
    }

    /// Adds a stream that announced `server`, which its client knows as `client`. False if another stream uses `client` for
    /// another path of the server.
    fn add(&self, client: &str, server: &str) -> bool {
        let mut paths = self.0.lock().unpoisoned();
        let (known, streams) = paths.entry(client.into()).or_insert_with(|| (server.into(), 0));
        let is_same = known == server;
        *streams += usize::from(is_same);
        is_same
    }

    /// Removes a stream that announced `client`.
    fn remove(&self, client: &str) {
        let mut paths = self.0.lock().unpoisoned();
        if let Some((_, streams)) = paths.get_mut(client) {
            *streams -= 1;
            if *streams == 0 {
                paths.remove(client);
            }
        }
    }
}

/// Passes on an event stream; if its first event is `endpoint`, rewrites the path for the client.
pub(super) struct EndpointRewriter<R> {
    inner: R,
    url: UpstreamUrl,
    announced: Announced,
    /// The client's path of the stream.
    stream: String,
    /// The server's path of the stream.
    behind: String,
    /// The client's path for messages, if it was added to `announced`.
    messages: Option<String>,
    /// The bytes read so far while looking for the first event; `None` afterwards.
    looking: Option<Vec<u8>>,
    /// What is ready to be passed on.
    ready: Vec<u8>,
}

impl<R: Read> EndpointRewriter<R> {
    /// For the answer to a client's GET of `path`, for which the server was asked for `target`.
    pub(super) fn new(
        inner: R,
        url: UpstreamUrl,
        path: &str,
        target: &str,
        announced: Announced,
    ) -> EndpointRewriter<R> {
        let behind = target.split('?').next().unwrap_or_default().to_string();
        let (stream, looking) = (path.to_string(), Some(Vec::new()));
        EndpointRewriter { inner, url, announced, stream, behind, messages: None, looking, ready: Vec::new() }
    }

    /// The event with its path as the client has to use it.
    fn rewrite(&mut self, event: &str) -> String {
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
                    let event = self.rewrite(text);
                    self.ready.extend_from_slice(event.as_bytes());
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

    /// The announced path as the client has to use it. `None` if it is to be passed on as it is: a URL elsewhere, or one
    /// that client and server may resolve in different ways.
    fn in_the_clients_terms(&mut self, endpoint: &str) -> Option<String> {
        let prefix = self.url.prefix.as_str();
        if !endpoint.bytes().all(|b| b.is_ascii_graphic()) || endpoint.starts_with("//") {
            return None;
        }
        let path = if endpoint.contains("://") && !endpoint.starts_with('/') {
            let uri = endpoint.parse::<Uri>().ok().filter(|uri| uri.authority() == Some(&self.url.authority))?;
            uri.path_and_query()?.to_string()
        } else if endpoint.starts_with('/') {
            endpoint.to_string()
        } else {
            // Relative to the stream's URL.
            format!("{}/{endpoint}", self.behind.rsplit_once('/')?.0)
        };
        let (server, query) = path.split_once('?').map_or((path.as_str(), None), |(path, query)| (path, Some(query)));
        if server.split('/').any(|segment| matches!(segment, "." | "..")) {
            return None;
        }
        let inside = server.strip_prefix(prefix).filter(|rest| rest.starts_with('/')).unwrap_or(server);
        let stream = self.stream.strip_suffix('/').unwrap_or(&self.stream);
        let is_below = inside.strip_prefix(stream).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let client = if is_below { inside.to_string() } else { format!("{stream}{inside}") };
        if format!("{prefix}{client}") != server {
            if !self.announced.add(&client, server) {
                return None;
            }
            self.messages = Some(client.clone());
        }
        Some(query.map_or(client.clone(), |query| format!("{client}?{query}")))
    }
}

impl<R> Drop for EndpointRewriter<R> {
    fn drop(&mut self) {
        if let Some(client) = &self.messages {
            self.announced.remove(client);
        }
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

    fn on<'s>(path: &str, stream: &'s str, announced: &Announced) -> (String, EndpointRewriter<&'s [u8]>) {
        let url = UpstreamUrl::parse("http://h:1/base").unwrap();
        let mut out = String::new();
        let mut rewriter =
            EndpointRewriter::new(stream.as_bytes(), url, path, &format!("/base{path}"), announced.clone());
        rewriter.read_to_string(&mut out).unwrap();
        (out, rewriter)
    }

    fn through(stream: &str, announced: &Announced) -> String {
        on("/", stream, announced).0
    }

    #[test]
    fn the_clients_path_is_below_that_of_its_stream() {
        let event = |data: &str| format!("event: endpoint\ndata: {data}\n\n");
        for (stream, said, told, behind) in [
            ("/sse", "/base/messages?s=/sse", "/sse/messages?s=/sse", Some("/base/messages")),
            ("/a/sse/", "/base/messages", "/a/sse/messages", Some("/base/messages")),
            ("/sse", "/outside/m?s=1", "/sse/outside/m?s=1", Some("/outside/m")),
            ("/sse", "/base/ssession", "/sse/ssession", Some("/base/ssession")),
            ("/sse", "/base/sse/messages", "/sse/messages", None),
            ("/sse", "/base/sse?s=1", "/sse?s=1", None),
            ("/sse", "messages?s=1", "/sse/messages?s=1", Some("/base/messages")),
            ("/a/sse", "messages", "/a/sse/a/messages", Some("/base/a/messages")),
            ("/sse", "http://h:1/base/m", "/sse/m", Some("/base/m")),
            ("/", "/outside", "/outside", Some("/outside")),
        ] {
            let announced = Announced::default();
            let bytes = event(said);
            let (out, rewriter) = on(stream, &bytes, &announced);
            assert_eq!(out, event(told), "{stream} {said}");
            let client = told.split('?').next().unwrap();
            assert_eq!(announced.behind(client).as_deref(), behind, "{stream} {said}");
            // Nothing else is reached in this way, and nothing at all once the stream has ended.
            for other in
                [format!("{client}/x"), format!("{client}x"), "/sse/admin".into(), "/sse/".into(), "/sse".into()]
            {
                assert_eq!(announced.behind(&other), None, "{other}");
            }
            drop(rewriter);
            assert!(announced.0.lock().unwrap().is_empty());
        }
        for untouched in ["//evil/m", "http://elsewhere/base/m", "/base/../m", "/./m", "../m"] {
            let (announced, bytes) = (Announced::default(), event(untouched));
            assert_eq!(on("/sse", &bytes, &announced).0, bytes);
            assert!(announced.0.lock().unwrap().is_empty(), "{untouched}");
        }
    }

    #[test]
    fn two_streams_share_a_path_and_none_takes_it_from_another() {
        let announced = Announced::default();
        let event = |data: &str| format!("event: endpoint\ndata: {data}\n\n");
        let (bytes, other) = (event("/base/m"), event("/m"));
        let (first, second) = (on("/sse", &bytes, &announced), on("/sse", &bytes, &announced));
        assert_eq!((first.0.as_str(), second.0.as_str()), (event("/sse/m").as_str(), event("/sse/m").as_str()));
        // The same name for the client, another path of the server.
        assert_eq!(on("/sse", &other, &announced).0, other);
        drop(first);
        assert_eq!(announced.behind("/sse/m").as_deref(), Some("/base/m"));
        drop(second);
        assert_eq!(announced.behind("/sse/m"), None);
    }

    #[test]
    fn the_first_endpoint_is_put_in_the_clients_terms_and_nothing_else_is_touched() {
        let announced = Announced::default();
        let event = |data: &str| format!("event: endpoint\r\ndata: {data}\r\n\r\nevent: message\ndata: /base/x\n\n");
        assert_eq!(through(&event("/base/messages?s=1"), &announced), event("/messages?s=1"));
        assert_eq!(through(&event("http://h:1/base/m"), &announced), event("/m"));
        assert_eq!(through(&event("/outside?s=1"), &announced), event("/outside?s=1"));
        for before in [": welcome\n\n", "retry: 1000\n\n", ":\r\n\r\n: \n\nid: 1\n\n", "\n\n", "\u{feff}: x\n\n"] {
            let stream = |data: &str| format!("{before}{}", event(data));
            assert_eq!(through(&stream("/base/messages"), &announced), stream("/messages"), "{before:?}");
        }
        for untouched in [
            event("https://elsewhere/base/m"),
            event("relative path"),
            "event: message\ndata: /base/x\n\n".to_string(),
            "data: no end".to_string(),
            "x".repeat(MAX_EVENT * 2),
            String::new(),
        ] {
            assert_eq!(through(&untouched, &announced), untouched);
        }
    }
}
