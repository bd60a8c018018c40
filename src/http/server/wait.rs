//! What a connection waits for.

use std::time::Instant;

/// What a connection needs after it has done all that is possible without blocking.
pub(super) enum Next {
    /// Call it again when the socket is ready, or when the deadline has passed.
    Wait(Wait),
    /// The connection has ended.
    Close,
}

/// What a connection waits for, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) for_what: WaitFor,
    pub(super) deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitFor {
    /// The next request. Meanwhile the connection may be closed at any time.
    Request,
    /// More bytes of something that has begun: a handshake, a request, or a body to discard.
    Readable,
    /// Room in the send buffer.
    Writable,
    /// Nothing from the client: other connections are handled first.
    Turn,
}
