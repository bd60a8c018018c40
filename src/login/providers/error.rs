//! Why a provider is of no help.

use std::fmt;

/// Why a provider is of no help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderError {
    /// It could not be asked, or the proxy is not set up as it wants: that says nothing of the person.
    Unreachable(String),
    /// It says no: the person, or the proxy on their behalf, may not any more.
    Refused(String),
    /// What it says can't be believed.
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
