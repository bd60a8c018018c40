//! The pages: no script, no image, nothing from elsewhere.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::http::{RequestId, Response};
use crate::identity::User;
use crate::login::providers::Provider;
use crate::observe::log::is_bidi_control;
use crate::redirect_uri::{Destination, RedirectUri};
use crate::rules::Person;
use crate::store::rows::Client;

const STYLE: &str = include_str!("style.css");

/// The style sheet's hash: the policy allows this one and no other.
static STYLE_HASH: LazyLock<String> = LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE)));

/// Longest client name that is shown.
const MAX_NAME: usize = 64;

/// Who asks, as far as it is known.
pub struct Asker<'a> {
    /// The client.
    pub client: &'a Client,
    /// Where the answer goes.
    pub redirect: &'a RedirectUri,
}

/// What went wrong with a sign-in, for the form.
#[derive(Clone, Copy)]
pub enum Problem {
    /// Wrong password.
    Wrong,
    /// Too many wrong ones: seconds to wait.
    Slow(u64),
    /// Too many sign-ins at this moment.
    Busy,
}

/// Sign-in and, where a client asks, consent on one page: the sealed request travels in the form.
pub fn sign_in(ctx: &Context, asker: Option<&Asker>, request: &str, problem: Option<Problem>) -> Response {
    let status = match problem {
        None => StatusCode::OK,
        Some(Problem::Wrong) => StatusCode::FORBIDDEN,
        Some(Problem::Slow(_)) => StatusCode::TOO_MANY_REQUESTS,
        Some(Problem::Busy) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let message = problem.map(|p| match p {
        Problem::Wrong => "That password is not right. Try again.".to_string(),
        Problem::Slow(seconds) => {
            format!("There were too many wrong passwords. Wait {} and try again.", seconds_in_words(seconds))
        }
        Problem::Busy => "Too many people are signing in at this moment. Try again in a few seconds.".to_string(),
    });
    let title = if asker.is_some() { "Sign in to allow access" } else { "Sign in" };
    let body = html! {
        h1 { (title) }
        @if let Some(asker) = asker { (who_asks(ctx, asker)) }
        @if let Some(message) = &message { p #problem .alert role="alert" { (message) } }
        (providers(ctx, asker.is_some(), request, false))
        @if ctx.passwords.any() && !ctx.providers.all().is_empty() { p .or { "or" } }
        @if ctx.passwords.any() { form method="post" action="/.auth/login" {
            input type="hidden" name="request" value=(request);
            // For password managers, which file passwords under a name.
            input type="text" name="username" value="owner" autocomplete="username" hidden;
            label for="password" { "Password" }
            input #password type="password" name="password" required autofocus autocomplete="current-password" maxlength="72"
                aria-invalid=[message.as_ref().map(|_| "true")] aria-describedby=[message.as_ref().map(|_| "problem")];
            div .buttons {
                @if asker.is_some() {
                    button .primary type="submit" name="decision" value="allow" { "Sign in and allow" }
                    button type="submit" name="decision" value="deny" formnovalidate { "Deny" }
                } @else {
                    button .primary type="submit" { "Sign in" }
                }
            }
        } } @else if asker.is_some() { form method="post" action="/.auth/login" {
            input type="hidden" name="request" value=(request);
            div .buttons { button type="submit" name="decision" value="deny" { "Deny" } }
        } }
    };
    let mut response = page(ctx, None, status, title, asker.map(|a| a.redirect), body);
    if let Some(Problem::Slow(seconds)) = problem {
        response = response.with(http::header::RETRY_AFTER, seconds);
    }
    if let Some(Problem::Busy) = problem {
        response = response.with(http::header::RETRY_AFTER, 5);
    }
    response
}

/// A button for each provider. The word on it says that pressing it allows access, where a client asks.
fn providers(ctx: &Context, is_asked: bool, request: &str, another_account: bool) -> Markup {
    html! {
        @for provider in ctx.providers.all() {
            form method="post" action="/.auth/login" {
                input type="hidden" name="request" value=(request);
                @if another_account { input type="hidden" name="account" value="another"; }
                @if provider.is_down() {
                    p .note { (provider.label) " can't be reached at the moment." }
                }
                div .buttons {
                    button .primary type="submit" name="provider" value=(provider.slug) {
                        "Sign in with " (provider.label) @if is_asked { " and allow" }
                    }
                }
            }
        }
    }
}

/// The way to a provider: by a page, since Chromium would apply this origin's form-action to the provider's redirects.
pub fn hop(ctx: &Context, provider: &Provider, url: &str) -> Response {
    let body = html! {
        h1 { "Signing in with " (provider.label) }
        p { a href=(url) rel="noreferrer" { "Go on to " (provider.label) } }
    };
    page(ctx, None, StatusCode::OK, "Signing in", None, body)
        .with(HeaderName::from_static("refresh"), format!("0;url={url}"))
}

/// The provider sent the browser back without anybody signed in.
pub fn not_signed_in(
    ctx: &Context,
    id: RequestId,
    provider: &Provider,
    is_denied: bool,
    asker: Option<&Asker<'_>>,
    request: &str,
) -> Response {
    let body = html! {
        h1 { "You are not signed in" }
        p .alert role="alert" {
            @if is_denied { "The sign-in was called off at " (provider.label) "." }
            @else { (provider.label) " did not sign you in." }
        }
        p { "You can try again, or close this page." }
        @if let Some(asker) = asker { (who_asks(ctx, asker)) }
        (providers(ctx, asker.is_some(), request, true))
    };
    page(ctx, Some(id), StatusCode::FORBIDDEN, "Not signed in", asker.map(|a| a.redirect), body)
}

/// Somebody has signed in who may not enter. Which rule lacks is not told.
pub fn not_allowed(
    ctx: &Context,
    id: RequestId,
    provider: &Provider,
    person: &Person,
    asker: Option<&Asker<'_>>,
    request: &str,
) -> Response {
    let identity = &person.identity;
    let shown = [&identity.email, &identity.id, &identity.name].into_iter().flatten().next();
    let shown = shown.map_or_else(|| "an account without a verified e-mail address".into(), |s| display_name(s));
    let body = html! {
        h1 { "You have no access" }
        p .alert role="alert" {
            "At " (provider.label) " you are signed in as " strong { (shown) } ". This account may not use this server."
        }
        p { "If you have another account, sign in with that one. Else ask the operator of this server." }
        @if let Some(asker) = asker { (who_asks(ctx, asker)) }
        (providers(ctx, asker.is_some(), request, true))
    };
    page(ctx, Some(id), StatusCode::FORBIDDEN, "No access", asker.map(|a| a.redirect), body)
}

/// Consent of somebody who is signed in.
pub fn consent(ctx: &Context, asker: &Asker, user: &User, request: &str) -> Response {
    let title = "Allow access?";
    let body = html! {
        h1 { (title) }
        (who_asks(ctx, asker))
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
    page(ctx, None, StatusCode::OK, title, Some(asker.redirect), body)
}

/// Somebody is signed in and no client asks.
pub fn signed_in(ctx: &Context, user: &User, form: &str) -> Response {
    let body = html! {
        h1 { "You are signed in" }
        p { "Signed in as " strong { (display_user(user)) } " in this browser. To connect an application, give it the URL of the MCP server:" }
        p { code { (ctx.config.client_url()) } }
        form method="post" action="/.auth/logout" {
            input type="hidden" name="form" value=(form);
            div .buttons { button type="submit" { "Sign out" } }
        }
    };
    page(ctx, None, StatusCode::OK, "Signed in", None, body)
}

/// After signing out.
pub fn signed_out(ctx: &Context) -> Response {
    let body = html! {
        h1 { "You are signed out" }
        p { "This browser is signed out. Applications that you allowed before stay connected." }
        p { a href="/.auth/login" { "Sign in again" } }
    };
    page(ctx, None, StatusCode::OK, "Signed out", None, body)
}

/// Something a person has to be told, with the id of the request by which the operator finds it in the log.
pub fn error(
    ctx: &Context,
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
    };
    page(ctx, Some(id), status, title, None, body)
}

/// A faulty request of a client that this user has not let in: the way back is a link, not a redirect.
pub fn leave(ctx: &Context, id: RequestId, redirect: &RedirectUri, answer: &Response, why: &str) -> Response {
    let target = answer.headers.get(http::header::LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let place = place_of(redirect);
    let body = html! {
        h1 { "The application's request can't be answered" }
        p .alert role="alert" { "It asked for access, but: " (why) ". Access was not given." }
        p { "You can go back to " strong { (place) } " if you came from there." }
        p { a href=(target) rel="noreferrer" { "Go back to " (place) } }
    };
    page(ctx, Some(id), StatusCode::BAD_REQUEST, "Faulty request", None, body)
}

/// For a person who opens the MCP endpoint in a browser.
pub fn not_for_browsers(ctx: &Context) -> Response {
    let body = html! {
        h1 { "This is an MCP server" }
        p { "It is meant for applications such as Claude, ChatGPT, Cursor or VS Code. Add it there with this URL:" }
        p { code { (ctx.config.client_url()) } }
        p .soft { "The application will open a page here to ask for your consent." }
    };
    page(ctx, None, StatusCode::UNAUTHORIZED, "MCP server", None, body)
}

fn who_asks(ctx: &Context, asker: &Asker) -> Markup {
    let name = asker.client.name.as_deref().map(display_name).filter(|n| !n.is_empty());
    // Where the answer to this request goes, whatever else the client has registered.
    let is_local = asker.redirect.destination() != Destination::Web;
    html! {
        dl {
            div {
                dt { "Access goes to" }
                dd .host { (place_of(asker.redirect)) }
            }
            div {
                dt { "It calls itself (unverified)" }
                dd { (name.as_deref().unwrap_or("no name")) }
            }
            div {
                dt { "It will be able to" }
                dd { "read and do everything that the MCP server at " strong { (ctx.config.external.host) } " offers, in your name" }
            }
        }
        @if is_local {
            p .note { "Any program on this computer can ask in this way. Go on only if you have just connected one yourself." }
        }
    }
}

/// Where a redirect leads, in words.
fn place_of(redirect: &RedirectUri) -> String {
    match redirect.destination() {
        Destination::Web => redirect.host().to_string(),
        Destination::Loopback => "a program on this computer".to_string(),
        Destination::PrivateUse => format!("the program that opens {}: links", redirect.scheme()),
    }
}

/// Characters that show nothing (Unicode `Default_Ignorable_Code_Point`, and blanks that are no white space), with which two
/// different names look the same.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// A client's own name: control and direction characters taken out, at most 64 characters.
pub fn display_name(name: &str) -> String {
    let clean: String = name.chars().filter(|c| !c.is_control() && !is_bidi_control(*c) && !is_invisible(*c)).collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    match clean.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

fn display_user(user: &User) -> String {
    match (&user.email, user.id.as_str()) {
        (Some(email), _) => email.clone(),
        (None, "password") => "the owner".into(),
        (None, id) => id.into(),
    }
}

fn seconds_in_words(seconds: u64) -> String {
    match seconds {
        0..=1 => "a second".into(),
        2..=90 => format!("{seconds} seconds"),
        _ => format!("{} minutes", seconds.div_ceil(60)),
    }
}

fn page(
    ctx: &Context,
    id: Option<RequestId>,
    status: StatusCode,
    title: &str,
    redirect: Option<&RedirectUri>,
    body: Markup,
) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " · " (ctx.config.external.host) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (body) }
                footer {
                    span { (ctx.config.external.origin) }
                    @if let Some(id) = id { span { "request " (id) } }
                    span { "protected by mcp-auth-proxy" }
                }
            }
        }
    };
    // Chromium applies form-action to the redirect that answers a form, too.
    let form_action = redirect.map(|r| format!(" {}", r.policy_source())).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; img-src data:; form-action 'self'{form_action}; frame-ancestors 'none'; base-uri 'none'",
        *STYLE_HASH
    );
    Response::new(status)
        .with_body("text/html; charset=utf-8", markup.into_string().into_bytes())
        .with(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))
        .with(CONTENT_SECURITY_POLICY, policy)
        .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        // With no-referrer, browsers send Origin: null with forms.
        .with(REFERRER_POLICY, HeaderValue::from_static("same-origin"))
        .with(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
        .with(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_cut() {
        assert_eq!(display_name("a\u{202e}b\nc\0  d"), "abc d");
        assert_eq!(display_name(&"x".repeat(65)), format!("{}…", "x".repeat(64)));
        assert_eq!(display_name("\u{200f}\u{feff} "), "");
    }
}
