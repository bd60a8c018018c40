//! Plain-text answers to requests that are refused before they reach the handler.

use http::header::RETRY_AFTER;
use http::{Method, StatusCode, Version};

use super::write;
use crate::http::h1::framing::BodyError;
use crate::http::h1::head::{Head, HeadError};
use crate::http::response::Response;

/// The answer if all unfinished requests together use too much memory.
pub(super) fn too_much_held() -> Response {
    log::debug!("an unfinished request was refused: unfinished requests together use too much memory");
    let response = Response::text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the server holds too many unfinished requests; send the request again, without pauses",
    );
    response.with(RETRY_AFTER, 1)
}

pub(super) const TOO_MUCH_HELD: HeadError = HeadError {
    status: StatusCode::SERVICE_UNAVAILABLE,
    reason: "the server holds too many unfinished requests; send the request again, without pauses",
};

pub(super) const TOO_LARGE: HeadError =
    HeadError { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "the request head is too large" };

pub(super) const NOT_PLAIN: HeadError =
    HeadError { status: StatusCode::BAD_REQUEST, reason: "this port speaks https: write https:// in the URL" };

/// The framing of the answer to `head`.
pub(super) fn framing(head: &Head, may_keep_alive: bool) -> write::Framing {
    write::Framing {
        head: head.parts.method == Method::HEAD,
        http11: head.parts.version == Version::HTTP_11,
        keep_alive: head.keep_alive && may_keep_alive,
    }
}

/// The plain-text answer to a body that can't be read.
pub(super) fn body_refusal(error: BodyError) -> Response {
    Response::text(error.status(), error.to_string())
}
