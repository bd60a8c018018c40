//! Failures of an interaction, each with its error page and log line.

use http::StatusCode;
use http::header::{ORIGIN, RETRY_AFTER};

use super::shared::{Interactions, Visit};
use crate::http::Response;
use crate::http::form::FormError;
use crate::identity::ProviderId;
use crate::login::providers::ProviderError;
use crate::oauth::Full;
use crate::oauth::authorize::{Fault, NotAllowed};
use crate::observe::events::Kind;
use crate::pages;
use crate::pages::words::{self, fill_plain};
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
    /// The authorization request is refused, and a redirect to the client is not possible.
    Refused(Fault),
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

const FOREIGN: &str = "it came from a page of another site, or the proxy is reached under another name than --external-url (EXTERNAL_URL)";

impl Failure {
    /// Builds the error page, and writes a log line for the operator where it helps.
    pub(super) fn page(self, interactions: &Interactions, visit: &Visit<'_>) -> Response {
        let (site, caller) = (&interactions.core().site, visit.caller);
        let page = |status, title: &str, why: &str, next: &str| pages::error(site, caller.id, status, title, why, next);
        match self {
            Failure::Form(error) => page(
                error.status,
                words::FORM_NOT_READ,
                &fill_plain(words::SENTENCE, &[("why", &error.reason.to_string())]),
                words::TRY_AGAIN,
            ),
            Failure::ForeignForm => {
                let origin =
                    visit.headers.get(ORIGIN).map(|o| String::from_utf8_lossy(o.as_bytes())).unwrap_or_default();
                let shown: String = origin.chars().take(100).collect();
                caller.event(Kind::FormRefused).with("reason", FOREIGN).with("origin", without_secrets(shown)).tell();
                let why = words::FOREIGN_FORM_WHY;
                page(StatusCode::BAD_REQUEST, words::FOREIGN_FORM, why, words::START_AGAIN)
            }
            Failure::StaleForm => stale_form(interactions, visit),
            Failure::Refused(fault) => refused(interactions, visit, &fault),
            Failure::NotAllowed(NotAllowed::NotRegistered) => {
                let (title, why) = in_words(&Fault::NotRegistered);
                page(StatusCode::BAD_REQUEST, title, &why, words::CONNECT_AGAIN)
            }
            Failure::NotAllowed(NotAllowed::NoConsent) => {
                page(StatusCode::FORBIDDEN, words::NOT_GIVEN, words::ENDED, words::CONNECT_AGAIN)
            }
            Failure::NotAllowed(NotAllowed::TooManyCodes(full)) => {
                let (status, why) = match full {
                    Full::Page => (StatusCode::BAD_REQUEST, words::PAGE_USED),
                    Full::User => (StatusCode::TOO_MANY_REQUESTS, words::TOO_MANY_APPLICATIONS),
                };
                page(status, words::NOT_GIVEN, why, words::START_AGAIN_LATER).with(RETRY_AFTER, CODE_LIFETIME)
            }
            Failure::NotAllowed(NotAllowed::Store(error)) => {
                log::debug!(request:% = caller.id, error:% = error; "a browser's request was answered with 503: the store failed");
                let why = words::CANT_SAVE;
                let next = words::IN_THE_LOG;
                page(StatusCode::SERVICE_UNAVAILABLE, words::NOT_POSSIBLE, why, next).with(RETRY_AFTER, 60)
            }
            Failure::TooManySignIns => {
                caller.event(Kind::SignInThrottled).with("reason", "too many callbacks of providers").tell();
                let why = words::TOO_MANY_SIGN_INS_WHY;
                page(StatusCode::TOO_MANY_REQUESTS, words::TOO_MANY_SIGN_INS, why, words::START_AGAIN_LATER)
                    .with(RETRY_AFTER, 60)
            }
            Failure::TooManyViews => {
                let why = words::TOO_MANY_REQUESTS_WHY;
                let next = words::TRY_AGAIN_LATER;
                page(StatusCode::TOO_MANY_REQUESTS, words::TOO_MANY_REQUESTS, why, next).with(RETRY_AFTER, 60)
            }
            Failure::Provider(id, label, error) => provider_failed(interactions, visit, id, &label, &error),
        }
    }
}

fn refused(interactions: &Interactions, visit: &Visit<'_>, fault: &Fault) -> Response {
    let (site, caller) = (&interactions.core().site, visit.caller);
    let (title, why) = in_words(fault);
    caller.event(Kind::AuthorizationRefused).with("reason", &why).tell();
    let (status, next) = match fault {
        Fault::DocumentUnreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, words::START_AGAIN_LATER),
        _ => (StatusCode::BAD_REQUEST, words::CONNECT_AGAIN),
    };
    let page = pages::error(site, caller.id, status, title, &why, next);
    if status == StatusCode::SERVICE_UNAVAILABLE { page.with(RETRY_AFTER, 60) } else { page }
}

/// Title and explanation of the page about a fault.
fn in_words(fault: &Fault) -> (&'static str, String) {
    let with = |text, why: &str| fill_plain(text, &[("why", why)]);
    match fault {
        Fault::Unreadable(why) => (words::MALFORMED, with(words::UNREADABLE, why)),
        Fault::NoClient => (words::MALFORMED, words::NAMES_NO_CLIENT.into()),
        Fault::Parameter(why) => (words::MALFORMED, with(words::FAULTY_PARAMETER, why)),
        Fault::NotRegistered => (words::NOT_REGISTERED, words::NOT_REGISTERED_WHY.into()),
        Fault::Document(why) => (words::DOCUMENT_REFUSED, with(words::SENTENCE, why)),
        Fault::DocumentUnreachable(why) => (words::DOCUMENT_UNREACHABLE, with(words::SENTENCE, why)),
        Fault::OtherUses => (words::OTHER_USES, words::OTHER_USES_WHY.into()),
        Fault::ForeignRedirect => (words::NOT_WHAT_IT_SEEMS, words::FOREIGN_REDIRECT.into()),
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
            words::NO_COOKIE.to_string(),
            fill_plain(words::NO_COOKIE_WHY, &[("host", host)]),
            fill_plain(words::NO_COOKIE_NEXT, &[("host", host)]),
        ),
        false => (words::STALE.to_string(), words::STALE_WHY.into(), words::START_AGAIN.into()),
    };
    pages::error(site, caller.id, StatusCode::BAD_REQUEST, &title, &why, &next)
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
            fill_plain(words::PROVIDER_UNREACHABLE, &[("provider", label)]),
            words::PROVIDER_UNREACHABLE_WHY.to_string(),
            words::PROVIDER_UNREACHABLE_NEXT,
        ),
        ProviderError::Refused(_) | ProviderError::Invalid(_) => (
            StatusCode::BAD_REQUEST,
            words::PROVIDER_FAILED.to_string(),
            fill_plain(words::PROVIDER_FAILED_WHY, &[("provider", label)]),
            words::PROVIDER_FAILED_NEXT,
        ),
    };
    pages::error(site, caller.id, status, &title, &why, next)
}
