//! Failures of an interaction, each with its error page and log line.

use http::StatusCode;
use http::header::{ORIGIN, RETRY_AFTER};

use super::shared::{Interactions, Visit};
use crate::http::Response;
use crate::http::form::FormError;
use crate::identity::ProviderId;
use crate::login::providers::ProviderError;
use crate::oauth::Full;
use crate::oauth::authorize::{NOT_REGISTERED, NotAllowed};
use crate::observe::events::Kind;
use crate::pages;
use crate::resource::call::without_secrets;
use crate::store::StoreError;
use crate::tokens::artefacts::CODE_LIFETIME;

/// Why an interaction failed.
pub(super) enum Failure {
    /// The form can't be read.
    Form(FormError),
    /// The form was sent by a page of another site.
    ForeignForm,
    /// The form is too old, belongs to another browser, or is not valid here.
    StaleForm,
    /// The authorization request is refused, and a redirect to the client is not possible: title and explanation of the
    /// error page.
    Refused(&'static str, String),
    /// The same, for what may work in a minute.
    Later(&'static str, String),
    /// No grant could be created, or the store failed.
    NotAllowed(NotAllowed),
    /// Rate limit: too many callbacks from providers for one address.
    TooManySignIns,
    /// Rate limit: too many account pages for one address.
    TooManyViews,
    /// The sign-in at a provider failed: provider id, label and error.
    Provider(ProviderId, String, ProviderError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::NotAllowed(NotAllowed::Store(error))
    }
}

impl From<NotAllowed> for Failure {
    fn from(error: NotAllowed) -> Failure {
        Failure::NotAllowed(error)
    }
}

impl From<FormError> for Failure {
    fn from(error: FormError) -> Failure {
        Failure::Form(error)
    }
}

const START_AGAIN: &str = "Go back to the application and start connecting again.";
const START_AGAIN_LATER: &str = "Go back to the application and start connecting again in a minute.";
const NOT_GIVEN: &str = "Access was not given";
const ENDED: &str = "The consent for this application has been ended in the meantime.";
const CONNECT_AGAIN: &str = "Go back to the application, remove this server from it and add it again.";

const FOREIGN: &str = "it came from a page of another site, or the proxy is reached under another name than --external-url (EXTERNAL_URL)";

impl Failure {
    /// Builds the error page, and writes a log line for the operator where it helps.
    pub(super) fn page(self, interactions: &Interactions, visit: &Visit<'_>) -> Response {
        let (site, caller) = (&interactions.core().site, visit.caller);
        let page = |status, title: &str, why: &str, next: &str| pages::error(site, caller.id, status, title, why, next);
        match self {
            Failure::Form(error) => page(
                error.status,
                "The form could not be read",
                &format!("{}.", error.reason),
                "Go back and try again.",
            ),
            Failure::ForeignForm => {
                let origin =
                    visit.headers.get(ORIGIN).map(|o| String::from_utf8_lossy(o.as_bytes())).unwrap_or_default();
                let shown: String = origin.chars().take(100).collect();
                caller.event(Kind::FormRefused).with("reason", FOREIGN).with("origin", without_secrets(shown)).tell();
                let why = "The form was not sent from a page of this server at this address.";
                page(StatusCode::BAD_REQUEST, "This form came from another site", why, START_AGAIN)
            }
            Failure::StaleForm => stale_form(interactions, visit),
            Failure::Refused(title, why) => {
                caller.event(Kind::AuthorizationRefused).with("reason", &why).tell();
                page(StatusCode::BAD_REQUEST, title, &why, CONNECT_AGAIN)
            }
            Failure::Later(title, why) => {
                caller.event(Kind::AuthorizationRefused).with("reason", &why).tell();
                page(StatusCode::SERVICE_UNAVAILABLE, title, &why, START_AGAIN_LATER).with(RETRY_AFTER, 60)
            }
            Failure::NotAllowed(NotAllowed::NotRegistered) => {
                let (title, why) = NOT_REGISTERED;
                page(StatusCode::BAD_REQUEST, title, why, CONNECT_AGAIN)
            }
            Failure::NotAllowed(NotAllowed::NoConsent) => page(StatusCode::FORBIDDEN, NOT_GIVEN, ENDED, CONNECT_AGAIN),
            Failure::NotAllowed(NotAllowed::TooManyCodes(full)) => {
                let (status, why) = match full {
                    Full::Page => (StatusCode::BAD_REQUEST, "This page has been used already."),
                    Full::User => {
                        (StatusCode::TOO_MANY_REQUESTS, "You have let too many applications in within a minute.")
                    }
                };
                page(status, NOT_GIVEN, why, START_AGAIN_LATER).with(RETRY_AFTER, CODE_LIFETIME)
            }
            Failure::NotAllowed(NotAllowed::Store(error)) => {
                log::debug!(request:% = caller.id, error:% = error; "a browser's request was answered with 503: the store failed");
                let why = "The server can't save anything just now.";
                let next = "Try again in a minute. Its operator finds the reason in the log.";
                page(StatusCode::SERVICE_UNAVAILABLE, "Not possible at the moment", why, next).with(RETRY_AFTER, 60)
            }
            Failure::TooManySignIns => {
                caller.event(Kind::SignInThrottled).with("reason", "too many callbacks of providers").tell();
                let why = "There were too many sign-ins from your network in a short time.";
                page(StatusCode::TOO_MANY_REQUESTS, "Too many sign-ins", why, START_AGAIN_LATER).with(RETRY_AFTER, 60)
            }
            Failure::TooManyViews => {
                let why = "There were too many requests from your network in a short time.";
                let next = "Go back and try again in a minute.";
                page(StatusCode::TOO_MANY_REQUESTS, "Too many requests", why, next).with(RETRY_AFTER, 60)
            }
            Failure::Provider(id, label, error) => provider_failed(interactions, visit, id, &label, &error),
        }
    }
}

fn stale_form(interactions: &Interactions, visit: &Visit<'_>) -> Response {
    let (site, caller) = (&interactions.core().site, visit.caller);
    let sent_no_cookie = visit.browser.is_new();
    let reason = if sent_no_cookie { "the browser sent no cookie" } else { "too old, or opened in another browser" };
    caller.event(Kind::FormRefused).with("reason", reason).tell();
    let host = &site.external.host;
    let (title, why, next) = match sent_no_cookie {
        true => (
            "Your browser sent no cookie",
            format!("Signing in needs a cookie of {host}, and your browser sent none with the form."),
            format!(
                "Allow cookies for {host} in the settings of your browser, or use a window that is not private. Then go back to the application and start connecting again."
            ),
        ),
        false => (
            "This page is no longer valid",
            "The form was too old, or was opened in another browser.".into(),
            START_AGAIN.into(),
        ),
    };
    pages::error(site, caller.id, StatusCode::BAD_REQUEST, title, &why, &next)
}

fn provider_failed(
    interactions: &Interactions,
    visit: &Visit<'_>,
    id: ProviderId,
    label: &str,
    error: &ProviderError,
) -> Response {
    let (site, caller) = (&interactions.core().site, visit.caller);
    caller.event(Kind::ProviderFailed).with("provider", id).with("reason", error).tell();
    let (status, title, why, next) = match error {
        ProviderError::Unreachable(_) => (
            StatusCode::BAD_GATEWAY,
            format!("{label} can't be reached"),
            "Signing in there is not possible at the moment.".to_string(),
            "Go back and try again in a minute, or choose another way to sign in. The operator of this server finds the reason in the log.",
        ),
        ProviderError::Refused(_) | ProviderError::Invalid(_) => (
            StatusCode::BAD_REQUEST,
            "The sign-in failed".to_string(),
            format!("What {label} answered could not be accepted."),
            "Go back to the application and start connecting again. The operator of this server finds the reason in the log.",
        ),
    };
    pages::error(site, caller.id, status, &title, &why, next)
}
