//! The states of a connection, and the data of each.

use std::time::Instant;

use super::held::Share;
use super::wait::Wait;
use crate::http::h1::framing::Progress;
use crate::http::h1::head::Head;

pub(super) enum Stage {
    /// TLS handshake in progress, with its deadline.
    Handshake(Instant),
    /// Waiting for a request head, or in the middle of one.
    Head(HeadStage),
    /// Reading a body that the handler needs (`Handler::wants_body`).
    Body(Box<BodyStage>),
    /// Sending an answer that is completely in memory.
    Flush(Box<FlushStage>),
    /// Discarding the unread rest of a request body after its answer, with the deadline for that.
    Leftover(Box<(Progress, Instant)>),
    /// The last answer has been sent; what the client still sends is discarded. Closing the socket with unread bytes
    /// would reset the connection, and the client could lose the answer (RFC 9112 section 9.6).
    Linger {
        until: Instant,
        left: u64,
    },
    Ended,
}

#[derive(Default)]
pub(super) struct HeadStage {
    /// Bytes already searched for the end of the head.
    pub(super) seen: usize,
    /// One empty line before the request line has been skipped (RFC 9112 section 2.2).
    pub(super) forgiven: bool,
    /// Set when a part of the head has arrived and the rest must be waited for.
    pub(super) deadline: Option<Instant>,
    pub(super) share: Share,
}

pub(super) struct BodyStage {
    pub(super) head: Head,
    pub(super) progress: Progress,
    pub(super) held: Vec<u8>,
    pub(super) share: Share,
}

pub(super) struct FlushStage {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
    pub(super) deadline: Instant,
    pub(super) then: After,
}

/// What happens to a connection after its answer has been sent.
pub(super) enum After {
    /// Keep it open: after the rest of this body, another request may follow.
    Keep(Progress),
    Close,
}

/// The result of one step of the state machine.
pub(super) enum Step {
    Go(Stage),
    Wait(Stage, Wait),
    Close,
}
