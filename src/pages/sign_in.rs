//! Signing in and out.

use http::StatusCode;
use http::header::{HeaderName, RETRY_AFTER};
use maud::{Markup, html};

use super::consent::{RequestingClient, Wanted, headline, who_asks};
use super::layout::page;
use super::site::{Site, letter};
use super::text::{display_name, seconds_in_words};
use super::words::{self, fill, fill_plain};
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
        Problem::Wrong if options.has_names => words::WRONG_NAME.to_string(),
        Problem::Wrong => words::WRONG_PASSWORD.to_string(),
        Problem::Slow(seconds) => fill_plain(words::TOO_MANY_WRONG, &[("time", &seconds_in_words(seconds))]),
        Problem::Busy => words::BUSY.to_string(),
    });
    let allows = client.is_some_and(|client| matches!(client.wants, Wanted::Servers(_)));
    let title = client
        .map_or_else(|| fill_plain(words::SIGN_IN_TO, &[("site", site.title())]), |client| headline(site, client));
    let body = html! {
        h1 { (title) }
        @if let Some(client) = client { (who_asks(site, client)) }
        @if let Some(message) = &message { p #problem .alert role="alert" { (message) } }
        @if client.is_some() {
            p .soft .hint { @if allows { (words::SIGN_IN_TO_ALLOW) } @else { (words::SIGN_IN_TO_CHOOSE) } }
        }
        (providers(options, allows, request, false))
        @if options.has_password() && !options.providers.is_empty() { p .or { (words::OR) } }
        @if options.has_password() { (password_form(options, client.is_some(), allows, request, message.is_some())) }
        @else if client.is_some() { form method="post" action="/.auth/login" {
            input type="hidden" name="request" value=(request);
            div .buttons { button type="submit" name="decision" value="deny" { (words::DENY) } }
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
                label for="username" { (words::NAME_FIELD) @if options.has_shared { (words::NAME_MAY_BE_EMPTY) } }
                input #username type="text" name="username" required[!options.has_shared] autofocus autocomplete="username"
                    autocapitalize="none" spellcheck="false" maxlength="64";
            } @else {
                // Password managers store passwords together with a user name.
                input type="text" name="username" value="owner" autocomplete="username" hidden;
            }
            label for="password" { (words::PASSWORD_FIELD) }
            input #password type="password" name="password" required autofocus[!options.has_names]
                autocomplete="current-password" maxlength="72"
                aria-invalid=[is_wrong.then_some("true")] aria-describedby=[is_wrong.then_some("problem")];
            div .buttons {
                @if is_asked {
                    button .primary type="submit" name="decision" value="allow" {
                        @if allows { (words::SIGN_IN_AND_ALLOW) } @else { (words::SIGN_IN) }
                    }
                    button type="submit" name="decision" value="deny" formnovalidate { (words::DENY) }
                } @else {
                    button .primary type="submit" { (words::SIGN_IN) }
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
                            (named(if is_asked { words::SIGN_IN_WITH_AND_ALLOW } else { words::SIGN_IN_WITH }, provider.label))
                            @if provider.is_down { span .why { (named(words::PROVIDER_IS_DOWN, provider.label)) } }
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
        h1 { (named(words::SIGNING_IN_WITH, provider)) }
        p { a href=(url) rel="noreferrer" { (named(words::CONTINUE_TO, provider)) } }
    };
    page(site, None, StatusCode::OK, words::SIGNING_IN, None, body)
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
        h1 { (words::NOT_SIGNED_IN) }
        p .alert role="alert" {
            (named(if is_denied { words::CANCELLED } else { words::DID_NOT_SIGN_IN }, provider))
        }
        p { (words::TRY_AGAIN_OR_CLOSE) }
        @if let Some(client) = client { (who_asks(site, client)) }
        (providers(options, client.is_some_and(|client| matches!(client.wants, Wanted::Servers(_))), request, true))
    };
    page(site, Some(id), StatusCode::FORBIDDEN, words::NOT_SIGNED_IN_TITLE, client.map(|c| c.redirect), body)
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
    let shown = account.map_or_else(|| words::UNVERIFIED_ACCOUNT.into(), display_name);
    let body = html! {
        h1 { (words::NO_ACCESS) }
        p .alert role="alert" {
            (fill(words::ACCOUNT_NOT_ALLOWED, &[("provider", html! { (provider) }), ("user", html! { strong { (shown) } })]))
        }
        p { (words::SIGN_IN_WITH_ANOTHER) }
        @if let Some(client) = client { (who_asks(site, client)) }
        (providers(options, client.is_some_and(|client| matches!(client.wants, Wanted::Servers(_))), request, true))
    };
    page(site, Some(id), StatusCode::FORBIDDEN, words::NO_ACCESS_TITLE, client.map(|c| c.redirect), body)
}

/// A text about a provider.
fn named(text: &'static str, provider: &str) -> String {
    fill_plain(text, &[("provider", provider)])
}

/// The page after signing out.
pub fn signed_out(site: &Site) -> Response {
    let body = html! {
        h1 { (words::SIGNED_OUT) }
        p { (words::SIGNED_OUT_MEANS) }
        p .buttons {
            a .button href="/.auth/login" { (words::SIGN_IN_AGAIN) }
            a .button href="/.auth/account" { (words::APPLICATIONS_WITH_ACCESS) }
        }
    };
    page(site, None, StatusCode::OK, words::SIGNED_OUT_TITLE, None, body)
}
