//! The errors of a session.

/// Why a session refuses a request.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It has ended: the client has to initialize again.
    Gone,
    /// The client's message is not allowed; the text says why.
    Bad(&'static str),
    /// The session can't serve the request now; the text says why.
    Unavailable(String),
    /// The client went away, the proxy is shutting down, or no waker could be created.
    Interrupted,
}
