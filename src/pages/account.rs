//! The account page: which applications have access, and which browsers are signed in, with a button to end each.

use http::StatusCode;
use maud::{Markup, html};

use super::layout::page;
use super::site::Site;
use super::text::{display_name, display_user, time_in_words, titles_in_words};
use super::words::{self, fill, fill_plain};
use crate::clock::Timestamp;
use crate::http::Response;
use crate::identity::User;

/// An application that has access, as shown on the page.
pub struct AppCard {
    /// Its client id, for the form.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Where it is, or who describes it: a host; `None` for a program on the user's computer.
    pub host: Option<String>,
    /// The titles of the servers that it may use; empty for the only one.
    pub servers: Vec<String>,
    /// Since when.
    pub since: Timestamp,
    /// When and from where it was last used.
    pub last_use: Option<(Timestamp, String)>,
}

/// A browser that is signed in, as shown on the page.
pub struct BrowserCard {
    /// What stands for its session in the form.
    pub id: String,
    /// It is the one that shows the page.
    pub is_this: bool,
    /// What kind of browser.
    pub browser: Option<String>,
    /// From where it signed in.
    pub address: Option<String>,
    /// When.
    pub since: Timestamp,
}

/// What has just been done.
pub enum Done {
    /// Applications were disconnected: how many grants have ended.
    Disconnected(usize),
    /// Browsers were signed out.
    SignedOut(usize),
}

/// Values for the forms of the page: one signed for the browser, one that stands for the session.
pub struct AccountForm<'a> {
    /// Signed, for this browser.
    pub form: &'a str,
    /// The session that the page was made for.
    pub session: &'a str,
}

/// The page.
pub fn account(
    site: &Site,
    user: &User,
    apps: &[AppCard],
    browsers: &[BrowserCard],
    form: &AccountForm,
    done: Option<&Done>,
) -> Response {
    let others = browsers.iter().any(|browser| !browser.is_this);
    let body = html! {
        h1 { (words::APPLICATIONS_WITH_ACCESS) }
        @if let Some(done) = done { p .done role="status" { (said(done)) } }
        p {
            (fill(words::SIGNED_IN_AS_SERVERS, &[
                ("user", html! { strong { (display_user(user)) } }),
                ("servers", html! { a href="/" { (words::SERVERS) } }),
            ]))
        }
        @if apps.is_empty() { p { (words::NO_APPLICATION) } }
        @else {
            p .soft { (words::DISCONNECTING_MEANS) }
            @for app in apps { (app_card(app, form)) }
            @if apps.len() > 1 {
                form method="post" action="/.auth/account" {
                    (hidden(form))
                    div .buttons { button type="submit" name="action" value="disconnect-all" { (words::DISCONNECT_ALL) } }
                }
            }
        }
        h2 { (words::BROWSERS) }
        @for browser in browsers { (browser_card(browser, form)) }
        @if others {
            form method="post" action="/.auth/account" {
                (hidden(form))
                div .buttons { button type="submit" name="action" value="sign-out-others" { (words::SIGN_OUT_OTHERS) } }
            }
        }
    };
    page(site, None, StatusCode::OK, words::APPLICATIONS_WITH_ACCESS, None, body)
}

fn said(done: &Done) -> String {
    match done {
        Done::Disconnected(0) => words::HAD_NO_ACCESS.into(),
        Done::Disconnected(_) => words::DISCONNECTED.into(),
        Done::SignedOut(0) => words::WAS_SIGNED_OUT.into(),
        Done::SignedOut(1) => words::BROWSER_SIGNED_OUT.into(),
        Done::SignedOut(count) => fill_plain(words::BROWSERS_SIGNED_OUT, &[("count", &count.to_string())]),
    }
}

fn hidden(form: &AccountForm) -> Markup {
    html! {
        input type="hidden" name="form" value=(form.form);
        input type="hidden" name="session" value=(form.session);
    }
}

fn app_card(app: &AppCard, form: &AccountForm) -> Markup {
    let name = app.name.as_deref().map(display_name).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| words::UNNAMED.into());
    let titles: Vec<&str> = app.servers.iter().map(String::as_str).collect();
    html! {
        section .card {
            h2 { (name) }
            dl {
                div { dt { (words::WHERE) } dd { (app.host.as_deref().unwrap_or(words::YOUR_COMPUTER)) } }
                @if !titles.is_empty() { div { dt { (words::MAY_USE) } dd { (titles_in_words(&titles)) } } }
                div { dt { (words::SINCE) } dd { (time_in_words(app.since)) } }
                div {
                    dt { (words::LAST_USED) }
                    dd { @match &app.last_use {
                        Some((at, address)) => {
                            (fill_plain(words::LAST_USED_FROM, &[("time", &time_in_words(*at)), ("address", address)]))
                        },
                        None => { (words::NOT_YET) },
                    } }
                }
            }
            form method="post" action="/.auth/account" {
                (hidden(form))
                input type="hidden" name="client" value=(app.id);
                div .buttons {
                    button type="submit" name="action" value="disconnect" aria-label=(fill_plain(words::DISCONNECT_ONE, &[("client", &name)])) { (words::DISCONNECT) }
                }
            }
        }
    }
}

fn browser_card(browser: &BrowserCard, form: &AccountForm) -> Markup {
    let kind = browser.browser.as_deref().unwrap_or(words::A_BROWSER);
    html! {
        section .card {
            p {
                strong { (kind) }
                @if browser.is_this { (words::THIS_ONE) }
                span .soft {
                    (fill_plain(words::BROWSER_SINCE, &[("time", &time_in_words(browser.since))]))
                    @if let Some(address) = &browser.address { (fill_plain(words::BROWSER_FROM, &[("address", address)])) }
                }
            }
            @if !browser.is_this {
                form method="post" action="/.auth/account" {
                    (hidden(form))
                    input type="hidden" name="browser" value=(browser.id);
                    div .buttons {
                        button type="submit" name="action" value="sign-out" aria-label=(fill_plain(words::SIGN_OUT_ONE, &[("browser", kind)])) { (words::SIGN_OUT) }
                    }
                }
            }
        }
    }
}
