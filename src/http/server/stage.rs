//! How far a connection has come.

use std::time::Instant;

use super::held::Share;
use super::wait::Wait;
use crate::http::h1::framing::Progress;
use crate::http::h1::head::Head;

pub(super) enum Stage {
    /// Before the end of the TLS handshake, which must come by then.
    Handshake(Instant),
    /// Before or within a head.
    Head(HeadStage),
    /// Within a body that the handler is going to want.
    Body(Box<BodyStage>),
    /// Sending an answer that is in memory.
    Flush(Box<FlushStage>),
    /// Reading the rest of a body away.
    Leftover(Box<(Progress, Instant)>),
    /// The last answer has been sent; what the client still sends is read away: closing with unread bytes would reset
    /// the connection and take the answer with it (RFC 9112 section 9.6).
    Linger {
        until: Instant,
        left: u64,
    },
    Ended,
}

#[derive(Default)]
pub(super) struct HeadStage {
    /// Bytes that have been looked at.
    pub(super) seen: usize,
    /// RFC 9112 section 2.2: one empty line before the request line is forgiven.
    pub(super) forgiven: bool,
    /// Starts with the first read that did not bring the whole head.
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

/// What becomes of a connection once its answer has been sent.
pub(super) enum After {
    /// Another request may follow, behind the rest of this body.
    Keep(Progress),
    Close,
}

/// One step of the machine.
pub(super) enum Step {
    Go(Stage),
    Wait(Stage, Wait),
    Close,
}
