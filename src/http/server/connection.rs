//! One connection: reads a request head, calls the handler, sends the answer, and starts again.
//!
//! A connection is a state machine that never blocks on its client, with three exceptions: while the body of an answer
//! is streamed, while a handler reads a long request body, and for some milliseconds in [`Connection::await_request`].
//! In all other places it returns what to wait for and until when, and goes back to the poller.

use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::handler::{Handler, Limits};
use super::held::Share;
use super::refusals::{NOT_PLAIN, TOO_LARGE, TOO_MUCH_HELD, body_refusal, framing, too_much_held};
use super::request_body::{Continuing, Full, Missing, SocketSource, Whole, send_continue, take_what_is_there};
use super::stage::{After, BodyStage, FlushStage, HeadStage, Stage, Step};
use super::wait::{Next, Wait, WaitFor};
use super::workers::Workers;
use super::write::{self, Prepared, Stream};
use crate::http::body::{Arriving, Body, HELD};
use crate::http::h1::framing::{BodyError, Framed, Progress};
use crate::http::h1::head::{self, Framing, Head, HeadError};
use crate::http::h1::input::Input;
use crate::http::request::{Request, RequestId};
use crate::http::response::{Response, UnderWay};
use crate::net::client_connection::{ClientConnection, Flushed, Handshake};
use crate::net::client_handle::ClientHandle;
use crate::net::shutdown::Shutdown;

/// Most bytes of an unread request body that are discarded in order to keep the connection.
const MAX_LEFTOVER: u64 = 64 << 10;
/// How long discarding them may take, after the answer.
const LEFTOVER_TIME: Duration = Duration::from_secs(2);
/// How long a client may go on sending after the last answer: in total, and without sending a byte. Closing earlier
/// would reset the connection, and the client could lose the answer.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// Pipelined requests that are answered before other connections get their turn.
const IN_A_ROW: usize = 16;
/// If a client sends its next request within this time, the worker itself waits for the following one (if there is
/// nothing else to do) instead of giving the connection back to the poller.
const BRISK: Duration = Duration::from_millis(1);
/// How long a new connection may wait for its first request when the server shuts down.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What a connection needs from its server.
pub(super) struct Services<'s> {
    pub(super) handler: &'s dyn Handler,
    pub(super) limits: &'s Limits,
    pub(super) shutdown: &'s Shutdown,
    pub(super) workers: &'s Workers,
}

/// The connection of one client.
pub(super) struct Connection {
    socket: Arc<ClientConnection>,
    peer: IpAddr,
    /// The index of the listener that accepted it.
    listener_index: usize,
    input: Input<SocketSource>,
    stage: Stage,
    /// The socket may have bytes that have not been read.
    readable: bool,
    /// When its wait for a request began, and whether the last such wait was short.
    idle_since: Option<Instant>,
    is_brisk: bool,
    /// The answer that is being sent, if somebody wants to know when it ends.
    under_way: Option<UnderWay>,
    /// See [`Connection::may_begin_until`].
    may_begin_until: Option<Instant>,
}

impl Connection {
    /// A connection that was accepted on the listener with the index `listener_index`, and what it waits for first.
    pub(super) fn new(
        socket: ClientConnection,
        peer: IpAddr,
        listener_index: usize,
        limits: &Limits,
    ) -> (Connection, Wait) {
        let (stage, patience) = match socket.is_encrypted() {
            true => (Stage::Handshake(Instant::now() + limits.handshake_timeout), limits.handshake_timeout),
            false => (Stage::Head(HeadStage::default()), limits.idle_timeout),
        };
        let socket = Arc::new(socket);
        let input = Input::new(SocketSource { socket: socket.clone(), in_person: false });
        let connection = Connection {
            socket,
            peer,
            listener_index,
            input,
            stage,
            readable: false,
            idle_since: None,
            is_brisk: false,
            under_way: None,
            may_begin_until: Some(Instant::now() + FIRST_REQUEST),
        };
        (connection, Wait { for_what: WaitFor::Request, deadline: Instant::now() + patience })
    }

    pub(super) fn socket(&self) -> &Arc<ClientConnection> {
        &self.socket
    }

    /// The address of its other end.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The index of the listener that accepted it.
    pub(super) fn listener_index(&self) -> usize {
        self.listener_index
    }

    /// Until when its first request may come if the server shuts down, in case that none has come yet.
    pub(super) fn may_begin_until(&self) -> Option<Instant> {
        self.may_begin_until
    }

    /// Has the client sent anything that has not been read?
    pub(super) fn has_bytes(&self) -> bool {
        self.socket.has_bytes()
    }

    /// Does all that is possible without blocking. `ready` says that the poller reported the socket as ready.
    pub(super) fn go_on(&mut self, ready: bool, services: &Services<'_>) -> Next {
        self.readable = ready;
        if let Some(since) = self.idle_since.take() {
            self.is_brisk = since.elapsed() <= BRISK;
        }
        let mut answered = 0;
        loop {
            let step = match std::mem::replace(&mut self.stage, Stage::Ended) {
                Stage::Handshake(deadline) => self.shake_hands(deadline, services.limits),
                Stage::Head(_) if answered >= IN_A_ROW && self.knows_of_more() => {
                    let deadline = Instant::now() + services.limits.idle_timeout;
                    Step::Wait(Stage::Head(HeadStage::default()), Wait { for_what: WaitFor::Turn, deadline })
                }
                Stage::Head(stage) => {
                    answered += 1;
                    self.read_head(stage, services)
                }
                Stage::Body(stage) => self.read_body(stage, services),
                Stage::Flush(stage) => self.flush(stage, services.limits),
                Stage::Leftover(stage) => self.read_leftover(stage, services.limits),
                Stage::Linger { until, left } => self.linger(until, left),
                Stage::Ended => Step::Close,
            };
            match step {
                Step::Go(stage) => self.stage = stage,
                Step::Wait(stage, wait) => {
                    self.stage = stage;
                    return Next::Wait(wait);
                }
                Step::Close => return Next::Close,
            }
        }
    }

    /// True if there may be more to read: the socket was reported as ready, or bytes are buffered.
    fn knows_of_more(&self) -> bool {
        self.readable || !self.input.buffered().is_empty() || self.socket.has_more()
    }

    /// True if the last wait for a request of this client was at most [`BRISK`] long.
    pub(super) fn is_brisk(&self) -> bool {
        self.is_brisk
    }

    /// Blocks this thread for the next request, for up to [`BRIEF`](crate::net::poll::BRIEF). `Some(true)` if bytes
    /// came, `Some(false)` if the connection ended or failed, `None` if neither happened.
    pub(super) fn await_request(&mut self, limits: &Limits) -> Option<bool> {
        self.input.source_mut().in_person = true;
        self.readable = true;
        self.fill(limits.head_size).map(|read| matches!(read, Ok(1..)))
    }

    /// Called when the deadline of the last [`Wait`] has passed.
    pub(super) fn time_is_up(&mut self, services: &Services<'_>) -> Next {
        let step = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Head(HeadStage { deadline: Some(_), .. }) => {
                let error = HeadError {
                    status: StatusCode::REQUEST_TIMEOUT,
                    reason: "the request head did not arrive in time",
                };
                self.refuse(error, services.limits)
            }
            Stage::Body(stage) => {
                let framing = framing(&stage.head, false);
                self.answer_and_close(body_refusal(BodyError::Timeout), framing, services.limits)
            }
            Stage::Head(_) => {
                self.socket.end();
                Step::Close
            }
            _ => Step::Close,
        };
        match step {
            Step::Go(stage) => {
                self.stage = stage;
                self.go_on(false, services)
            }
            Step::Wait(stage, wait) => {
                self.stage = stage;
                Next::Wait(wait)
            }
            Step::Close => Next::Close,
        }
    }

    fn shake_hands(&mut self, deadline: Instant, limits: &Limits) -> Step {
        let wait = |for_what| Step::Wait(Stage::Handshake(deadline), Wait { for_what, deadline });
        match self.socket.handshake() {
            // ALPN selected another protocol than HTTP: such a connection ends with the handshake (RFC 8737 section 3).
            Ok(Handshake::Done) if !self.socket.speaks(b"http/1.1") => {
                self.socket.end();
                Step::Close
            }
            Ok(Handshake::Done) => {
                self.readable = true;
                Step::Go(Stage::Head(HeadStage::default()))
            }
            Ok(Handshake::NeedsBytes) => wait(WaitFor::Readable),
            Ok(Handshake::NeedsRoom) => wait(WaitFor::Writable),
            Ok(Handshake::IsPlainHttp) => {
                self.readable = true;
                self.refuse(NOT_PLAIN, limits)
            }
            Err(e) => {
                log::debug!(address:% = self.peer, error:% = e; "a TLS handshake failed");
                Step::Close
            }
        }
    }

    /// Reads what has arrived, once each time the socket was reported as ready. `None` if there is nothing.
    fn fill(&mut self, size: usize) -> Option<io::Result<usize>> {
        if !std::mem::take(&mut self.readable) && !self.socket.has_more() {
            return None;
        }
        match self.input.fill(size, Duration::ZERO) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            other => Some(other),
        }
    }

    fn read_head(&mut self, mut stage: HeadStage, services: &Services<'_>) -> Step {
        let limits = services.limits;
        loop {
            if !stage.forgiven && self.input.buffered().starts_with(b"\r\n") {
                self.input.consume(2);
                (stage.forgiven, stage.seen) = (true, 0);
            }
            match head::find_end(self.input.buffered(), stage.seen) {
                Err(error) => return self.refuse(error, limits),
                Ok(Some(end)) if end > limits.head_size => return self.refuse(TOO_LARGE, limits),
                Ok(Some(end)) => {
                    let head = head::parse(&self.input.buffered()[..end], limits.head_fields);
                    self.input.consume(end);
                    return match head {
                        Ok(head) => self.begin(head, services),
                        Err(error) => self.refuse(error, limits),
                    };
                }
                Ok(None) => {}
            }
            stage.seen = self.input.buffered().len();
            if stage.seen >= limits.head_size {
                return self.refuse(TOO_LARGE, limits);
            }
            match self.fill(limits.head_size) {
                Some(Ok(1..)) => {}
                Some(_) => return Step::Close,
                None if stage.seen == 0 && !stage.forgiven => {
                    self.input.release();
                    let now = Instant::now();
                    self.idle_since = Some(now);
                    let wait = Wait { for_what: WaitFor::Request, deadline: now + limits.idle_timeout };
                    return Step::Wait(Stage::Head(stage), wait);
                }
                None => {
                    if !stage.share.hold(self.input.buffered().len()) {
                        return self.refuse(TOO_MUCH_HELD, limits);
                    }
                    let deadline = *stage.deadline.get_or_insert_with(|| Instant::now() + limits.head_timeout);
                    return Step::Wait(Stage::Head(stage), Wait { for_what: WaitFor::Readable, deadline });
                }
            }
        }
    }

    /// Continues after a head was parsed: reads a short body first if the handler needs it, then calls the handler.
    fn begin(&mut self, mut head: Head, services: &Services<'_>) -> Step {
        let limits = services.limits;
        self.may_begin_until = None;
        let mut progress = Progress::new(head.framing, limits.body_size, limits.body_timeout);
        match head.framing {
            Framing::None => return self.answer(head, progress, Vec::new(), services),
            Framing::Length(n) if n > limits.body_size => {
                let framing = framing(&head, false);
                return self.answer_and_close(body_refusal(BodyError::TooLarge), framing, limits);
            }
            Framing::Length(n) if n > HELD as u64 => return self.answer(head, progress, Vec::new(), services),
            _ => {}
        }
        let mut held = Vec::new();
        let whole = take_what_is_there(&mut self.input, &mut progress, &mut held);
        if !matches!(whole, Ok(Missing)) || !services.handler.wants_body(&head.parts, self.peer) {
            return self.answer(head, progress, held, services);
        }
        if std::mem::take(&mut head.expects_continue) && held.is_empty() && send_continue(&self.socket).is_err() {
            return Step::Close;
        }
        Step::Go(Stage::Body(Box::new(BodyStage { head, progress, held, share: Share::default() })))
    }

    fn read_body(&mut self, mut stage: Box<BodyStage>, services: &Services<'_>) -> Step {
        if !std::mem::take(&mut self.readable) {
            self.input.release();
            if !stage.share.hold(stage.held.len()) {
                let framing = framing(&stage.head, false);
                return self.answer_and_close(too_much_held(), framing, services.limits);
            }
            let deadline = stage.progress.deadline();
            return Step::Wait(Stage::Body(stage), Wait { for_what: WaitFor::Readable, deadline });
        }
        match take_what_is_there(&mut self.input, &mut stage.progress, &mut stage.held) {
            Ok(Missing) => Step::Go(Stage::Body(stage)),
            // The client has ended the connection.
            Err(e) if BodyError::of(&e) == Some(BodyError::Gone) => Step::Close,
            Ok(Whole | Full) | Err(_) => {
                let BodyStage { head, progress, held, .. } = *stage;
                self.answer(head, progress, held, services)
            }
        }
    }

    /// Calls the handler and sends its answer.
    fn answer(&mut self, head: Head, mut progress: Progress, held: Vec<u8>, services: &Services<'_>) -> Step {
        let expects = head.expects_continue && held.is_empty() && !progress.is_done();
        let mut framing = framing(&head, true);
        let id = RequestId::next();
        let peer = self.peer;
        let client = ClientHandle::new(self.socket.clone(), services.shutdown.clone(), services.limits.body_timeout);
        let is_done = progress.is_done();
        let framed = Framed::new(&mut self.input, &mut progress);
        let is_under_way = Arc::new(AtomicBool::new(!is_done));
        let mut reader =
            Continuing { expects, socket: &self.socket, inner: framed, is_under_way: is_under_way.clone() };
        let rest = (!is_done).then_some(&mut reader as &mut dyn Arriving);
        let body = Body::new(held, rest, head.framing);
        let request = Request { body, parts: head.parts, peer, id, client: client.clone() };
        let mut response = catch_unwind(AssertUnwindSafe(|| services.handler.handle(request))).unwrap_or_else(|_| {
            log::error!(request:% = id; "internal error: the request handler panicked; answered with 500");
            Response::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        });
        self.under_way = response.under_way(framing.head);
        is_under_way.store(false, Ordering::Relaxed);
        framing.keep_alive &= !services.shutdown.has_begun();
        if !progress.is_done() && (head.expects_continue || progress.left().is_none_or(|n| n > MAX_LEFTOVER)) {
            // A client that waits for 100 Continue may never send its body. A long body, or one of unknown length,
            // costs too much to discard.
            framing.keep_alive = false;
        }
        let Prepared { bytes, stream, keep_alive } = write::prepare(response, framing);
        let then = if keep_alive { After::Keep(progress) } else { After::Close };
        match stream {
            None => self.send(bytes, then, services.limits),
            Some(stream) => self.pass_on(client, bytes, stream, then, services),
        }
    }

    /// Starts to send an answer that is completely in memory.
    fn send(&mut self, bytes: Vec<u8>, then: After, limits: &Limits) -> Step {
        let deadline = Instant::now() + limits.body_timeout;
        self.flush(Box::new(FlushStage { bytes, sent: 0, deadline, then }), limits)
    }

    /// Sends an answer whose body is streamed.
    fn pass_on(
        &mut self,
        client: ClientHandle,
        head: Vec<u8>,
        stream: Stream,
        then: After,
        services: &Services<'_>,
    ) -> Step {
        let endless = stream.length.is_none();
        let size = head.len();
        let copy = || client.put(head, 0..size).and_then(|_| stream.copy(&client));
        let copy = || catch_unwind(AssertUnwindSafe(copy)).unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        let sent = if endless { services.workers.without_me(copy) } else { copy() };
        if matches!(then, After::Close) && sent.is_ok() {
            self.socket.say_goodbye();
        }
        match sent.and(client.flush()) {
            Ok(()) => self.after(then, services.limits),
            Err(e) => {
                log::debug!(address:% = self.peer, error:% = e; "an answer could not be sent completely; the connection is closed");
                Step::Close
            }
        }
    }

    fn flush(&mut self, mut stage: Box<FlushStage>, limits: &Limits) -> Step {
        while stage.sent < stage.bytes.len() {
            match self.socket.send_now(&stage.bytes[stage.sent..]) {
                Ok(0) => break,
                Ok(n) => {
                    stage.sent += n;
                    stage.deadline = Instant::now() + limits.body_timeout;
                }
                Err(_) => return Step::Close,
            }
        }
        let is_whole = stage.sent == stage.bytes.len();
        if is_whole && matches!(stage.then, After::Close) {
            self.socket.say_goodbye();
        }
        match self.socket.flush_now() {
            Ok(Flushed::All) if is_whole => self.after(stage.then, limits),
            Ok(flushed) => {
                if flushed == Flushed::Some {
                    stage.deadline = Instant::now() + limits.body_timeout;
                }
                let wait = Wait { for_what: WaitFor::Writable, deadline: stage.deadline };
                Step::Wait(Stage::Flush(stage), wait)
            }
            Err(_) => Step::Close,
        }
    }

    /// Decides what follows after an answer was sent completely.
    fn after(&mut self, then: After, limits: &Limits) -> Step {
        if let Some(answer) = self.under_way.take() {
            answer.complete();
        }
        match then {
            After::Keep(progress) if progress.is_done() => Step::Go(Stage::Head(HeadStage::default())),
            After::Keep(progress) => Step::Go(Stage::Leftover(Box::new((progress, Instant::now() + LEFTOVER_TIME)))),
            After::Close => {
                self.socket.end();
                self.readable = true;
                self.input.release();
                Step::Go(Stage::Linger { until: Instant::now() + LINGER, left: limits.body_size })
            }
        }
    }

    fn read_leftover(&mut self, mut stage: Box<(Progress, Instant)>, limits: &Limits) -> Step {
        let mut waste = Vec::new();
        match take_what_is_there(&mut self.input, &mut stage.0, &mut waste) {
            Ok(Whole) => Step::Go(Stage::Head(HeadStage::default())),
            Ok(Missing) => {
                let deadline = stage.1;
                Step::Wait(Stage::Leftover(stage), Wait { for_what: WaitFor::Readable, deadline })
            }
            Ok(Full) | Err(_) => self.after(After::Close, limits),
        }
    }

    fn linger(&mut self, until: Instant, mut left: u64) -> Step {
        self.input.consume(self.input.buffered().len());
        loop {
            match self.fill(MAX_LEFTOVER as usize) {
                Some(Ok(n @ 1..)) if left > n as u64 => {
                    left -= n as u64;
                    self.input.consume(n);
                    self.readable = true;
                }
                Some(_) => return Step::Close,
                None => {
                    let deadline = until.min(Instant::now() + LINGER_SILENCE);
                    if deadline <= Instant::now() {
                        return Step::Close;
                    }
                    self.input.release();
                    return Step::Wait(Stage::Linger { until, left }, Wait { for_what: WaitFor::Readable, deadline });
                }
            }
        }
    }

    /// Sends an answer that is completely in memory, then closes the connection.
    fn answer_and_close(&mut self, response: Response, framing: write::Framing, limits: &Limits) -> Step {
        self.send(write::prepare(response, framing).bytes, After::Close, limits)
    }

    /// Answers a request head that is refused, then closes the connection.
    fn refuse(&mut self, error: HeadError, limits: &Limits) -> Step {
        log::debug!(status = error.status.as_u16(), reason = error.reason; "a request was refused");
        let framing = write::Framing { head: false, http11: true, keep_alive: false };
        self.answer_and_close(Response::text(error.status, error.reason), framing, limits)
    }
}
