//! Signing in and out.

use http::StatusCode;
use http::header::{HeaderName, RETRY_AFTER};
use maud::{Markup, html};

use super::consent::{RequestingClient, Wanted, headline, who_asks};
use super::layout::page;
use super::site::{Site, letter};
use super::text::{display_name, seconds_in_words};
use crate::http::{RequestId, Response};
use crate::identity::ProviderId;

/// Why a password sign-in failed, shown above the form.
#[derive(Clone, Copy)]
pub enum Problem {
    /// Wrong password.
    Wrong,
    /// Too many wrong passwords; seconds to wait.
    Slow(u64),
    /// Too many sign-ins at this moment.
    Busy,
}

/// A provider's button on the sign-in page.
pub struct ProviderButton<'a> {
    /// Which provider.
    pub id: ProviderId,
    /// What the button calls it.
    pub label: &'a str,
    /// The provider could not be reached the last time.
    pub is_down: bool,
}

/// The ways to sign in.
pub struct SignInOptions<'a> {
    /// A button for each.
    pub providers: Vec<ProviderButton<'a>>,
    /// There is a password that needs no name.
    pub has_shared: bool,
    /// There are users with a name and a password.
    pub has_names: bool,
}

impl SignInOptions<'_> {
    fn has_password(&self) -> bool {
        self.has_shared || self.has_names
    }
}

/// The sign-in page. If a client requests access, it is also the consent page. `request` is the signed value in the
/// hidden form field.
pub fn sign_in(
    site: &Site,
    options: &SignInOptions,
    client: Option<&RequestingClient>,
    request: &str,
    problem: Option<Problem>,
) -> Response {
    let status = match problem {
        None => StatusCode::OK,
        Some(Problem::Wrong) => StatusCode::FORBIDDEN,
        Some(Problem::Slow(_)) => StatusCode::TOO_MANY_REQUESTS,
        Some(Problem::Busy) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let message = problem.map(|p| match p {
        Problem::Wrong if options.has_names => "That name and password don't fit. Try again.".to_string(),
        Problem::Wrong => "That password is not right. Try again.".to_string(),
        Problem::Slow(seconds) => {
            format!("There were too many wrong passwords. Wait {} and try again.", seconds_in_words(seconds))
        }
        Problem::Busy => "Too many people are signing in at this moment. Try again in a few seconds.".to_string(),
    });
    let allows = client.is_some_and(|client| matches!(client.wants, Wanted::Servers(_)));
    let title = client.map_or_else(|| format!("Sign in to {}", site.title()), |client| headline(site, client));
    let body = html! {
        h1 { (title) }
        @if let Some(client) = client { (who_asks(site, client)) }
        @if let Some(message) = &message { p #problem .alert role="alert" { (message) } }
        @if client.is_some() {
            p .soft .hint { @if allows { "Sign in to allow access." } @else { "Sign in to choose what it may use." } }
        }
        (providers(options, allows, request, false))
        @if options.has_password() && !options.providers.is_empty() { p .or { "or" } }
        @if options.has_password() { (password_form(options, client.is_some(), allows, request, message.is_some())) }
        @else if client.is_some() { form method="post" action="/.auth/login" {
            input type="hidden" name="request" value=(request);
            div .buttons { button type="submit" name="decision" value="deny" { "Deny" } }
        } }
    };
    let mut response = page(site, None, status, &title, client.map(|c| c.redirect), body);
    if let Some(Problem::Slow(seconds)) = problem {
        response = response.with(RETRY_AFTER, seconds);
    }
    if let Some(Problem::Busy) = problem {
        response = response.with(RETRY_AFTER, 5);
    }
    response
}

/// The form for a password, and for a name if users have one. `is_wrong` is true if a message above says what is wrong.
fn password_form(options: &SignInOptions, is_asked: bool, allows: bool, request: &str, is_wrong: bool) -> Markup {
    html! {
        form method="post" action="/.auth/login" {
            input type="hidden" name="request" value=(request);
            @if options.has_names {
                label for="username" { "Name" @if options.has_shared { " (empty for the password that all share)" } }
                input #username type="text" name="username" required[!options.has_shared] autofocus autocomplete="username"
                    autocapitalize="none" spellcheck="false" maxlength="64";
            } @else {
                // Password managers store passwords together with a user name.
                input type="text" name="username" value="owner" autocomplete="username" hidden;
            }
            label for="password" { "Password" }
            input #password type="password" name="password" required autofocus[!options.has_names]
                autocomplete="current-password" maxlength="72"
                aria-invalid=[is_wrong.then_some("true")] aria-describedby=[is_wrong.then_some("problem")];
            div .buttons {
                @if is_asked {
                    button .primary type="submit" name="decision" value="allow" {
                        @if allows { "Sign in and allow" } @else { "Sign in" }
                    }
                    button type="submit" name="decision" value="deny" formnovalidate { "Deny" }
                } @else {
                    button .primary type="submit" { "Sign in" }
                }
            }
        }
    }
}

/// A button for each provider. If a client requests access (`is_asked`), its label says that pressing it allows access.
fn providers(options: &SignInOptions, is_asked: bool, request: &str, another_account: bool) -> Markup {
    html! {
        @for provider in &options.providers {
            form method="post" action="/.auth/login" {
                input type="hidden" name="request" value=(request);
                @if another_account { input type="hidden" name="account" value="another"; }
                div .buttons {
                    button .way .down[provider.is_down] type="submit" name="provider" value=(provider.id) {
                        (letter(provider.label))
                        span {
                            "Sign in with " (provider.label) @if is_asked { " and allow" }
                            @if provider.is_down { span .why { (provider.label) " can't be reached at the moment." } }
                        }
                    }
                }
            }
        }
    }
}

/// Sends the browser to a provider. Uses a page with a Refresh field instead of a redirect, since Chromium would apply
/// this origin's form-action to the provider's redirects.
pub fn to_provider(site: &Site, provider: &str, url: &str) -> Response {
    let body = html! {
        h1 { "Signing in with " (provider) }
        p { a href=(url) rel="noreferrer" { "Continue to " (provider) } }
    };
    page(site, None, StatusCode::OK, "Signing in", None, body)
        .with(HeaderName::from_static("refresh"), format!("0;url={url}"))
}

/// The page for a callback with an error: the provider did not sign the person in.
pub fn not_signed_in(
    site: &Site,
    id: RequestId,
    provider: &str,
    is_denied: bool,
    options: &SignInOptions<'_>,
    client: Option<&RequestingClient<'_>>,
    request: &str,
) -> Response {
    let body = html! {
        h1 { "You are not signed in" }
        p .alert role="alert" {
            @if is_denied { "The sign-in was cancelled at " (provider) "." }
            @else { (provider) " did not sign you in." }
        }
        p { "You can try again, or close this page." }
        @if let Some(client) = client { (who_asks(site, client)) }
        (providers(options, client.is_some_and(|client| matches!(client.wants, Wanted::Servers(_))), request, true))
    };
    page(site, Some(id), StatusCode::FORBIDDEN, "Not signed in", client.map(|c| c.redirect), body)
}

/// The page for a person who signed in at a provider as `account` but matches no allow rule. It does not reveal the
/// rules.
pub fn not_allowed(
    site: &Site,
    id: RequestId,
    provider: &str,
    account: Option<&str>,
    options: &SignInOptions<'_>,
    client: Option<&RequestingClient<'_>>,
    request: &str,
) -> Response {
    let shown = account.map_or_else(|| "an account without a verified e-mail address".into(), display_name);
    let body = html! {
        h1 { "You have no access" }
        p .alert role="alert" {
            "At " (provider) " you are signed in as " strong { (shown) } ". This account may not use this server."
        }
        p { "If you have another account, sign in with that one. Otherwise ask the operator of this server." }
        @if let Some(client) = client { (who_asks(site, client)) }
        (providers(options, client.is_some_and(|client| matches!(client.wants, Wanted::Servers(_))), request, true))
    };
    page(site, Some(id), StatusCode::FORBIDDEN, "No access", client.map(|c| c.redirect), body)
}

/// The page after signing out.
pub fn signed_out(site: &Site) -> Response {
    let body = html! {
        h1 { "You are signed out" }
        p { "This browser is signed out. Applications that you allowed before stay connected: sign in again to see or end what they may do." }
        p .buttons {
            a .button href="/.auth/login" { "Sign in again" }
            a .button href="/.auth/account" { "Applications with access" }
        }
    };
    page(site, None, StatusCode::OK, "Signed out", None, body)
}
