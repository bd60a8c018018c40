//! Why a session can't do what it is asked.

/// Why a session can't do what it is asked.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It has ended: the client has to initialize again.
    Gone,
    /// The client asked for something that it must not.
    Bad(&'static str),
    /// Not now; says why.
    Unavailable(String),
    /// The client left, or the process stops.
    Interrupted,
}
