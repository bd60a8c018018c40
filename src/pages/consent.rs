//! The consent page: which client requests access to what, with the buttons to allow or deny it.

use http::StatusCode;
use maud::{Markup, html};

use super::layout::page;
use super::site::Site;
use super::text::{days_in_words, display_name, display_text, display_user, place_of, registrable, titles_in_words};
use super::words::{self, fill, fill_plain};
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
                    ChoiceProblem::None => { (words::TICK_ONE) },
                    ChoiceProblem::TooMany(most) => { (fill(words::TICK_FEWER, &[("most", html! { (most) })])) },
                } }
            }
            @if !choices.is_empty() { (boxes(choices, problem.is_some())) }
            p .soft {
                (fill(words::SIGNED_IN_AS_CAN_END, &[
                    ("user", html! { strong { (display_user(user)) } }),
                    ("account", html! { a href="/.auth/account" { (words::ACCOUNT_LINK) } }),
                ]))
            }
            div .buttons {
                button .primary type="submit" name="decision" value="allow" { (words::ALLOW) }
                button type="submit" name="decision" value="deny" { (words::DENY) }
                button .link type="submit" name="decision" value="switch" { (words::ANOTHER_ACCOUNT) }
            }
        }
    };
    page(site, None, StatusCode::OK, &title, Some(client.redirect), body)
}

/// A box for each server.
fn boxes(choices: &[ServerCard], is_wrong: bool) -> Markup {
    html! {
        fieldset aria-describedby=[is_wrong.then_some("problem")] {
            legend { (words::WHICH_SERVERS) }
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
        h1 { (words::NO_ACCESS) }
        p .alert role="alert" {
            (fill(words::MAY_NOT_USE, &[
                ("user", html! { strong { (display_user(user)) } }),
                ("what", match &client.wants {
                    Wanted::Servers(titles) if titles.iter().any(|t| !t.is_empty()) => html! { (titles_in_words(titles)) },
                    _ => html! { (words::ANY_SERVER) },
                }),
            ]))
        }
        p { (words::USE_ANOTHER) }
        form method="post" action="/.idp/auth" {
            input type="hidden" name="request" value=(request);
            div .buttons {
                button .primary type="submit" name="decision" value="switch" { (words::ANOTHER_ACCOUNT) }
                button type="submit" name="decision" value="deny" { (words::GO_BACK) }
            }
        }
    };
    page(site, Some(id), StatusCode::FORBIDDEN, words::NO_ACCESS_TITLE, Some(client.redirect), body)
}

/// The error page for a faulty request of a client without a grant from this user: it links to the client instead of
/// redirecting.
pub fn leave(site: &Site, id: RequestId, redirect: &RedirectUri, answer: &Response, why: &str) -> Response {
    let target = answer.headers.get(http::header::LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let place = place_of(redirect);
    let body = html! {
        h1 { (words::FAULTY) }
        p .alert role="alert" { (fill(words::FAULTY_WHY, &[("why", html! { (why) })])) }
        p { (fill(words::FAULTY_NEXT, &[("place", html! { strong { (place) } })])) }
        p { a href=(target) rel="noreferrer" { (fill(words::GO_BACK_TO, &[("place", html! { (place) })])) } }
    };
    page(site, Some(id), StatusCode::BAD_REQUEST, words::FAULTY_TITLE, None, body)
}

/// Who wants what, in one sentence.
pub(super) fn headline(site: &Site, client: &RequestingClient) -> String {
    let name = client.name.map(display_name).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| words::NO_NAME.into());
    fill_plain(words::WANTS_TO_USE, &[("client", &name), ("what", &wanted(site, client))])
}

/// What the client wants, in words.
fn wanted(site: &Site, client: &RequestingClient) -> String {
    match &client.wants {
        Wanted::Servers(titles) if titles.iter().any(|title| !title.is_empty()) => titles_in_words(titles),
        Wanted::Servers(_) => site.title().into(),
        Wanted::Choice => fill_plain(words::SERVERS_OF, &[("site", site.title())]),
    }
}

pub(super) fn who_asks(site: &Site, client: &RequestingClient) -> Markup {
    let name = client.name.map(display_name).filter(|n| !n.is_empty());
    // Uses the redirect URI of this request, not the other ones that the client has registered.
    let is_local = client.redirect.destination() != Destination::Web;
    html! {
        dl {
            div {
                dt { (words::ACCESS_GOES_TO) }
                dd .host { (place(client.redirect)) }
            }
            div {
                dt { (match client.has_operator { true => words::NAME, false => words::NAME_UNVERIFIED }) }
                dd { (name.as_deref().unwrap_or(words::UNNAMED)) }
            }
            // The document proves whose name it is only where the answer goes to a host: the client's own list of hosts is
            // in the document. A program on this computer can use any document.
            @if let (Some(host), false) = (client.published_at, is_local) {
                div {
                    dt { (words::DESCRIBED_BY) }
                    dd .host { (host_markup(host)) }
                }
            }
            div {
                dt { (words::ABLE_TO) }
                dd {
                    (fill(words::ABLE_TO_WHAT, &[
                        ("what", html! { strong { (what_it_can_use(site, client)) } }),
                        ("end", html! { span .soft { (fill_plain(words::UNTIL, &[("time", &days_in_words(site.unused_access))])) } }),
                    ]))
                }
            }
        }
        @if let (Some(host), true) = (client.published_at, is_local) {
            p .note { (fill(words::LOCAL_WITH_DOCUMENT, &[("host", html! { strong { (host) } })])) }
        } @else if is_local {
            p .note { (words::LOCAL) }
        }
    }
}

fn what_it_can_use(site: &Site, client: &RequestingClient) -> String {
    match &client.wants {
        Wanted::Choice => words::SERVERS_CHOSEN.into(),
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
