//! The response to a request without a valid token: 401 with the URL of the resource metadata (RFC 6750 section 3, RFC
//! 9728 section 5.1).

use http::header::{ACCEPT, CACHE_CONTROL, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use super::bearer::{Denial, Destination};
use super::metadata::resource_metadata_url;
use crate::core::Core;
use crate::http::Response;
use crate::identity::SCOPE;
use crate::pages;

/// Builds the 401 response with the URL of the resource metadata.
pub fn challenge(core: &Core, to: Destination<'_>, headers: &HeaderMap, denial: Denial) -> Response {
    let metadata = resource_metadata_url(core, to.resources, to.target, to.path);
    let mut value = format!("Bearer resource_metadata=\"{metadata}\", scope=\"{SCOPE}\"");
    let body = match denial {
        Denial::NoToken => {
            json!({"error": "unauthorized", "error_description": "a bearer token is needed", "resource_metadata": metadata})
        }
        Denial::BadToken(why) => {
            value.push_str(&format!(", error=\"invalid_token\", error_description=\"{why}\""));
            json!({"error": "invalid_token", "error_description": why, "resource_metadata": metadata})
        }
    };
    let response = if denial == Denial::NoToken && is_browser(headers) {
        pages::not_for_browsers(&core.site, to.target.resource.url().as_str())
    } else {
        Response::json(StatusCode::UNAUTHORIZED, &body)
    };
    response.with(WWW_AUTHENTICATE, value).with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// Browsers name `text/html` in the Accept field; MCP clients never do.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"))
}
