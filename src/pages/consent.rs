//! The consent page: which client requests access to what, with the buttons to allow or deny it.

use http::StatusCode;
use maud::{Markup, html};

use super::layout::page;
use super::site::Site;
use super::text::{days_in_words, display_name, display_text, display_user, place_of, registrable, titles_in_words};
use crate::http::{RequestId, Response};
use crate::identity::User;
use crate::redirect_uri::{Destination, RedirectUri};

/// The client that requests access, as shown on a page.
pub struct RequestingClient<'a> {
    /// Its name: what it says of itself, unless the operator has registered it.
    pub name: Option<&'a str>,
    /// The host of its metadata document, if it has one.
    pub published_at: Option<&'a str>,
    /// The operator of this server has registered it.
    pub has_operator: bool,
    /// Where the authorization response goes.
    pub redirect: &'a RedirectUri,
    /// What it wants to use.
    pub wants: Wanted<'a>,
}

/// What a client wants to use.
pub enum Wanted<'a> {
    /// These servers: what people call them. A server without a title is the only one.
    Servers(Vec<&'a str>),
    /// It did not say: the person chooses.
    Choice,
}

/// What is wrong with the boxes that were ticked.
#[derive(Clone, Copy)]
pub enum ChoiceProblem {
    /// None was ticked.
    None,
    /// More than so many were.
    TooMany(usize),
}

/// An MCP server, as shown on a page.
pub struct ServerCard<'a> {
    /// Its name in forms.
    pub name: &'a str,
    /// What people call it; empty for the only one.
    pub title: &'a str,
    /// What it is for, as its operator or the server itself says; may be empty.
    pub description: String,
    /// Its URL.
    pub url: &'a str,
    /// It did not answer the last time that it was asked.
    pub is_down: bool,
}

/// The consent page for a person who is signed in. `choices` are the servers that the person may use, if the client did not
/// say which it wants; `problem` is what is wrong with the boxes that were ticked.
pub fn consent(
    site: &Site,
    client: &RequestingClient,
    user: &User,
    request: &str,
    choices: &[ServerCard],
    problem: Option<ChoiceProblem>,
) -> Response {
    let title = headline(site, client);
    let body = html! {
        h1 { (title) }
        (who_asks(site, client))
        form method="post" action="/.idp/auth" {
            input type="hidden" name="request" value=(request);
            @if let Some(problem) = problem {
                p #problem .alert role="alert" { @match problem {
                    ChoiceProblem::None => { "Tick at least one server, or deny the access." },
                    ChoiceProblem::TooMany(most) => { "Tick at most " (most) " servers." },
                } }
            }
            @if !choices.is_empty() { (boxes(choices, problem.is_some())) }
            p .soft {
                "Signed in as " strong { (display_user(user)) } ". You can end an access at any time: "
                a href="/.auth/account" { "applications with access" }
            }
            div .buttons {
                button .primary type="submit" name="decision" value="allow" { "Allow" }
                button type="submit" name="decision" value="deny" { "Deny" }
                button .link type="submit" name="decision" value="switch" { "Use another account" }
            }
        }
    };
    page(site, None, StatusCode::OK, &title, Some(client.redirect), body)
}

/// A box for each server.
fn boxes(choices: &[ServerCard], is_wrong: bool) -> Markup {
    html! {
        fieldset aria-describedby=[is_wrong.then_some("problem")] {
            legend { "Which servers may it use?" }
            @for choice in choices {
                label .choice {
                    input type="checkbox" name="server" value=(choice.name);
                    span {
                        strong { (display_name(choice.title)) }
                        @if !choice.description.is_empty() { span .soft { (display_text(&choice.description)) } }
                    }
                }
            }
        }
    }
}

/// The page for a person who is signed in but may use none of the servers that the client wants.
pub fn no_server(site: &Site, id: RequestId, client: &RequestingClient, user: &User, request: &str) -> Response {
    let body = html! {
        h1 { "You have no access" }
        p .alert role="alert" {
            "You are signed in as " strong { (display_user(user)) } ". This account may not use "
            @match &client.wants {
                Wanted::Servers(titles) if titles.iter().any(|t| !t.is_empty()) => { (titles_in_words(titles)) "." },
                _ => { "any server here." },
            }
        }
        p { "If you have another account, use that one. Otherwise ask the operator of this server." }
        form method="post" action="/.idp/auth" {
            input type="hidden" name="request" value=(request);
            div .buttons {
                button .primary type="submit" name="decision" value="switch" { "Use another account" }
                button type="submit" name="decision" value="deny" { "Go back" }
            }
        }
    };
    page(site, Some(id), StatusCode::FORBIDDEN, "No access", Some(client.redirect), body)
}

/// The error page for a faulty request of a client without a grant from this user: it links to the client instead of
/// redirecting.
pub fn leave(site: &Site, id: RequestId, redirect: &RedirectUri, answer: &Response, why: &str) -> Response {
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

/// Who wants what, in one sentence.
pub(super) fn headline(site: &Site, client: &RequestingClient) -> String {
    let name = client.name.map(display_name).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| "An application without a name".into());
    format!("{name} wants to use {}", wanted(site, client))
}

/// What the client wants, in words.
fn wanted(site: &Site, client: &RequestingClient) -> String {
    match &client.wants {
        Wanted::Servers(titles) if titles.iter().any(|title| !title.is_empty()) => titles_in_words(titles),
        Wanted::Servers(_) => site.title().into(),
        Wanted::Choice => format!("servers of {}", site.title()),
    }
}

pub(super) fn who_asks(site: &Site, client: &RequestingClient) -> Markup {
    let name = client.name.map(display_name).filter(|n| !n.is_empty());
    // Uses the redirect URI of this request, not the other ones that the client has registered.
    let is_local = client.redirect.destination() != Destination::Web;
    html! {
        dl {
            div {
                dt { "Access goes to" }
                dd .host { (place(client.redirect)) }
            }
            div {
                dt { (match client.has_operator { true => "Name", false => "Name (unverified)" }) }
                dd { (name.as_deref().unwrap_or("Unnamed application")) }
            }
            // The document proves whose name it is only where the answer goes to a host: the client's own list of hosts is
            // in the document. A program on this computer can use any document.
            @if let (Some(host), false) = (client.published_at, is_local) {
                div {
                    dt { "Described by" }
                    dd .host { (host_markup(host)) }
                }
            }
            div {
                dt { "It will be able to" }
                dd {
                    "read and do everything that " strong { (what_it_can_use(site, client)) } " can do, in your name. "
                    span .soft { "This ends when you remove the server in the application, or " (days_in_words(site.unused_access)) " after its last use." }
                }
            }
        }
        @if let (Some(host), true) = (client.published_at, is_local) {
            p .note { "The name is from a description at " strong { (host) } ". Any program on this computer can use that description, so it proves nothing. Go on only if you have just connected one yourself." }
        } @else if is_local {
            p .note { "Any program on this computer can ask in this way. Go on only if you have just connected one yourself." }
        }
    }
}

fn what_it_can_use(site: &Site, client: &RequestingClient) -> String {
    match &client.wants {
        Wanted::Choice => "the servers that you choose".into(),
        Wanted::Servers(_) => wanted(site, client),
    }
}

/// Where the answer goes. The part of a host name that somebody has registered stands out: whoever has it decides about
/// all names before it.
fn place(redirect: &RedirectUri) -> Markup {
    let place = place_of(redirect);
    match redirect.destination() {
        Destination::Web => host_markup(&place),
        _ => html! { (place) },
    }
}

fn host_markup(host: &str) -> Markup {
    let (before, domain) = registrable(host);
    html! { @if !before.is_empty() { span .sub { (before) } } (domain) }
}
