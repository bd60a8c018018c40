//! State and helpers that all interactions share, and the request of a browser.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{HOST, ORIGIN};

use super::spent::SpentStates;
use crate::core::Core;
use crate::http::{Caller, Request, Response};
use crate::login::Login;
use crate::login::session::Browser;
use crate::net::rate_limit::RateLimit;
use crate::oauth::AuthorizationServer;
use crate::oauth::authorize::{self, Suspended};
use crate::oauth::client_metadata::is_document;
use crate::pages::{self, Problem, ProviderButton, RequestingClient, ServerCard, SignInOptions, Wanted};
use crate::resource::protected::ProtectedResource;
use crate::store::rows::Client;
use crate::tokens::artefacts::{PlainForm, REQUEST_LIFETIME};

/// State that all interactions share.
pub struct Interactions {
    /// Carries out what the person decides.
    pub server: Arc<AuthorizationServer>,
    /// With one provider and no password, skip the sign-in page if no client requests access.
    pub(super) skips_chooser: bool,
    /// Rate limit of provider callbacks, per address.
    pub(super) returns: RateLimit,
    /// Rate limit of account pages, per address.
    pub(super) account_views: RateLimit,
    /// Callbacks that were already handled.
    pub(super) spent: SpentStates,
}

impl Interactions {
    /// Creates the state; no callback was handled yet.
    pub fn new(server: Arc<AuthorizationServer>, skips_chooser: bool) -> Interactions {
        let (returns, spent) = (RateLimit::new(60, 1), SpentStates::default());
        let account_views = RateLimit::new(60, 2);
        Interactions { server, skips_chooser, returns, account_views, spent }
    }

    pub(super) fn core(&self) -> &Core {
        &self.server.core
    }

    pub(super) fn login(&self) -> &Login {
        &self.server.login
    }

    pub(super) fn sign_in_options(&self) -> SignInOptions<'_> {
        let button = |p: &'_ crate::login::providers::Provider| (p.id, p.is_down());
        let providers = self.login().providers.all().iter().map(|p| {
            let (id, is_down) = button(p);
            ProviderButton { id, label: &p.label, is_down }
        });
        let passwords = &self.login().passwords;
        let (has_shared, has_names) = (passwords.has_shared(), passwords.has_names());
        SignInOptions { providers: providers.collect(), has_shared, has_names }
    }

    /// The sign-in page for an authorization request of a client; signing in on it is also the consent.
    pub(super) fn sign_in_page(&self, suspended: &Suspended, client: &Client, problem: Option<Problem>) -> Response {
        let request = suspended.sign(self.core());
        let servers = authorize::servers(&self.server.resources.now(), &suspended.request);
        let client = requesting(client, suspended, &servers);
        pages::sign_in(&self.core().site, &self.sign_in_options(), Some(&client), &request, problem)
    }

    /// The sign-in page without a requesting client.
    pub(super) fn plain_sign_in_page(&self, visit: &Visit<'_>, problem: Option<Problem>) -> Response {
        let options = self.sign_in_options();
        pages::sign_in(&self.core().site, &options, None, &self.plain_form(visit), problem)
    }

    /// A signed form value for pages without a requesting client, bound to this browser.
    pub(super) fn plain_form(&self, visit: &Visit<'_>) -> String {
        let exp = self.core().now() + REQUEST_LIFETIME;
        self.core().keys.sign(&PlainForm { browser: visit.browser.binding(), exp })
    }

    /// Was `text` made by [`Interactions::plain_form`] for this browser, and is it not expired?
    pub(super) fn is_plain_form(&self, visit: &Visit<'_>, text: &str) -> bool {
        let form = self.core().keys.verify::<PlainForm>(text, self.core().now());
        form.is_ok_and(|form| form.browser == visit.browser.binding())
    }

    /// Does the form come from a page of this origin? Browsers send the `Origin` of a form's page; a form of another
    /// origin is refused even if its signed value is valid. A missing `Origin` is accepted.
    pub(super) fn is_same_origin(&self, visit: &Visit<'_>) -> bool {
        let Some(origin) = visit.headers.get(ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        // The Host field was already checked against the allowed names, so an origin with this host is also ours.
        let host = visit.headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let external = &self.core().external;
        let scheme = if external.secure { "https" } else { "http" };
        let is_host = |(s, o): (&str, &str)| s == scheme && !o.is_empty() && o.eq_ignore_ascii_case(host);
        origin == external.origin || origin.split_once("://").is_some_and(is_host)
    }
}

/// What a page shows of the client that asks.
pub(super) fn requesting<'a>(
    client: &'a Client,
    suspended: &'a Suspended,
    servers: &'a [Arc<ProtectedResource>],
) -> RequestingClient<'a> {
    let wants = match suspended.request.resources {
        Some(_) => Wanted::Servers(servers.iter().map(|server| server.title.as_str()).collect()),
        None => Wanted::Choice,
    };
    let published_at = is_document(client.id.as_str())
        .then(|| client.id.as_str().trim_start_matches("https://").split(['/', ':']).next().unwrap_or_default());
    let has_operator = client.preregistered.is_some();
    RequestingClient { name: client.name.as_deref(), published_at, has_operator, redirect: &suspended.redirect, wants }
}

/// What a page shows of the servers.
pub(super) fn cards(servers: &[Arc<ProtectedResource>]) -> Vec<ServerCard<'_>> {
    fn card(server: &Arc<ProtectedResource>) -> ServerCard<'_> {
        ServerCard {
            name: &server.name,
            title: &server.title,
            description: match server.description.as_str() {
                "" => server.upstream.about().unwrap_or_default(),
                configured => configured.to_string(),
            },
            url: server.url().as_str(),
            is_down: server.upstream.is_down(),
        }
    }
    servers.iter().map(card).collect()
}

/// A request of a browser.
pub(super) struct Visit<'r> {
    pub(super) headers: &'r HeaderMap,
    pub(super) browser: Browser,
    pub(super) caller: Caller,
}

impl<'r> Visit<'r> {
    pub(super) fn of(interactions: &Interactions, request: &'r Request<'_>, caller: Caller) -> Visit<'r> {
        let headers = &request.parts.headers;
        Visit { headers, browser: Browser::of(interactions.core(), headers), caller }
    }
}
