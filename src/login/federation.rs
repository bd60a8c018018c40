//! Signing in at a provider: the way there, and `/.auth/{provider}/callback`.
//!
//! The person has chosen the provider on a page of this origin that shows who asks: that is the consent, and it is bound
//! to the browser by `state`. PKCE verifier and nonce are made from that state and the browser's secret name.

use std::collections::HashMap;
use std::sync::Mutex;

use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderValue, StatusCode};

use super::pages::{self, Asker};
use super::providers::{Hop, Provider, ProviderTokens, Trouble, hop_secrets};
use super::session::{self, Browser};
use super::signin;
use crate::clock::Timestamp;
use crate::context::{Caller, Context};
use crate::encoding::digest;
use crate::http::{Request, Response};
use crate::identity::ProviderId;
use crate::identity::User;
use crate::oauth::authorize;
use crate::oauth::form::Form;
use crate::rules::Person;
use crate::store::StoreError;
use crate::store::rows::Client;
use crate::tokens::artefacts::{AuthorizationRequest, ProviderState, REQUEST_LIFETIME};
use crate::tokens::{Kind, random_name};

/// Sign-ins at providers remembered as done.
const MAX_SPENT: usize = 20_000;

/// Sign-ins that have come back from a provider: each does once, so that nobody can have a provider asked at will.
#[derive(Default)]
pub struct Spent(Mutex<HashMap<String, Timestamp>>);

impl Spent {
    /// Did it come before?
    fn has(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).contains_key(id)
    }

    /// Takes note of one; false when it came before.
    fn spend(&self, id: &str, exp: Timestamp, now: Timestamp) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if spent.len() >= MAX_SPENT {
            spent.retain(|_, exp| *exp > now);
            if spent.len() >= MAX_SPENT {
                spent.clear();
            }
        }
        spent.insert(id.to_string(), exp).is_none()
    }
}

/// Longest word of a provider that is logged.
const MAX_WORD: usize = 40;

/// Sends the browser to a provider.
pub fn begin(
    ctx: &Context,
    browser: &Browser,
    slug: ProviderId,
    request: Option<Box<AuthorizationRequest>>,
    another_account: bool,
    caller: Caller,
) -> Response {
    let Some(provider) = ctx.providers.of_slug(slug) else { return signin::stale_form(ctx, browser, caller) };
    let another_account = another_account || request.as_ref().is_some_and(|r| r.sign_in_anew || r.select_account);
    hop_to(ctx, browser, provider, request, another_account, false, caller)
}

fn hop_to(
    ctx: &Context,
    browser: &Browser,
    provider: &Provider,
    request: Option<Box<AuthorizationRequest>>,
    another_account: bool,
    consent: bool,
    caller: Caller,
) -> Response {
    let slug = provider.slug;
    let state = ctx.keys.seal(&ProviderState {
        provider: slug,
        request,
        id: random_name(),
        consent,
        browser: browser.binding(),
        exp: ctx.now() + REQUEST_LIFETIME,
    });
    // What the client asked for is not the provider's business.
    let state = ctx.keys.encrypt(Kind::ProviderState, &[], state.as_bytes());
    let (verifier, nonce) = hop_secrets(&ctx.keys, &state, browser.secret());
    let hop = Hop {
        redirect_uri: &ctx.url(slug.callback()),
        state: &state,
        challenge: &digest(verifier.as_bytes()),
        nonce: &nonce,
        another_account,
        consent,
    };
    match ctx.providers.authorize_url(provider, &hop) {
        Ok(url) => pages::hop(ctx, provider, &url),
        Err(trouble) => in_trouble(ctx, provider, &trouble, caller),
    }
}

/// `GET /.auth/google/callback`.
pub fn google(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    callback(ctx, request, caller, ProviderId::Google)
}

/// `GET /.auth/github/callback`.
pub fn github(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    callback(ctx, request, caller, ProviderId::GitHub)
}

/// `GET /.auth/oidc/callback`.
pub fn oidc(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    callback(ctx, request, caller, ProviderId::Oidc)
}

fn callback(ctx: &Context, request: &mut Request<'_>, caller: Caller, slug: ProviderId) -> Response {
    let headers = &request.parts.headers;
    let query = request.parts.uri.query().unwrap_or_default();
    let browser = Browser::of(ctx, headers);
    let stale = || signin::stale_form(ctx, &browser, caller);
    let Ok(form) = Form::parse(query.as_bytes()) else { return stale() };
    let sealed = form.get("state").unwrap_or_default();
    // Made here, for this browser, this provider, and not long ago; else it is somebody else's sign-in.
    let opened = ctx.keys.decrypt(Kind::ProviderState, &[], sealed).and_then(|text| String::from_utf8(text).ok());
    let state = opened.and_then(|text| ctx.keys.open::<ProviderState>(&text, ctx.now()).ok());
    let state = state.filter(|s| s.provider == slug && s.browser == browser.binding());
    let (Some(state), Some(provider)) = (state, ctx.providers.of_slug(slug)) else {
        log::info!(request:% = caller.id, address:% = caller.address, provider:% = slug; "a provider's answer was refused: it belongs to no sign-in of this browser");
        return stale();
    };
    // First of all: whoever sends an old one again and again takes nothing from others at the same address.
    if ctx.spent.has(&state.id) {
        log::info!(request:% = caller.id, address:% = caller.address, provider:% = slug; "a provider's answer came twice");
        return stale();
    }
    if !ctx.returns.take(caller.address) {
        return signin::too_many(ctx, caller);
    }
    if !ctx.spent.spend(&state.id, state.exp, ctx.now()) {
        return stale();
    }
    if let Err(trouble) = ctx.providers.check_issuer(provider, form.get("iss")) {
        return in_trouble(ctx, provider, &trouble, caller);
    }
    if let Some(error) = form.get("error") {
        let word: String = error.chars().filter(char::is_ascii_graphic).take(MAX_WORD).collect();
        log::info!(request:% = caller.id, address:% = caller.address, provider:% = slug, error = word.as_str(); "the provider did not sign anybody in");
        let is_denied = error == "access_denied";
        return again(ctx, &browser, &state, caller, |asker, form| {
            pages::not_signed_in(ctx, caller.id, provider, is_denied, asker, form)
        });
    }
    let Some(code) = form.get("code").filter(|c| !c.is_empty()) else { return stale() };
    let (verifier, nonce) = hop_secrets(&ctx.keys, sealed, browser.secret());
    let hop = Hop {
        redirect_uri: &ctx.url(slug.callback()),
        state: sealed,
        challenge: &digest(verifier.as_bytes()),
        nonce: &nonce,
        another_account: false,
        consent: false,
    };
    let (person, tokens) = match ctx.providers.redeem(provider, code, &hop, &verifier, ctx.now()) {
        Ok(found) => found,
        Err(trouble) => return in_trouble(ctx, provider, &trouble, caller),
    };
    let shown = person.identity.id.as_deref().or(person.identity.email.as_deref()).unwrap_or_default();
    let Some(rule) = provider.rules().admit(&person.identity) else {
        // Nothing is kept of those who may not enter.
        log::warn!(request:% = caller.id, address:% = caller.address, user:% = person.user, id = shown; "a sign-in was refused: no allow rule fits");
        return again(ctx, &browser, &state, caller, |asker, form| {
            pages::not_allowed(ctx, caller.id, provider, &person, asker, form)
        });
    };
    if !state.consent && tokens.refresh.is_none() && provider.gives_more_with_consent() {
        match ctx.people.can_be_asked_after(ctx, provider, &person.user) {
            Ok(true) => {}
            Ok(false) => return hop_to(ctx, &browser, provider, state.request, false, true, caller),
            Err(e) => return signin::unavailable(ctx, &e, caller),
        }
    }
    let client = state.request.as_ref().and_then(|asked| authorize::client_of(ctx, asked).unwrap_or_default());
    let client_name = client.as_ref().map_or("", Client::shown_name);
    log::info!(request:% = caller.id, address:% = caller.address, user:% = person.user, client_name = client_name, id = shown, rule = rule; "signed in");
    finish(ctx, request, provider, &person, &tokens, state.request, caller)
        .unwrap_or_else(|e| signin::unavailable(ctx, &e, caller))
}

fn finish(
    ctx: &Context,
    request: &Request<'_>,
    provider: &Provider,
    person: &Person,
    tokens: &ProviderTokens,
    asked: Option<Box<AuthorizationRequest>>,
    caller: Caller,
) -> Result<Response, StoreError> {
    ctx.people.learn(ctx, provider, person, tokens)?;
    let user =
        User { id: person.user.clone(), email: person.identity.email.clone(), credential: provider.credential.clone() };
    let (session, cookies) = session::start(ctx, &request.parts.headers, user)?;
    let mut response = match asked {
        Some(asked) => {
            authorize::remember(ctx, &session.user, &asked)?;
            authorize::allow(ctx, &asked, &session.user, caller)?
        }
        None => Response::new(StatusCode::SEE_OTHER).with(LOCATION, HeaderValue::from_static("/.auth/login")),
    };
    for cookie in cookies {
        response.headers.append(SET_COOKIE, cookie);
    }
    Ok(response)
}

/// A page with a form for another try; where a client asks, it names who that is, since the form lets it in.
fn again(
    ctx: &Context,
    browser: &Browser,
    state: &ProviderState,
    caller: Caller,
    page: impl FnOnce(Option<&Asker<'_>>, &str) -> Response,
) -> Response {
    match &state.request {
        Some(asked) => authorize::with_client(ctx, asked, caller, |asker| page(Some(asker), &ctx.keys.seal(&**asked))),
        None => page(None, &signin::plain_form(ctx, browser)),
    }
}

fn in_trouble(ctx: &Context, provider: &Provider, trouble: &Trouble, caller: Caller) -> Response {
    log::warn!(request:% = caller.id, address:% = caller.address, provider:% = provider.slug, reason:% = trouble; "a sign-in at a provider failed");
    match trouble {
        Trouble::Unreachable(_) => pages::error(
            ctx,
            caller.id,
            StatusCode::BAD_GATEWAY,
            &format!("{} can't be reached", provider.label),
            "Signing in there is not possible at the moment.",
            "Go back and try again in a minute, or choose another way to sign in. The operator of this server finds the reason in the log.",
        ),
        Trouble::Refused(_) | Trouble::Invalid(_) => pages::error(
            ctx,
            caller.id,
            StatusCode::BAD_REQUEST,
            "The sign-in failed",
            &format!("What {} answered could not be accepted.", provider.label),
            "Go back to the application and start connecting again. The operator of this server finds the reason in the log.",
        ),
    }
}
