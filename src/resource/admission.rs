//! Limits concurrent upstream requests and event streams, in total and per user.
//!
//! A request that may be answered by an event stream reserves a stream slot before it is forwarded, because a request
//! that the upstream server has already processed must not be refused afterwards. A request whose answer takes long is
//! counted as a stream as well. When all request slots are taken, an upload that takes long is cut to make room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::RETRY_AFTER;

use crate::http::{Payload, Response};
use crate::identity::UserId;
use crate::lock::Unpoisoned;
use crate::net::client_connection::ClientConnection;

/// An answer that takes longer than this is counted as a stream, whatever its Content-Type is.
const LONG_ANSWER: Duration = Duration::from_secs(10);
/// An upload that takes longer than this may be cut to make room for another request.
const LONG_UPLOAD: Duration = Duration::from_secs(30);

/// The limits.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests in flight.
    pub requests: usize,
    /// Those of one user.
    pub requests_per_user: usize,
    /// Streams, open and reserved.
    pub streams: usize,
    /// Those of one user.
    pub streams_per_user: usize,
}

/// Counts requests and streams, and enforces the limits.
pub struct Admission(Arc<Inner>);

struct Inner {
    bounds: Bounds,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    admitted: HashMap<u64, Entry>,
    all: Counts,
    users: HashMap<UserId, Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    requests: usize,
    streams: usize,
}

/// One admitted request.
struct Entry {
    user: UserId,
    is_request: bool,
    has_stream: bool,
    since: Instant,
    /// When its answer began.
    answered: Option<Instant>,
    /// See [`Newcomer::upload`].
    upload: Option<(Weak<ClientConnection>, Arc<AtomicBool>)>,
}

/// A request that asks for admission.
pub struct Newcomer {
    /// The user who sent it.
    pub user: UserId,
    /// May it be answered by an event stream?
    pub wants_stream: bool,
    /// The client's connection, and a flag that is true while the body is arriving; `None` if the body was already
    /// complete.
    pub upload: Option<(Weak<ClientConnection>, Arc<AtomicBool>)>,
}

/// An admitted request. Dropping it frees its slots.
pub struct Permit {
    inner: Arc<Inner>,
    number: u64,
}

impl Admission {
    /// Creates the limits without any admitted request.
    pub fn new(bounds: Bounds) -> Admission {
        Admission(Arc::new(Inner { bounds, table: Mutex::default() }))
    }

    /// Admits a request, or returns the response that refuses it.
    pub fn enter(&self, newcomer: Newcomer) -> Result<Permit, Box<Response>> {
        self.enter_at(newcomer, Instant::now())
    }

    fn enter_at(&self, newcomer: Newcomer, now: Instant) -> Result<Permit, Box<Response>> {
        let (bounds, mut table) = (&self.0.bounds, self.0.table());
        let own = |table: &Table| table.users.get(&newcomer.user).copied().unwrap_or_default();
        if table.all.requests >= bounds.requests || own(&table).requests >= bounds.requests_per_user {
            table.reclassify(bounds, now);
        }
        if own(&table).requests >= bounds.requests_per_user {
            let text = "too many requests of this user are in flight (--max-requests-per-user, MAX_REQUESTS_PER_USER)";
            return Err(Box::new(busy(StatusCode::TOO_MANY_REQUESTS, text)));
        }
        if newcomer.wants_stream {
            if own(&table).streams >= bounds.streams_per_user {
                let text =
                    "too many event streams of this user are open (--max-streams-per-user, MAX_STREAMS_PER_USER)";
                return Err(Box::new(busy(StatusCode::TOO_MANY_REQUESTS, text)));
            }
            if table.all.streams >= bounds.streams {
                let text = "too many event streams are open (--max-streams, MAX_STREAMS)";
                return Err(Box::new(busy(StatusCode::SERVICE_UNAVAILABLE, text)));
            }
        }
        let mut cut = None;
        if table.all.requests >= bounds.requests {
            cut = table.longest_upload(now).and_then(|number| table.leave(number));
            if cut.is_none() {
                let text = "too many requests are in flight (--max-requests, MAX_REQUESTS)";
                return Err(Box::new(busy(StatusCode::SERVICE_UNAVAILABLE, text)));
            }
        }
        let number = table.next;
        table.next += 1;
        let Newcomer { user, wants_stream, upload } = newcomer;
        table.enter(
            number,
            Entry { user, is_request: true, has_stream: wants_stream, since: now, answered: None, upload },
        );
        drop(table);
        if let Some(Entry { user, upload: Some((client, _)), .. }) = cut {
            log::warn!(user:% = user; "an upload that takes long was cut to make room for another request (--max-requests, MAX_REQUESTS)");
            client.upgrade().inspect(|client| client.cut());
        }
        Ok(Permit { inner: self.0.clone(), number })
    }
}

fn busy(status: StatusCode, text: &str) -> Response {
    Response::text(status, text).with(RETRY_AFTER, 1)
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unpoisoned()
    }
}

impl Table {
    fn enter(&mut self, number: u64, entry: Entry) {
        let own = self.users.entry(entry.user.clone()).or_default();
        for counts in [own, &mut self.all] {
            counts.requests += usize::from(entry.is_request);
            counts.streams += usize::from(entry.has_stream);
        }
        self.admitted.insert(number, entry);
    }

    fn leave(&mut self, number: u64) -> Option<Entry> {
        let entry = self.admitted.remove(&number)?;
        let own = self.users.get_mut(&entry.user).into_iter();
        for counts in own.chain([&mut self.all]) {
            counts.requests -= usize::from(entry.is_request);
            counts.streams -= usize::from(entry.has_stream);
        }
        if self.users.get(&entry.user) == Some(&Counts::default()) {
            self.users.remove(&entry.user);
        }
        Some(entry)
    }

    /// Counts a request as a stream from now on, if it has a reserved stream slot or one is free.
    fn become_stream(&mut self, number: u64, bounds: &Bounds) {
        let Some(mut entry) = self.leave(number) else { return };
        let own = self.users.get(&entry.user).copied().unwrap_or_default();
        let has_room = own.streams < bounds.streams_per_user && self.all.streams < bounds.streams;
        if entry.has_stream || has_room {
            (entry.is_request, entry.has_stream) = (false, true);
        }
        self.enter(number, entry);
    }

    /// Counts requests with long answers as streams, so that they no longer occupy request slots.
    fn reclassify(&mut self, bounds: &Bounds, now: Instant) {
        let is_long = |entry: &Entry| {
            entry.is_request && entry.answered.is_some_and(|at| now.saturating_duration_since(at) > LONG_ANSWER)
        };
        let long: Vec<u64> = self.admitted.iter().filter(|(_, entry)| is_long(entry)).map(|(n, _)| *n).collect();
        long.into_iter().for_each(|number| self.become_stream(number, bounds));
    }

    /// The oldest request that is still uploading after [`LONG_UPLOAD`].
    fn longest_upload(&self, now: Instant) -> Option<u64> {
        let is_long = |entry: &Entry| {
            let is_under_way = entry.upload.as_ref().is_some_and(|(_, arriving)| arriving.load(Ordering::Relaxed));
            is_under_way && now.saturating_duration_since(entry.since) > LONG_UPLOAD
        };
        let long = self.admitted.iter().filter(|(_, entry)| is_long(entry));
        long.min_by_key(|(_, entry)| entry.since).map(|(number, _)| *number)
    }
}

impl Permit {
    /// Holds the permit until the response body is dropped. An event stream, which may take hours, is counted as a
    /// stream.
    pub fn attach(self, mut response: Response, is_stream: bool) -> Response {
        if !matches!(response.body, Payload::Stream { .. }) {
            return response;
        }
        let mut table = self.inner.table();
        if is_stream {
            table.become_stream(self.number, &self.inner.bounds);
        } else if let Some(entry) = table.admitted.get_mut(&self.number) {
            entry.answered = Some(Instant::now());
        }
        drop(table);
        response.body = response.body.with_guard(self);
        response
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inner.table().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(requests: usize, requests_per_user: usize, streams: usize, streams_per_user: usize) -> Admission {
        Admission::new(Bounds { requests, requests_per_user, streams, streams_per_user })
    }

    fn user(name: &str) -> UserId {
        UserId(name.into())
    }

    fn enter(admission: &Admission, name: &str, wants_stream: bool) -> Result<Permit, u16> {
        let newcomer = Newcomer { user: user(name), wants_stream, upload: None };
        admission.enter(newcomer).map_err(|refusal| refusal.status.as_u16())
    }

    fn answer() -> Response {
        Response {
            body: Payload::Stream { reader: Box::new(std::io::empty()), length: None },
            ..Response::new(StatusCode::OK)
        }
    }

    #[test]
    fn bounds_hold_and_room_comes_back() {
        let admission = admission(3, 2, 1, 1);
        let a1 = enter(&admission, "a", false).unwrap();
        let _a2 = enter(&admission, "a", false).unwrap();
        assert_eq!(enter(&admission, "a", false).err(), Some(429));
        let _b = enter(&admission, "b", false).unwrap();
        assert_eq!(enter(&admission, "c", false).err(), Some(503));
        drop(a1);
        assert!(enter(&admission, "a", false).is_ok());
    }

    #[test]
    fn a_place_for_a_stream_is_reserved_before_and_each_user_has_a_share() {
        let admission = admission(10, 10, 3, 2);
        let reserved = enter(&admission, "a", true).unwrap();
        let open = enter(&admission, "a", true).unwrap().attach(answer(), true);
        assert_eq!(enter(&admission, "a", true).err(), Some(429), "a share for each user");
        let _b = enter(&admission, "b", true).unwrap().attach(answer(), true);
        assert_eq!(enter(&admission, "c", true).err(), Some(503));
        assert!(enter(&admission, "c", false).is_ok(), "what wants no stream needs no place");
        // It uses its reserved slot: a request must not be refused after the server has processed it.
        assert_eq!(reserved.attach(answer(), true).status, 200);
        drop(open);
        assert!(enter(&admission, "c", true).is_ok());
    }

    #[test]
    fn a_stream_that_nobody_asked_for_is_not_refused_but_stays_a_request() {
        let admission = admission(2, 2, 1, 1);
        let _a = enter(&admission, "a", true).unwrap().attach(answer(), true);
        let odd = enter(&admission, "b", false).unwrap().attach(answer(), true);
        assert_eq!((odd.status.as_u16(), admission.0.table().all), (200, Counts { requests: 1, streams: 1 }));
        drop(odd);
        assert!(!admission.0.table().users.contains_key(&user("b")));
    }

    #[test]
    fn an_answer_without_end_gives_its_place_among_the_requests_back() {
        let admission = admission(1, 1, 9, 9);
        let _endless = enter(&admission, "a", true).unwrap().attach(answer(), false);
        assert_eq!(enter(&admission, "b", true).err(), Some(503));
        let later = Instant::now() + LONG_ANSWER + Duration::from_secs(1);
        let newcomer = |user| Newcomer { user, wants_stream: true, upload: None };
        assert!(admission.enter_at(newcomer(user("b")), later).is_ok());
        assert!(admission.enter_at(newcomer(user("a")), later).is_ok(), "nor does it count for its user");
    }

    #[test]
    fn an_upload_that_takes_long_makes_room_and_one_that_is_done_does_not() {
        let admission = admission(2, 2, 9, 9);
        let (done, under_way) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let upload = |flag: &Arc<AtomicBool>| Newcomer {
            user: user("a"),
            wants_stream: false,
            upload: Some((Weak::new(), flag.clone())),
        };
        let _works = admission.enter(upload(&done)).ok().unwrap();
        let slow = admission.enter(upload(&under_way)).ok().unwrap();
        assert_eq!(enter(&admission, "b", false).err(), Some(503));
        let later = Instant::now() + LONG_UPLOAD + Duration::from_secs(1);
        let newcomer = |user| Newcomer { user, wants_stream: false, upload: None };
        let _b = admission.enter_at(newcomer(user("b")), later).ok().unwrap();
        assert!(admission.enter_at(newcomer(user("c")), later).is_err(), "there was one to be cut");
        // Dropping the permit of the request that was cut must not reduce the counts a second time.
        drop(slow);
        assert_eq!(admission.0.table().all.requests, 2);
    }
}
