//! The authorization server (OAuth 2.1, RFC 6749): one file per endpoint.
//!
//! - [`metadata`] – `/.well-known/…` (RFC 8414, RFC 9728)
//! - [`register`] – `/.idp/register` (RFC 7591)
//! - [`authorize`] – `/.idp/auth`
//! - [`pending`] – how many codes may wait
//! - [`token`] – `/.idp/token`, with [`client_auth`] and the rules of [`refresh`]
//! - [`revoke`] – `/.idp/revoke` (RFC 7009)
//!
//! Shared: [`resource`], [`form`].

pub mod authorize;
pub mod client_auth;
pub mod form;
pub mod metadata;
pub mod pending;
pub mod refresh;
pub mod register;
pub mod resource;
pub mod revoke;
pub mod token;

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::http::Response;
use crate::store::StoreError;

/// An error answer of an OAuth endpoint (RFC 6749 section 5.2).
#[derive(Clone, Debug, PartialEq)]
pub struct OAuthError {
    /// HTTP status.
    pub status: StatusCode,
    /// The code that clients act upon.
    pub code: &'static str,
    /// A sentence for the developer who reads it.
    pub description: String,
}

impl OAuthError {
    /// 400 with a code.
    pub fn new(code: &'static str, description: impl Into<String>) -> OAuthError {
        OAuthError { status: StatusCode::BAD_REQUEST, code, description: description.into() }
    }

    /// As JSON.
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

/// Answers with secrets are kept by nobody on the way (RFC 6749 section 5.1).
pub fn no_store(response: Response) -> Response {
    response
        .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with(PRAGMA, HeaderValue::from_static("no-cache"))
}
