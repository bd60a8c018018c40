//! `/.idp/echo`: lets `doctor` see from outside what the proxies in between do with event streams and `Authorization`.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::http::{Payload, Request, Response};
use crate::net::cancellation::Cancellation;

/// Where it is.
pub const PATH: &str = "/.idp/echo";
/// The time between its two events.
pub const PAUSE: Duration = Duration::from_millis(400);
/// Most answers at one time, since each occupies a thread for the pause and nobody has to sign in for it.
const MAX_OPEN: usize = 2;

/// Answers with two events. The first says whether the request had an `Authorization` field, but nothing of what is in it.
#[derive(Default)]
pub struct Echo(Arc<AtomicUsize>);

/// The place of one answer.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Delivers the first event at once and the second after the pause.
struct Events {
    /// The last one first.
    left: Vec<&'static [u8]>,
    /// Sends what is there before it waits.
    cancellation: Cancellation,
}

impl Read for Events {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(event) = self.left.pop() else { return Ok(0) };
        if self.left.is_empty() {
            self.cancellation.pause(PAUSE)?;
        }
        let n = event.len().min(buffer.len());
        buffer[..n].copy_from_slice(&event[..n]);
        if n < event.len() {
            self.left.push(&event[n..]);
        }
        Ok(n)
    }
}

impl Echo {
    /// The answer to a request.
    pub fn answer(&self, request: &Request<'_>) -> Response {
        let place = Place(self.0.clone());
        if self.0.fetch_add(1, Ordering::Relaxed) >= MAX_OPEN {
            return Response::text(
                StatusCode::TOO_MANY_REQUESTS,
                "others are looking at the moment; try again in a second",
            )
            .with(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        let first: &[u8] = match request.parts.headers.contains_key(AUTHORIZATION) {
            true => b"event: seen\ndata: {\"authorization\":true}\n\n",
            false => b"event: seen\ndata: {\"authorization\":false}\n\n",
        };
        let left: Vec<&[u8]> = vec![b"event: end\ndata: {}\n\n", first];
        let mut response = Response::new(StatusCode::OK)
            .with(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))
            .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
            .with(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        let reader = Box::new(Events { left, cancellation: Cancellation::of_stream(&request.client) });
        response.body = Payload::Stream { reader, length: None }.with_guard(place);
        response
    }
}
