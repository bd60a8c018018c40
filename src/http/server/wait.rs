//! What a connection waits for.

use std::time::Instant;

/// What a connection wants after it has done what it could.
pub(super) enum Next {
    /// To be called again when the socket is ready, or when the time is up.
    Wait(Wait),
    /// Nothing: it has ended.
    Close,
}

/// A connection's wait for its client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) for_what: WaitFor,
    pub(super) deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitFor {
    /// The next request: the connection may be closed at any time.
    Request,
    /// More of what has begun.
    Readable,
    /// Room for the answer.
    Writable,
    /// Its turn, since others wait.
    Turn,
}
