//! Limits concurrent upstream requests and event streams: in total, for each server, and for each user of a server.
//!
//! Half of the places are shared out equally among the servers, and only their server can take those. The other half is for
//! whoever needs more. So a server that is slow, or is flooded, leaves the others their share.
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
    /// Those of one user at one server.
    pub requests_per_user: usize,
    /// Streams, open and reserved.
    pub streams: usize,
    /// Those of one user at one server.
    pub streams_per_user: usize,
}

/// Counts requests and streams, and enforces the limits.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    table: Mutex<Table>,
}

struct Table {
    bounds: Bounds,
    next: u64,
    admitted: HashMap<u64, Entry>,
    /// Number of published servers.
    published: usize,
    servers: HashMap<String, Counts>,
    /// Users at servers.
    users: HashMap<(String, UserId), Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    requests: usize,
    streams: usize,
}

/// One admitted request.
struct Entry {
    server: String,
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
    /// The name of the server that it is for.
    pub server: String,
    /// Most requests of this server, if it has a limit of its own.
    pub most: Option<usize>,
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
    /// Creates the limits without any admitted request, for one server.
    pub fn new(bounds: Bounds) -> Admission {
        let (servers, users) = (HashMap::new(), HashMap::new());
        let table = Table { bounds, next: 0, admitted: HashMap::new(), published: 1, servers, users };
        Admission(Arc::new(Inner { table: Mutex::new(table) }))
    }

    /// Other limits from now on, but for the requests in flight, since there are threads for those. Whoever is in stays.
    pub fn set_bounds(&self, bounds: Bounds) {
        let mut table = self.0.table();
        table.bounds = Bounds { requests: table.bounds.requests, ..bounds };
    }

    /// Shares the places out among so many servers from now on.
    pub fn share_among(&self, servers: usize) {
        self.0.table().published = servers.max(1);
    }

    /// Admits a request, or returns the response that refuses it.
    pub fn enter(&self, newcomer: Newcomer) -> Result<Permit, Box<Response>> {
        self.enter_at(newcomer, Instant::now())
    }

    fn enter_at(&self, newcomer: Newcomer, now: Instant) -> Result<Permit, Box<Response>> {
        let mut table = self.0.table();
        let bounds = &{ table.bounds };
        let Newcomer { server, user, .. } = &newcomer;
        let is_full = |table: &Table| !table.has_room(server, bounds.requests, |counts| counts.requests);
        let own = |table: &Table| table.of_user(server, user);
        let of_server = |table: &Table| table.servers.get(server).copied().unwrap_or_default();
        let is_over = |table: &Table| newcomer.most.is_some_and(|most| of_server(table).requests >= most);
        if is_full(&table) || is_over(&table) || own(&table).requests >= bounds.requests_per_user {
            table.reclassify(bounds, now);
        }
        let refuse = |status, text| Err(Box::new(busy(status, text)));
        if own(&table).requests >= bounds.requests_per_user {
            let text = "too many requests of this user are in flight (--max-requests-per-user, MAX_REQUESTS_PER_USER)";
            return refuse(StatusCode::TOO_MANY_REQUESTS, text);
        }
        if is_over(&table) {
            return refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests of this server are in flight (maxRequests)",
            );
        }
        if newcomer.wants_stream {
            if own(&table).streams >= bounds.streams_per_user {
                let text =
                    "too many event streams of this user are open (--max-streams-per-user, MAX_STREAMS_PER_USER)";
                return refuse(StatusCode::TOO_MANY_REQUESTS, text);
            }
            if !table.has_room(server, bounds.streams, |counts| counts.streams) {
                let text = "too many event streams are open (--max-streams, MAX_STREAMS)";
                return refuse(StatusCode::SERVICE_UNAVAILABLE, text);
            }
        }
        let mut cut = None;
        if is_full(&table) {
            cut = table.longest_upload(server, bounds, now).and_then(|number| table.leave(number));
            if cut.is_none() {
                let text = "too many requests are in flight (--max-requests, MAX_REQUESTS)";
                return refuse(StatusCode::SERVICE_UNAVAILABLE, text);
            }
        }
        let number = table.next;
        table.next += 1;
        let Newcomer { server, user, wants_stream, upload, .. } = newcomer;
        let entry =
            Entry { server, user, is_request: true, has_stream: wants_stream, since: now, answered: None, upload };
        table.enter(number, entry);
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
    fn of_user(&self, server: &str, user: &UserId) -> Counts {
        self.users.get(&(server.to_string(), user.clone())).copied().unwrap_or_default()
    }

    /// Is one of `bound` places free for this server: one of its own, or one of those for whoever needs more?
    fn has_room(&self, server: &str, bound: usize, count: impl Fn(&Counts) -> usize) -> bool {
        let own = bound / (2 * self.published);
        if self.servers.get(server).map_or(0, &count) < own {
            return true;
        }
        let beyond: usize = self.servers.values().map(|counts| count(counts).saturating_sub(own)).sum();
        beyond < bound.saturating_sub(own * self.published)
    }

    fn enter(&mut self, number: u64, entry: Entry) {
        let user = self.users.entry((entry.server.clone(), entry.user.clone())).or_default();
        let server = self.servers.entry(entry.server.clone()).or_default();
        for counts in [user, server] {
            counts.requests += usize::from(entry.is_request);
            counts.streams += usize::from(entry.has_stream);
        }
        self.admitted.insert(number, entry);
    }

    fn leave(&mut self, number: u64) -> Option<Entry> {
        let entry = self.admitted.remove(&number)?;
        let key = (entry.server.clone(), entry.user.clone());
        let counts = self.users.get_mut(&key).into_iter().chain(self.servers.get_mut(&entry.server));
        for counts in counts {
            counts.requests -= usize::from(entry.is_request);
            counts.streams -= usize::from(entry.has_stream);
        }
        if self.users.get(&key) == Some(&Counts::default()) {
            self.users.remove(&key);
        }
        if self.servers.get(&entry.server) == Some(&Counts::default()) {
            self.servers.remove(&entry.server);
        }
        Some(entry)
    }

    /// Counts a request as a stream from now on, if it has a reserved stream slot or one is free.
    fn become_stream(&mut self, number: u64, bounds: &Bounds) {
        let Some(mut entry) = self.leave(number) else { return };
        let own = self.of_user(&entry.server, &entry.user);
        let has_room = own.streams < bounds.streams_per_user
            && self.has_room(&entry.server, bounds.streams, |counts| counts.streams);
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

    /// The oldest request that is still uploading after [`LONG_UPLOAD`], of `server` or of a server that has taken more
    /// than its own places.
    fn longest_upload(&self, server: &str, bounds: &Bounds, now: Instant) -> Option<u64> {
        let own = bounds.requests / (2 * self.published);
        let is_fair = |entry: &Entry| {
            entry.server == server || self.servers.get(&entry.server).is_some_and(|counts| counts.requests > own)
        };
        let is_long = |entry: &Entry| {
            let is_under_way = entry.upload.as_ref().is_some_and(|(_, arriving)| arriving.load(Ordering::Relaxed));
            is_under_way && is_fair(entry) && now.saturating_duration_since(entry.since) > LONG_UPLOAD
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
            let bounds = table.bounds;
            table.become_stream(self.number, &bounds);
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
        let newcomer = Newcomer { server: String::new(), most: None, user: user(name), wants_stream, upload: None };
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
        assert_eq!((odd.status.as_u16(), admission.0.table().servers[""]), (200, Counts { requests: 1, streams: 1 }));
        drop(odd);
        assert!(!admission.0.table().users.contains_key(&(String::new(), user("b"))));
    }

    #[test]
    fn an_answer_without_end_gives_its_place_among_the_requests_back() {
        let admission = admission(1, 1, 9, 9);
        let _endless = enter(&admission, "a", true).unwrap().attach(answer(), false);
        assert_eq!(enter(&admission, "b", true).err(), Some(503));
        let later = Instant::now() + LONG_ANSWER + Duration::from_secs(1);
        let newcomer = |user| Newcomer { server: String::new(), most: None, user, wants_stream: true, upload: None };
        assert!(admission.enter_at(newcomer(user("b")), later).is_ok());
        assert!(admission.enter_at(newcomer(user("a")), later).is_ok(), "nor does it count for its user");
    }

    #[test]
    fn an_upload_that_takes_long_makes_room_and_one_that_is_done_does_not() {
        let admission = admission(2, 2, 9, 9);
        let (done, under_way) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let upload = |flag: &Arc<AtomicBool>| Newcomer {
            server: String::new(),
            most: None,
            user: user("a"),
            wants_stream: false,
            upload: Some((Weak::new(), flag.clone())),
        };
        let _works = admission.enter(upload(&done)).ok().unwrap();
        let slow = admission.enter(upload(&under_way)).ok().unwrap();
        assert_eq!(enter(&admission, "b", false).err(), Some(503));
        let later = Instant::now() + LONG_UPLOAD + Duration::from_secs(1);
        let newcomer = |user| Newcomer { server: String::new(), most: None, user, wants_stream: false, upload: None };
        let _b = admission.enter_at(newcomer(user("b")), later).ok().unwrap();
        assert!(admission.enter_at(newcomer(user("c")), later).is_err(), "there was one to be cut");
        // Dropping the permit of the request that was cut must not reduce the counts a second time.
        drop(slow);
        assert_eq!(admission.0.table().servers[""].requests, 2);
    }

    #[test]
    fn each_server_has_places_that_no_other_can_take() {
        let admission = admission(40, 40, 40, 40);
        admission.share_among(4);
        let enter = |server: &str, wants_stream| {
            let newcomer = Newcomer { server: server.into(), most: None, user: user("u"), wants_stream, upload: None };
            admission.enter(newcomer).map_err(|refusal| refusal.status.as_u16())
        };
        for wants_stream in [false, true] {
            let flood: Vec<_> = std::iter::from_fn(|| enter("a", wants_stream).ok()).take(100).collect();
            assert_eq!(flood.len(), 5 + 20, "its own places, and those for whoever needs more");
            let others: Vec<_> = ["b", "c", "d"]
                .iter()
                .flat_map(|server| {
                    std::iter::from_fn(|| enter(server, wants_stream).ok()).take(100).collect::<Vec<_>>()
                })
                .collect();
            assert_eq!((others.len(), flood.len() + others.len()), (15, 40), "the bound for all holds");
        }
        assert!(admission.0.table().servers.is_empty() && admission.0.table().users.is_empty());
    }

    /// Random arrivals and departures, against a model that only counts.
    #[test]
    fn the_bounds_hold_whatever_comes_and_goes() {
        let (servers, bound) = (["a", "b", "c"], 24);
        let admission = admission(bound, 100, 100, 100);
        admission.share_among(servers.len());
        let mut inside: Vec<(usize, Permit)> = Vec::new();
        let mut seed = 7u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let dice = usize::try_from(seed >> 33).unwrap();
            if dice % 5 < 2 && !inside.is_empty() {
                inside.swap_remove(dice / 5 % inside.len());
                continue;
            }
            let server = dice / 7 % servers.len();
            let own = |at: usize| inside.iter().filter(|(of, _)| *of == at).count();
            let share = bound / (2 * servers.len());
            let beyond: usize = (0..servers.len()).map(|at| own(at).saturating_sub(share)).sum();
            let is_expected = own(server) < share || beyond < bound - share * servers.len();
            let newcomer = Newcomer {
                server: servers[server].into(),
                most: None,
                user: user("u"),
                wants_stream: false,
                upload: None,
            };
            let entered = admission.enter(newcomer);
            assert_eq!(entered.is_ok(), is_expected);
            inside.extend(entered.ok().map(|permit| (server, permit)));
            assert!(inside.len() <= bound);
        }
    }

    #[test]
    fn a_server_can_have_a_limit_of_its_own() {
        let admission = admission(10, 10, 10, 10);
        let enter = || {
            let newcomer =
                Newcomer { server: "a".into(), most: Some(1), user: user("u"), wants_stream: false, upload: None };
            admission.enter(newcomer).map_err(|refusal| refusal.status.as_u16())
        };
        let first = enter().unwrap();
        assert_eq!(enter().err(), Some(503));
        drop(first);
        assert!(enter().is_ok());
    }
}
