//! Errors of OAuth endpoints, as JSON.

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::http::Response;
use crate::http::form::FormError;
use crate::store::StoreError;

/// An error answer of an OAuth endpoint (RFC 6749 section 5.2).
#[derive(Clone, Debug, PartialEq)]
pub struct OAuthError {
    /// HTTP status.
    pub status: StatusCode,
    /// The error code, which clients evaluate.
    pub code: &'static str,
    /// A sentence for the developer who reads it.
    pub description: String,
}

impl OAuthError {
    /// An error with status 400.
    pub fn new(code: &'static str, description: impl Into<String>) -> OAuthError {
        OAuthError { status: StatusCode::BAD_REQUEST, code, description: description.into() }
    }

    /// The error as a JSON response.
    pub fn response(&self) -> Response {
        no_store(Response::json(self.status, &json!({"error": self.code, "error_description": self.description})))
    }
}

impl From<StoreError> for OAuthError {
    fn from(_: StoreError) -> OAuthError {
        OAuthError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "temporarily_unavailable",
            description: "the server can't save anything just now; try again in a minute".into(),
        }
    }
}

impl From<FormError> for OAuthError {
    fn from(error: FormError) -> OAuthError {
        OAuthError { status: error.status, code: "invalid_request", description: error.reason }
    }
}

/// 400 `invalid_grant`: the code or refresh token is not valid (RFC 6749 section 5.2).
pub(super) fn invalid_grant(description: &str) -> OAuthError {
    OAuthError::new("invalid_grant", description)
}

/// Forbids caches to store a response that contains secrets (RFC 6749 section 5.1).
pub fn no_store(response: Response) -> Response {
    response
        .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with(PRAGMA, HeaderValue::from_static("no-cache"))
}
