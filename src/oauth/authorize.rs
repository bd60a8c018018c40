//! `/.idp/auth`: the authorization endpoint (RFC 6749 section 4.1, OAuth 2.1, PKCE by RFC 7636).
//!
//! GET changes nothing: what was asked travels in the page, signed and bound to the browser. A grant begins when the
//! user says yes. Errors go to the redirect URI only once client and redirect URI are proven to belong together.

use http::header::{CACHE_CONTROL, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::form::Form;
use super::pending::Full;
use super::register::USED_MARGIN;
use super::{OAuthError, register, resource};
use crate::context::{Caller, Context};
use crate::encoding::digest;
use crate::http::{Request, Response};
use crate::identity::{ClientId, GrantId, User, UserId};
use crate::login::pages::{self, Asker, Problem};
use crate::login::session::{self, Browser};
use crate::login::signin;
use crate::redirect_uri::{Destination, RedirectUri};
use crate::store::StoreError;
use crate::store::rows::{Client, Consent, Grant, Phase};
use crate::tokens::artefacts::{AuthorizationCode, AuthorizationRequest, CODE_LIFETIME, REQUEST_LIFETIME};
use crate::tokens::random_name;

/// Longest `state` that is carried.
const MAX_STATE: usize = 4_096;

/// Why a request is not answered with a page to decide on.
enum Refusal {
    /// Nobody to send the answer to: the person is told.
    Page(&'static str, String),
    /// The client is told: at once where this very user has let it in before, else by a link on a page, since anyone may
    /// register, and a redirect without a look would make this an open redirector (RFC 9700 section 4.11.2).
    Redirect(Box<(ClientId, RedirectUri, Option<String>, OAuthError)>),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Store(error)
    }
}

/// `GET /.idp/auth`.
pub fn show(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    let headers = &request.parts.headers;
    let browser = Browser::of(ctx, headers);
    let query = request.parts.uri.query().unwrap_or_default();
    let result = read(ctx, query, &browser).and_then(|(mut asked, client, prompt)| {
        let session = session::current(ctx, headers)?.filter(|_| !asked.sign_in_anew);
        let redirect = redirect_of(&asked);
        let asker = Asker { client: &client, redirect: &redirect };
        let wants_page = prompt.consent || prompt.select_account;
        match session {
            Some(session) if !wants_page && is_remembered(ctx, &session.user, &client.id, &redirect)? => {
                Ok(allow(ctx, &asked, &session.user, caller)?)
            }
            // OpenID Connect Core 3.1.2.1: the client wants no page.
            session if prompt.none => {
                let code = if session.is_some() { "consent_required" } else { "login_required" };
                let error = OAuthError::new(code, "the user has to decide on a page");
                Err(Refusal::Redirect(Box::new((client.id.clone(), redirect.clone(), asked.state.clone(), error))))
            }
            Some(session) => {
                asked.session = Some(session::binding(&session));
                Ok(pages::consent(ctx, &asker, &session.user, &ctx.keys.seal(&asked)))
            }
            None => Ok(pages::sign_in(ctx, Some(&asker), &ctx.keys.seal(&asked), None)),
        }
    });
    let mut response = result.unwrap_or_else(|refusal| refuse(ctx, headers, refusal, caller));
    browser.remember(ctx, &mut response);
    response
}

/// `POST /.idp/auth`: the decision of somebody who is signed in.
pub fn decide(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = match Form::read(request) {
        Ok(form) => form,
        Err(refusal) => return refusal.page(ctx, caller),
    };
    let headers = &request.parts.headers;
    let browser = Browser::of(ctx, headers);
    let sealed = form.get("request").unwrap_or_default();
    let asked = ctx.keys.open::<AuthorizationRequest>(sealed, ctx.now());
    let Some(asked) = asked.ok().filter(|a| a.browser == browser.binding()) else {
        return signin::stale_form(ctx, &browser, caller);
    };
    if !signin::same_origin(ctx, headers) {
        return signin::foreign_form(ctx, headers, caller);
    }
    let session = match session::current(ctx, headers) {
        Ok(session) => session,
        Err(e) => return signin::unavailable(ctx, &e, caller),
    };
    match (form.get("decision"), session) {
        (Some("deny"), _) => deny(ctx, &asked, caller),
        (Some("allow"), Some(session)) if asked.session == Some(session::binding(&session)) => {
            let result = remember(ctx, &session.user, &asked).and_then(|()| allow(ctx, &asked, &session.user, caller));
            result.unwrap_or_else(|e| signin::unavailable(ctx, &e, caller))
        }
        // Somebody else has signed in since the page was made: it is asked again, by name.
        (Some("allow"), Some(session)) if !asked.sign_in_anew => {
            let asked = AuthorizationRequest { session: Some(session::binding(&session)), ..asked };
            with_client(ctx, &asked, caller, |asker| pages::consent(ctx, asker, &session.user, &ctx.keys.seal(&asked)))
        }
        // The session has ended meanwhile, or the user wants another one.
        (Some("allow" | "switch"), _) => {
            // A provider would else sign the same person in again, unseen.
            let asked = AuthorizationRequest { sign_in_anew: true, session: None, ..asked };
            let mut response = sign_in_page(ctx, &asked, &ctx.keys.seal(&asked), None, caller);
            match session::end(ctx, headers, &mut response) {
                Ok(_) => response,
                Err(e) => signin::unavailable(ctx, &e, caller),
            }
        }
        _ => signin::stale_form(ctx, &browser, caller),
    }
}

/// The sign-in page for a request that is being decided.
pub fn sign_in_page(
    ctx: &Context,
    asked: &AuthorizationRequest,
    sealed: &str,
    problem: Option<Problem>,
    caller: Caller,
) -> Response {
    with_client(ctx, asked, caller, |asker| pages::sign_in(ctx, Some(asker), sealed, problem))
}

/// A page that names who asks.
pub fn with_client(
    ctx: &Context,
    asked: &AuthorizationRequest,
    caller: Caller,
    page: impl FnOnce(&Asker<'_>) -> Response,
) -> Response {
    match client_of(ctx, asked) {
        Ok(Some(client)) => page(&Asker { client: &client, redirect: &redirect_of(asked) }),
        Ok(None) => not_registered(ctx, caller),
        Err(e) => signin::unavailable(ctx, &e, caller),
    }
}

/// The client that asks: by its row, or where that has made room for others meanwhile, as it was when it asked.
pub fn client_of(ctx: &Context, asked: &AuthorizationRequest) -> Result<Option<Client>, StoreError> {
    let row = ctx.state.get::<Client>(asked.client.as_str())?;
    Ok(row.or_else(|| asked.registration.as_deref().cloned()))
}

fn not_registered(ctx: &Context, caller: Caller) -> Response {
    let (title, why) = NOT_REGISTERED;
    pages::error(ctx, caller.id, StatusCode::BAD_REQUEST, title, why, CONNECT_AGAIN)
}

const NOT_REGISTERED: (&str, &str) = (
    "The application is not registered here",
    "Its registration has expired, or was made with another server (client_id).",
);
const CONNECT_AGAIN: &str = "Go back to the application, remove this server from it and add it again.";

/// The user said yes: a grant that waits for its code, and the code on its way to the client.
pub fn allow(ctx: &Context, asked: &AuthorizationRequest, user: &User, caller: Caller) -> Result<Response, StoreError> {
    let now = ctx.now();
    let exp = now + CODE_LIFETIME;
    let Some(client) = client_of(ctx, asked)? else { return Ok(not_registered(ctx, caller)) };
    if let Err(full) = ctx.pending.take(&asked.id, asked.exp, &user.id, exp, now) {
        log::warn!(request:% = caller.id, user:% = user.id, client:% = client.id, client_name = client.shown_name(), address:% = caller.address; "access was not given: too many authorization codes wait to be redeemed");
        return Ok(too_many_codes(ctx, full, caller));
    }
    if !client.used {
        register::make_room_for(ctx, &user.id)?;
    }
    let id = GrantId(random_name());
    let (asked_by, for_user, grant, registered) = (asked.clone(), user.clone(), id.clone(), client.clone());
    let (refresh_total, newest) = (ctx.config.lifetimes.refresh_total, newest_grant_key(&user.id, &client.id));
    ctx.state.transact(move |tx| {
        // One that has made room for others meanwhile comes back: somebody uses it.
        let client = tx.get::<Client>(registered.id.as_str())?.unwrap_or(registered);
        let row = Grant {
            id: grant.clone(),
            user: for_user.clone(),
            client: client.id.clone(),
            auth_method: client.auth_method,
            phase: Phase::Pending {
                code_challenge: asked_by.code_challenge,
                redirect_uri: asked_by.redirect_uri,
                redirect_uri_given: asked_by.redirect_uri_given,
            },
            access_token_lifetime: 0,
            created_at: now,
            expires_at: exp,
        };
        tx.put(row.id.as_str(), &row);
        tx.put(&newest, &Consent { grant: Some(grant), expires_at: now + refresh_total });
        // The registration lives as long as any grant of it can.
        let until = now + refresh_total + USED_MARGIN;
        if !client.used || client.expires_at < until {
            let used_by = client.used_by.clone().or(Some(for_user.id));
            let expires_at = until.max(client.expires_at);
            tx.put(client.id.clone().as_str(), &Client { used: true, used_by, expires_at, ..client });
        }
        Ok(())
    })?;
    log::info!(request:% = caller.id, user:% = user.id, client:% = asked.client, client_name = client.shown_name(), address:% = caller.address, grant:% = id; "access was allowed");
    ctx.has_consented(user, &asked.client);
    let code = ctx.keys.seal(&AuthorizationCode { grant: id, exp });
    Ok(answer(ctx, &redirect_of(asked), asked.state.as_deref(), &[("code", &code)]))
}

fn too_many_codes(ctx: &Context, full: Full, caller: Caller) -> Response {
    let (status, why) = match full {
        Full::Page => (StatusCode::BAD_REQUEST, "This page has been used already."),
        Full::User => (StatusCode::TOO_MANY_REQUESTS, "You have let too many applications in within a minute."),
    };
    let next = "Go back to the application and start connecting again in a minute.";
    pages::error(ctx, caller.id, status, "Access was not given", why, next).with(RETRY_AFTER, CODE_LIFETIME)
}

/// The user said no.
pub fn deny(ctx: &Context, asked: &AuthorizationRequest, caller: Caller) -> Response {
    let client = client_of(ctx, asked).unwrap_or_default();
    let name = client.as_ref().map_or("", Client::shown_name);
    log::info!(request:% = caller.id, client:% = asked.client, client_name = name, address:% = caller.address; "access was denied");
    let error = [("error", "access_denied"), ("error_description", "the user denied access")];
    answer(ctx, &redirect_of(asked), asked.state.as_deref(), &error)
}

/// Checks a request in the order in which trust grows: client, redirect URI, then everything else.
fn read(ctx: &Context, query: &str, browser: &Browser) -> Result<(AuthorizationRequest, Client, Prompt), Refusal> {
    let page = |title, text: &str| Refusal::Page(title, text.to_string());
    let form = Form::parse(query.as_bytes())
        .map_err(|e| Refusal::Page("The request is malformed", format!("Of its parameters, {e}.")))?;
    let id =
        form.get("client_id").ok_or_else(|| page("The request is malformed", "It names no client (client_id)."))?;
    let client = ctx.state.get::<Client>(id)?.ok_or_else(|| {
        let (title, why) = NOT_REGISTERED;
        page(title, why)
    })?;
    let (redirect, redirect_uri_given) = proven_redirect(&client, form.get("redirect_uri")).ok_or_else(|| {
        page(
            "The application is not what it seems",
            "It wants the answer at an address that it did not register (redirect_uri).",
        )
    })?;

    let state = form.get("state").map(str::to_string);
    let tell =
        |error: OAuthError| Refusal::Redirect(Box::new((client.id.clone(), redirect.clone(), state.clone(), error)));
    let invalid = |text: &str| tell(OAuthError::new("invalid_request", text));
    if state.as_ref().is_some_and(|s| s.len() > MAX_STATE) {
        let error = OAuthError::new("invalid_request", "state is longer than 4096 bytes");
        return Err(Refusal::Redirect(Box::new((client.id, redirect, None, error))));
    }
    match form.get("response_type") {
        Some("code") => {}
        None => return Err(invalid("response_type is missing")),
        Some(_) => return Err(tell(OAuthError::new("unsupported_response_type", "response_type must be code"))),
    }
    if form.get("response_mode").is_some_and(|m| m != "query") {
        return Err(invalid("response_mode must be query"));
    }
    if form.get("request").is_some() || form.get("request_uri").is_some() {
        return Err(tell(OAuthError::new("request_not_supported", "request objects are not supported")));
    }
    let challenge = form.get("code_challenge").ok_or_else(|| invalid("code_challenge is missing: PKCE is required"))?;
    // RFC 7636 section 4.3: without a method it would be `plain`, which is refused as well.
    if form.get("code_challenge_method") != Some("S256") {
        return Err(invalid("code_challenge_method must be S256"));
    }
    if challenge.len() != 43 || !challenge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(invalid("code_challenge is not the base64url of a SHA-256 digest"));
    }
    resource::check(&form, &ctx.config.external).map_err(tell)?;
    let prompt = Prompt::parse(form.get("prompt").unwrap_or_default()).map_err(invalid)?;

    let asked = AuthorizationRequest {
        id: random_name(),
        client: client.id.clone(),
        registration: (!client.used).then(|| Box::new(client.clone())),
        redirect_uri: redirect.as_str().to_string(),
        redirect_uri_given,
        state,
        code_challenge: challenge.to_string(),
        sign_in_anew: prompt.login,
        select_account: prompt.select_account,
        session: None,
        browser: browser.binding(),
        exp: ctx.now() + REQUEST_LIFETIME,
    };
    Ok((asked, client, prompt))
}

/// What the client wants the user to be asked (OpenID Connect Core section 3.1.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Prompt {
    none: bool,
    login: bool,
    consent: bool,
    select_account: bool,
}

impl Prompt {
    /// Words between blanks; those that are not known are passed over, as parameters are. The error says what is wrong.
    fn parse(text: &str) -> Result<Prompt, &'static str> {
        let has = |word: &str| text.split(' ').any(|w| w == word);
        let prompt = Prompt {
            none: has("none"),
            login: has("login"),
            consent: has("consent"),
            select_account: has("select_account"),
        };
        let is_alone = text.split(' ').filter(|w| !w.is_empty()).count() == 1;
        if prompt.none && !is_alone { Err("prompt has none beside another value") } else { Ok(prompt) }
    }
}

/// May the browser be sent to the client before the user has seen a page? Only if the one who is signed in has let this
/// client in, and that still holds.
fn is_trusted(ctx: &Context, headers: &HeaderMap, client: &ClientId) -> Result<bool, StoreError> {
    let Some(session) = session::current(ctx, headers)? else { return Ok(false) };
    let Some(consent) = ctx.state.get::<Consent>(&newest_grant_key(&session.user.id, client))? else {
        return Ok(false);
    };
    let Some(grant) = consent.grant else { return Ok(false) };
    Ok(ctx.state.get::<Grant>(grant.as_str())?.is_some_and(|grant| matches!(grant.phase, Phase::Active { .. })))
}

fn newest_grant_key(user: &UserId, client: &ClientId) -> String {
    digest(format!("{user}\0{client}").as_bytes())
}

/// The redirect URI, if it is the client's; with none in the request, the only registered one (RFC 6749 3.1.2.3).
fn proven_redirect(client: &Client, requested: Option<&str>) -> Option<(RedirectUri, bool)> {
    let registered = || client.redirect_uris.iter().filter_map(|u| RedirectUri::parse(u).ok());
    match requested {
        Some(text) => {
            let uri = RedirectUri::parse(text).ok()?;
            registered().any(|r| uri.matches(&r)).then_some((uri, true))
        }
        None => {
            let mut all = registered();
            all.next().filter(|_| all.next().is_none()).map(|uri| (uri, false))
        }
    }
}

fn redirect_of(asked: &AuthorizationRequest) -> RedirectUri {
    RedirectUri::parse(&asked.redirect_uri).expect("it was checked before it was sealed")
}

fn refuse(ctx: &Context, headers: &HeaderMap, refusal: Refusal, caller: Caller) -> Response {
    match refusal {
        Refusal::Page(title, explanation) => {
            log::info!(request:% = caller.id, address:% = caller.address, reason = explanation.as_str(); "an authorization request was refused");
            pages::error(ctx, caller.id, StatusCode::BAD_REQUEST, title, &explanation, CONNECT_AGAIN)
        }
        Refusal::Redirect(told) => {
            let (client, redirect, state, error) = *told;
            log::info!(request:% = caller.id, address:% = caller.address, client:% = client, error = error.code, reason = error.description.as_str(); "an authorization request was refused");
            let parameters = [("error", error.code), ("error_description", error.description.as_str())];
            let response = answer(ctx, &redirect, state.as_deref(), &parameters);
            match is_trusted(ctx, headers, &client) {
                Ok(true) => response,
                Ok(false) => pages::leave(ctx, caller.id, &redirect, &response, &error.description),
                Err(e) => signin::unavailable(ctx, &e, caller),
            }
        }
        Refusal::Store(error) => signin::unavailable(ctx, &error, caller),
    }
}

/// The redirect back to the client, with `state` and `iss` (RFC 9207) in every case.
fn answer(ctx: &Context, redirect: &RedirectUri, state: Option<&str>, parameters: &[(&str, &str)]) -> Response {
    let mut all = parameters.to_vec();
    all.extend(state.map(|s| ("state", s)));
    all.push(("iss", ctx.keys.issuer()));
    Response::new(StatusCode::SEE_OTHER)
        .with(LOCATION, redirect.with_parameters(&all))
        .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with(http::header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"))
}

fn consent_key(user: &User, client: &ClientId, redirect: &RedirectUri) -> String {
    digest(format!("{}\0{client}\0{}", user.id, redirect.host()).as_bytes())
}

/// Was this consent given before? A program on the user's machine can be any program: it always asks (RFC 8252 8.6).
fn is_remembered(ctx: &Context, user: &User, client: &ClientId, redirect: &RedirectUri) -> Result<bool, StoreError> {
    if redirect.destination() != Destination::Web {
        return Ok(false);
    }
    Ok(ctx.state.get::<Consent>(&consent_key(user, client, redirect))?.is_some())
}

/// Remembers a consent, where it may be skipped the next time.
pub fn remember(ctx: &Context, user: &User, asked: &AuthorizationRequest) -> Result<(), StoreError> {
    let redirect = redirect_of(asked);
    if redirect.destination() != Destination::Web {
        return Ok(());
    }
    let key = consent_key(user, &asked.client, &redirect);
    let expires_at = ctx.now() + ctx.config.lifetimes.consent;
    ctx.state.transact(move |tx| {
        tx.put(&key, &Consent { grant: None, expires_at });
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_is_a_list_of_words() {
        let parse = |text: &str| Prompt::parse(text);
        assert_eq!(parse(""), Ok(Prompt::default()));
        assert_eq!(parse("login consent"), Ok(Prompt { login: true, consent: true, ..Prompt::default() }));
        assert_eq!(parse("select_account create"), Ok(Prompt { select_account: true, ..Prompt::default() }));
        assert_eq!(parse("none"), Ok(Prompt { none: true, ..Prompt::default() }));
        assert!(parse("none login").is_err() && parse("login none").is_err());
        assert_eq!(parse("loginx"), Ok(Prompt::default()));
    }
}
