//! One connection: read a head, have it answered, write the answer, again.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, Version};

use super::body::{Framed, Input, SocketSource};
use super::head::{self, Framing, Head, HeadError};
use super::{Body, BodyError, Handler, Limits, Request, RequestId, Response, response};

/// Bytes of a body that the handler did not want which are read away to keep the connection.
const MAX_LEFTOVER: u64 = 64 << 10;
/// How long that may take, after the answer.
const LEFTOVER_TIME: Duration = Duration::from_secs(2);
/// How long a client may go on sending a body that was refused, in all and without a byte. Cutting it sooner would
/// reset the connection and take the answer with it.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// What a connection tells the registry about itself.
pub(super) trait Progress {
    /// Waiting for a request: may be closed at any time. False when the server is draining.
    fn idle(&self) -> bool;
    /// A request has begun. False when the server closed the connection first.
    fn busy(&self) -> bool;
    /// The server accepts no further requests.
    fn is_draining(&self) -> bool;
}

/// Serves `socket` until either side has had enough.
pub(super) fn serve(
    socket: &Arc<TcpStream>,
    peer: IpAddr,
    handler: &dyn Handler,
    limits: &Limits,
    progress: &dyn Progress,
) {
    let _ = socket.set_nodelay(true);
    let _ = socket.set_write_timeout(Some(limits.body_timeout));
    let mut input = Input::new(SocketSource::new(socket.clone()));
    loop {
        let head = match read_head(&mut input, limits, progress) {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(error) => {
                refuse(socket, &mut input, error, limits.body_size);
                return;
            }
        };
        match exchange(socket, &mut input, head, peer, handler, limits, progress) {
            Ok(true) => {}
            Ok(false) => {
                linger(socket, &mut input, limits.body_size);
                return;
            }
            Err(_) => return,
        }
    }
}

/// The next head; `None` when the connection ended, or stayed idle too long, between requests.
fn read_head(
    input: &mut Input<SocketSource>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Option<Head>, HeadError> {
    // RFC 9112 section 2.2: one empty line before the request line is forgiven.
    let mut forgiven = false;
    let mut deadline: Option<Instant> = None;
    let mut seen = 0;
    loop {
        if !forgiven && input.buffered().starts_with(b"\r\n") {
            input.consume(2);
            (forgiven, seen) = (true, 0);
        }
        if let Some(end) = head::find_end(input.buffered(), seen)? {
            if end > limits.head_size {
                return Err(too_large());
            }
            let head = head::parse(&input.buffered()[..end], limits.head_fields);
            input.consume(end);
            return head.map(Some);
        }
        seen = input.buffered().len();
        if seen >= limits.head_size {
            return Err(too_large());
        }
        let started = seen > 0 || forgiven;
        if !started {
            input.release();
            if !progress.idle() {
                return Ok(None);
            }
        }
        let wait = match (started, deadline) {
            (false, _) => limits.idle_timeout,
            // The deadline starts with the first read that did not bring the whole head.
            (true, None) => {
                deadline = Some(Instant::now() + limits.head_timeout);
                limits.head_timeout
            }
            (true, Some(deadline)) => deadline.saturating_duration_since(Instant::now()),
        };
        match if wait.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { input.fill(limits.head_size, wait) } {
            Ok(0) => return Ok(None),
            Ok(_) => drop(progress.busy()),
            Err(e) if e.kind() == io::ErrorKind::TimedOut && started => {
                return Err(HeadError {
                    status: StatusCode::REQUEST_TIMEOUT,
                    reason: "the request head did not arrive in time",
                });
            }
            Err(_) => return Ok(None),
        }
    }
}

fn too_large() -> HeadError {
    HeadError { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "the request head is too large" }
}

/// Has one request answered; true when the connection may carry another.
fn exchange(
    socket: &Arc<TcpStream>,
    input: &mut Input<SocketSource>,
    head: Head,
    peer: IpAddr,
    handler: &dyn Handler,
    limits: &Limits,
    progress: &dyn Progress,
) -> io::Result<bool> {
    let Head { parts, framing, keep_alive, expects_continue } = head;
    let is_head = parts.method == Method::HEAD;
    let http11 = parts.version == Version::HTTP_11;
    let id = RequestId::next();

    let mut send_continue = || (&**socket).write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut framed = Framed::new(input, framing, limits.body_size, limits.body_timeout);
    if expects_continue {
        framed.on_first_wait(&mut send_continue);
    }
    let response = if matches!(framing, Framing::Length(n) if n > limits.body_size) {
        body_refusal(BodyError::TooLarge)
    } else {
        // With the connection half closed by the drain, the client would look as if it had gone.
        let watched = progress.busy().then(|| socket.clone());
        let request = Request { parts, body: Body::new(&mut framed, framing), peer, id, socket: watched };
        catch_unwind(AssertUnwindSafe(|| handler.handle(request))).unwrap_or_else(|_| {
            log::error!(request:% = id; "a request failed by a fault of this program and was answered with 500");
            Response::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        })
    };

    let mut keep_alive = keep_alive && !progress.is_draining();
    if !framed.is_done() && (expects_continue || framed.left().is_some_and(|n| n > MAX_LEFTOVER)) {
        // A client that waits for 100 will not send its body; a long one is not worth reading away.
        keep_alive = false;
    }
    let framing = response::Framing { head: is_head, http11, keep_alive };
    let status = response.status;
    let keep_alive = catch_unwind(AssertUnwindSafe(|| response::write(&**socket, response, framing)))
        .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        .inspect_err(
            |e| log::debug!(request:% = id, status = status.as_u16(), error:% = e; "the answer was cut short"),
        )?;
    // The answer does not wait for a body that nobody wants.
    framed.finish_by(Instant::now() + LEFTOVER_TIME);
    Ok(keep_alive && (framed.is_done() || discard(&mut framed)))
}

/// Reads the rest of a small body away; false when it is not worth it.
fn discard(body: &mut impl Read) -> bool {
    match io::copy(&mut body.take(MAX_LEFTOVER + 1), &mut io::sink()) {
        Ok(n) => n <= MAX_LEFTOVER,
        Err(_) => false,
    }
}

/// The plain answer to a body that can't be read.
fn body_refusal(error: BodyError) -> Response {
    Response::text(error.status(), error.to_string())
}

/// Answers a head that can't be read, and closes.
fn refuse(socket: &Arc<TcpStream>, input: &mut Input<SocketSource>, error: HeadError, body_size: u64) {
    log::debug!(status = error.status.as_u16(), reason = error.reason; "a request was refused");
    let framing = response::Framing { head: false, http11: true, keep_alive: false };
    if response::write(&**socket, Response::text(error.status, error.reason), framing).is_ok() {
        linger(socket, input, body_size);
    }
}

/// Closing with unread bytes would reset the connection and take the answer with it (RFC 9112 section 9.6).
fn linger(socket: &TcpStream, input: &mut Input<SocketSource>, body_size: u64) {
    let _ = socket.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER;
    input.consume(input.buffered().len());
    let mut left = body_size;
    while left > 0 {
        let wait = deadline.saturating_duration_since(Instant::now()).min(LINGER_SILENCE);
        if wait.is_zero() {
            return;
        }
        match input.fill(MAX_LEFTOVER as usize, wait) {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                left = left.saturating_sub(n as u64);
                input.consume(n);
            }
        }
    }
}
