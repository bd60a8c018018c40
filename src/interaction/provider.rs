//! Signing in at a provider: sending the browser there, and the callback `/.auth/{provider}/callback`.
//!
//! The person chose the provider on a page of this origin that names the requesting client. That choice is the consent,
//! and `state` binds it to the browser. PKCE verifier and nonce are derived from `state` and the browser's secret name.

use super::complete::{Proof, complete};
use super::failure::Failure;
use super::shared::{Interactions, Visit, requesting};
use crate::encoding::digest;
use crate::http::form::Form;
use crate::http::{Caller, Request, Response};
use crate::identity::ProviderUser;
use crate::identity::{ProviderId, User};
use crate::login::providers::{AuthorizationParameters, Provider, ProviderError, ProviderTokens, pkce_and_nonce};
use crate::oauth::authorize::{self, NotAllowed, Suspended};
use crate::observe::events::Kind;
use crate::pages::{self, RequestingClient, SignInOptions};
use crate::tokens::artefacts::{ProviderState, REQUEST_LIFETIME};
use crate::tokens::{Kind as TokenKind, random_name};

/// Maximum length of a provider's error code in the log.
const MAX_ERROR_CODE: usize = 40;

/// Sends the browser to a provider.
pub(super) fn begin(
    interactions: &Interactions,
    visit: &Visit<'_>,
    id: ProviderId,
    suspended: Option<Suspended>,
    another_account: bool,
) -> Result<Response, Failure> {
    let provider = interactions.login().providers.by_id(id).ok_or(Failure::StaleForm)?;
    let wants_another = |s: &Suspended| s.request.sign_in_anew || s.request.select_account;
    let another_account = another_account || suspended.as_ref().is_some_and(wants_another);
    send(interactions, visit, provider, suspended, another_account, false)
}

fn send(
    interactions: &Interactions,
    visit: &Visit<'_>,
    provider: &Provider,
    suspended: Option<Suspended>,
    another_account: bool,
    consent: bool,
) -> Result<Response, Failure> {
    let core = interactions.core();
    let state = core.keys.sign(&ProviderState {
        provider: provider.id,
        request: suspended.map(|suspended| Box::new(suspended.request)),
        id: random_name(),
        consent,
        browser: visit.browser.binding(),
        exp: core.now() + REQUEST_LIFETIME,
    });
    // Encrypted, so that the provider can't read the client's authorization request.
    let state = core.keys.encrypt(TokenKind::ProviderState, &[], state.as_bytes());
    let (verifier, nonce) = pkce_and_nonce(&core.keys, &state, visit.browser.secret());
    let parameters = AuthorizationParameters {
        redirect_uri: &core.url(provider.id.callback()),
        state: &state,
        challenge: &digest(verifier.as_bytes()),
        nonce: &nonce,
        another_account,
        consent,
    };
    let url = interactions.login().providers.authorize_url(provider, &parameters).map_err(failed(provider))?;
    Ok(pages::to_provider(&core.site, &provider.label, &url))
}

fn failed(provider: &Provider) -> impl FnOnce(ProviderError) -> Failure {
    |error| Failure::Provider(provider.id, provider.label.clone(), error)
}

/// `GET /.auth/google/callback`.
pub fn google(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    callback(interactions, request, caller, ProviderId::Google)
}

/// `GET /.auth/github/callback`.
pub fn github(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    callback(interactions, request, caller, ProviderId::GitHub)
}

/// `GET /.auth/oidc/callback`.
pub fn oidc(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    callback(interactions, request, caller, ProviderId::Oidc)
}

fn callback(interactions: &Interactions, request: &mut Request<'_>, caller: Caller, id: ProviderId) -> Response {
    let visit = Visit::of(interactions, request, caller);
    let query = request.parts.uri.query().unwrap_or_default();
    receive(interactions, &visit, query, id).unwrap_or_else(|failure| failure.page(interactions, &visit))
}

fn receive(interactions: &Interactions, visit: &Visit<'_>, query: &str, id: ProviderId) -> Result<Response, Failure> {
    let (core, caller) = (interactions.core(), visit.caller);
    let refused = |why| caller.event(Kind::CallbackRefused).with("provider", id).with("reason", why);
    let form = Form::parse(query.as_bytes()).map_err(|_| Failure::StaleForm)?;
    let sealed = form.get("state").unwrap_or_default();
    let opened = open(interactions, visit, id, sealed);
    let (Some((state, suspended)), Some(provider)) = (opened, interactions.login().providers.by_id(id)) else {
        refused("its state has expired or belongs to another browser").tell();
        return Err(Failure::StaleForm);
    };
    // Checked before the rate limit, so that replaying an old callback does not use up the limit of others at the same
    // address.
    if interactions.spent.contains(&state.id) {
        refused("it came twice").tell();
        return Err(Failure::StaleForm);
    }
    if !interactions.returns.take(caller.address) {
        return Err(Failure::TooManySignIns);
    }
    if !interactions.spent.spend(&state.id, state.exp, core.now()) {
        return Err(Failure::StaleForm);
    }
    interactions.login().providers.check_issuer(provider, form.get("iss")).map_err(failed(provider))?;
    if let Some(error) = form.get("error") {
        let code: String = error.chars().filter(char::is_ascii_graphic).take(MAX_ERROR_CODE).collect();
        caller.event(Kind::SignInAborted).with("provider", id).with("error", code).tell();
        let is_denied = error == "access_denied";
        return again(interactions, visit, suspended.as_ref(), |options, client, form| {
            pages::not_signed_in(&core.site, caller.id, &provider.label, is_denied, options, client, form)
        });
    }
    let code = form.get("code").filter(|c| !c.is_empty()).ok_or(Failure::StaleForm)?;
    let (person, tokens) = redeem(interactions, visit, provider, sealed, code)?;
    admit(interactions, visit, provider, &state, suspended, person, tokens)
}

/// Decrypts and verifies `state`; `None` if it has expired, or was made for another browser or provider.
fn open(
    interactions: &Interactions,
    visit: &Visit<'_>,
    id: ProviderId,
    sealed: &str,
) -> Option<(ProviderState, Option<Suspended>)> {
    let core = interactions.core();
    let text = core.keys.decrypt(TokenKind::ProviderState, &[], sealed)?;
    let mut state = core.keys.verify::<ProviderState>(&String::from_utf8(text).ok()?, core.now()).ok()?;
    if state.provider != id || state.browser != visit.browser.binding() {
        return None;
    }
    let suspended = match state.request.take() {
        Some(request) => Some(Suspended::of(*request)?),
        None => None,
    };
    Some((state, suspended))
}

fn redeem(
    interactions: &Interactions,
    visit: &Visit<'_>,
    provider: &Provider,
    state: &str,
    code: &str,
) -> Result<(ProviderUser, ProviderTokens), Failure> {
    let core = interactions.core();
    let (verifier, nonce) = pkce_and_nonce(&core.keys, state, visit.browser.secret());
    let parameters = AuthorizationParameters {
        redirect_uri: &core.url(provider.id.callback()),
        state,
        challenge: &digest(verifier.as_bytes()),
        nonce: &nonce,
        another_account: false,
        consent: false,
    };
    let providers = &interactions.login().providers;
    providers.redeem(provider, code, &parameters, &verifier, core.now()).map_err(failed(provider))
}

/// Signs the user in if an allow rule matches.
fn admit(
    interactions: &Interactions,
    visit: &Visit<'_>,
    provider: &Provider,
    state: &ProviderState,
    suspended: Option<Suspended>,
    person: ProviderUser,
    tokens: ProviderTokens,
) -> Result<Response, Failure> {
    let (core, caller, people) = (interactions.core(), visit.caller, &interactions.login().user_records);
    let profile = &person.profile;
    let shown = profile.id.as_deref().or(profile.email.as_deref()).unwrap_or_default();
    let Some(rule) = provider.rules().admit(profile) else {
        // Nothing is stored about users who may not sign in.
        let event = caller.event(Kind::SignInRefused).with("user", &person.user);
        event.with("provider", provider.id).with("id", shown).tell();
        let account = [&profile.email, &profile.id, &profile.name].into_iter().flatten().next().map(String::as_str);
        return again(interactions, visit, suspended.as_ref(), |options, client, form| {
            pages::not_allowed(&core.site, caller.id, &provider.label, account, options, client, form)
        });
    };
    let can_ask_for_more = !state.consent && tokens.refresh.is_none() && provider.gives_more_with_consent();
    if can_ask_for_more && !people.can_be_rechecked(provider, &person.user)? {
        return send(interactions, visit, provider, suspended, false, true);
    }
    people.learn(provider, &person, &tokens)?;
    let user = User { id: person.user.clone(), email: profile.email.clone(), credential: provider.credential.clone() };
    complete(interactions, visit, user, Proof::Provider { provider: provider.id, id: shown, rule }, suspended.as_ref())
}

/// A page with a form to try again. If a client requests access, the page names the client, since signing in allows it.
fn again(
    interactions: &Interactions,
    visit: &Visit<'_>,
    suspended: Option<&Suspended>,
    page: impl FnOnce(&SignInOptions<'_>, Option<&RequestingClient<'_>>, &str) -> Response,
) -> Result<Response, Failure> {
    let (core, options) = (interactions.core(), interactions.sign_in_options());
    let Some(suspended) = suspended else { return Ok(page(&options, None, &interactions.plain_form(visit))) };
    let client = suspended.client(core)?.ok_or(NotAllowed::NotRegistered)?;
    let servers = authorize::servers(&interactions.server.resources.now(), &suspended.request);
    Ok(page(&options, Some(&requesting(&client, suspended, &servers)), &suspended.sign(core)))
}
