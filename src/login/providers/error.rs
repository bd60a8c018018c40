//! Errors of requests to an identity provider.

use std::fmt;

/// Why a request to an identity provider failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderError {
    /// The provider could not be reached, or it does not accept the proxy as its client. This says nothing about the
    /// user.
    Unreachable(String),
    /// The provider refused: it does not let the user in, or does not accept the user's code or tokens (any more).
    Refused(String),
    /// The provider's response is malformed or fails a check.
    Invalid(String),
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProviderError::Unreachable(why) | ProviderError::Refused(why) | ProviderError::Invalid(why) => {
                f.write_str(why)
            }
        }
    }
}
