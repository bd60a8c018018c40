//! Pages with only a message.

use http::StatusCode;
use maud::html;

use super::layout::page;
use super::site::Site;
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
        p .soft { "If it stays like this, tell the operator of this server the code " strong { (id) } ": the log has it." }
    };
    page(site, Some(id), status, title, None, body)
}

/// For a person who opens the MCP endpoint in a browser.
pub fn not_for_browsers(site: &Site, mcp_url: &str) -> Response {
    let body = html! {
        h1 { "This is an MCP server" }
        p { "It is meant for applications such as Claude, ChatGPT, Cursor or VS Code. Add it there with this URL:" }
        p { code { (mcp_url) } }
        p .soft { "The application will open a page here to ask for your consent. " a href="/" { "More about this server" } }
    };
    page(site, None, StatusCode::UNAUTHORIZED, "MCP server", None, body)
}
