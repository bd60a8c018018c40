//! How many upstream requests and streams there may be at one time, in all and for one user.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};

use http::StatusCode;
use http::header::RETRY_AFTER;

use crate::http::{Payload, Response};
use crate::identity::UserId;

/// The counts and their bounds.
pub struct Admission(Arc<Inner>);

struct Inner {
    requests: usize,
    per_user: usize,
    streams: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: usize,
    streams: usize,
    users: HashMap<UserId, usize>,
}

/// A request that was let in; dropping it makes room.
pub struct Permit {
    inner: Arc<Inner>,
    /// `None` once it counts as a stream.
    user: Option<UserId>,
}

impl Admission {
    /// Bounds on requests in flight, those of one user, and open streams.
    pub fn new(requests: usize, per_user: usize, streams: usize) -> Admission {
        Admission(Arc::new(Inner { requests, per_user, streams, counts: Mutex::default() }))
    }

    /// Lets a user's request in, or says why not.
    pub fn enter(&self, user: &UserId) -> Result<Permit, Box<Response>> {
        let mut counts = self.0.counts();
        if counts.requests >= self.0.requests {
            let text = "too many requests are in flight (--max-requests, MAX_REQUESTS)";
            return Err(Box::new(busy(StatusCode::SERVICE_UNAVAILABLE, text)));
        }
        let mine = counts.users.entry(user.clone()).or_default();
        if *mine >= self.0.per_user {
            let text = "too many requests of this user are in flight (--max-requests-per-user, MAX_REQUESTS_PER_USER)";
            return Err(Box::new(busy(StatusCode::TOO_MANY_REQUESTS, text)));
        }
        *mine += 1;
        counts.requests += 1;
        Ok(Permit { inner: self.0.clone(), user: Some(user.clone()) })
    }
}

fn busy(status: StatusCode, text: &str) -> Response {
    Response::text(status, text).with(RETRY_AFTER, 1)
}

impl Inner {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Permit {
    /// Keeps the permit for as long as the answer takes. An event stream, which may take hours, is counted as such.
    pub fn attach(mut self, mut response: Response, is_stream: bool) -> Response {
        let Payload::Stream { reader, length } = response.body else { return response };
        if is_stream && !self.become_stream() {
            return busy(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many event streams are open (--max-streams, MAX_STREAMS)",
            );
        }
        response.body = Payload::Stream { reader: Box::new(Admitted { reader, _permit: self }), length };
        response
    }

    fn become_stream(&mut self) -> bool {
        let mut counts = self.inner.counts();
        if counts.streams >= self.inner.streams {
            return false;
        }
        counts.streams += 1;
        counts.leave(self.user.take());
        true
    }
}

impl Counts {
    fn leave(&mut self, user: Option<UserId>) {
        let Some(user) = user else { return };
        self.requests -= 1;
        if let Some(count) = self.users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&user);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.inner.counts();
        match self.user.take() {
            Some(user) => counts.leave(Some(user)),
            None => counts.streams -= 1,
        }
    }
}

struct Admitted {
    reader: Box<dyn Read + Send>,
    _permit: Permit,
}

impl Read for Admitted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_room_comes_back() {
        let admission = Admission::new(3, 2, 1);
        let user = |name: &str| UserId(name.into());
        let a1 = admission.enter(&user("a")).ok().unwrap();
        let _a2 = admission.enter(&user("a")).ok().unwrap();
        assert_eq!(admission.enter(&user("a")).err().unwrap().status, 429);
        let _b = admission.enter(&user("b")).ok().unwrap();
        assert_eq!(admission.enter(&user("c")).err().unwrap().status, 503);
        drop(a1);
        assert!(admission.enter(&user("a")).is_ok());
    }

    #[test]
    fn streams_are_counted_apart() {
        let admission = Admission::new(1, 1, 1);
        let user = UserId("a".into());
        let stream = || Response {
            body: Payload::Stream { reader: Box::new(io::empty()), length: None },
            ..Response::new(StatusCode::OK)
        };
        let open = admission.enter(&user).ok().unwrap().attach(stream(), true);
        assert_eq!(admission.enter(&user).ok().unwrap().attach(stream(), true).status, 503);
        drop(open);
        assert_eq!(admission.enter(&user).ok().unwrap().attach(stream(), true).status, 200);
        assert!(admission.0.counts().users.is_empty());
    }
}
