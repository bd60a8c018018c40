//! The consent page: which client requests access to what, with the buttons to allow or deny it.

use http::StatusCode;
use maud::{Markup, html};

use super::layout::page;
use super::text::{display_name, display_user, place_of};
use crate::http::{RequestId, Response};
use crate::identity::User;
use crate::redirect_uri::{Destination, RedirectUri};
use crate::url::ExternalUrl;

/// The client that requests access, as shown on a page.
pub struct RequestingClient<'a> {
    /// The name that it registered, unverified.
    pub name: Option<&'a str>,
    /// Where the authorization response goes.
    pub redirect: &'a RedirectUri,
}

/// The consent page for a person who is signed in.
pub fn consent(site: &ExternalUrl, client: &RequestingClient, user: &User, request: &str) -> Response {
    let title = "Allow access?";
    let body = html! {
        h1 { (title) }
        (who_asks(site, client))
        form method="post" action="/.idp/auth" {
            input type="hidden" name="request" value=(request);
            p .soft { "Signed in as " strong { (display_user(user)) } "." }
            div .buttons {
                button .primary type="submit" name="decision" value="allow" { "Allow" }
                button type="submit" name="decision" value="deny" { "Deny" }
                button .link type="submit" name="decision" value="switch" { "Use another account" }
            }
        }
    };
    page(site, None, StatusCode::OK, title, Some(client.redirect), body)
}

/// The error page for a faulty request of a client without a grant from this user: it links to the client instead of
/// redirecting.
pub fn leave(site: &ExternalUrl, id: RequestId, redirect: &RedirectUri, answer: &Response, why: &str) -> Response {
    let target = answer.headers.get(http::header::LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let place = place_of(redirect);
    let body = html! {
        h1 { "The application's request can't be answered" }
        p .alert role="alert" { "It asked for access, but: " (why) ". Access was not given." }
        p { "You can go back to " strong { (place) } " if you came from there." }
        p { a href=(target) rel="noreferrer" { "Go back to " (place) } }
    };
    page(site, Some(id), StatusCode::BAD_REQUEST, "Faulty request", None, body)
}

pub(super) fn who_asks(site: &ExternalUrl, client: &RequestingClient) -> Markup {
    let name = client.name.map(display_name).filter(|n| !n.is_empty());
    // Uses the redirect URI of this request, not the other ones that the client has registered.
    let is_local = client.redirect.destination() != Destination::Web;
    html! {
        dl {
            div {
                dt { "Access goes to" }
                dd .host { (place_of(client.redirect)) }
            }
            div {
                dt { "Name (unverified)" }
                dd { (name.as_deref().unwrap_or("Unnamed application")) }
            }
            div {
                dt { "It will be able to" }
                dd { "read and do everything that the MCP server at " strong { (site.host) } " offers, in your name" }
            }
        }
        @if is_local {
            p .note { "Any program on this computer can ask in this way. Go on only if you have just connected one yourself." }
        }
    }
}
