//! Pages with only a message.

use http::StatusCode;
use maud::html;

use super::layout::page;
use super::site::Site;
use super::words::{self, fill};
use crate::http::{RequestId, Response};

/// An error page. It shows the request id, so that the operator can find the request in the log.
pub fn error(
    site: &Site,
    id: RequestId,
    status: StatusCode,
    title: &str,
    explanation: &str,
    what_next: &str,
) -> Response {
    let body = html! {
        h1 { (title) }
        p .alert role="alert" { (explanation) }
        p { (what_next) }
        p .soft { (fill(words::TELL_CODE, &[("id", html! { strong { (id) } })])) }
    };
    page(site, Some(id), status, title, None, body)
}

/// For a person who opens the MCP endpoint in a browser.
pub fn not_for_browsers(site: &Site, mcp_url: &str) -> Response {
    let body = html! {
        h1 { (words::IS_MCP_SERVER) }
        p { (words::FOR_APPLICATIONS) }
        p { code { (mcp_url) } }
        p .soft { (fill(words::WILL_OPEN, &[("more", html! { a href="/" { (words::MORE_ABOUT) } })])) }
    };
    page(site, None, StatusCode::UNAUTHORIZED, words::MCP_SERVER_TITLE, None, body)
}
