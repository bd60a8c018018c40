//! `/.idp/auth`: the authorization endpoint (RFC 6749 section 4.1, OAuth 2.1, PKCE by RFC 7636).
//!
//! GET changes nothing: what was asked travels in the page, signed and bound to the browser. A grant begins when the
//! user says yes. Errors go to the redirect URI only once client and redirect URI are proven to belong together.

use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderValue, StatusCode};

use super::form::Form;
use super::redirect_uri::{Destination, RedirectUri};
use super::register::USED_MARGIN;
use super::{OAuthError, resource};
use crate::context::{Caller, Context};
use crate::http::{Request, Response};
use crate::identity::{ClientId, GrantId, User};
use crate::login::pages::{self, Asker, Problem};
use crate::login::session::{self, Browser};
use crate::login::signin;
use crate::store::StoreError;
use crate::store::rows::{Client, Consent, Grant, Phase};
use crate::tokens::artefacts::{AuthorizationCode, AuthorizationRequest, CODE_LIFETIME, REQUEST_LIFETIME};
use crate::tokens::{digest, random_name};

/// Longest `state` that is carried.
const MAX_STATE: usize = 4_096;

/// Why a request is not answered with a page to decide on.
enum Refusal {
    /// Nobody to send the answer to: the person is told.
    Page(&'static str, String),
    /// The client is told: at once where somebody has trusted it before or it is on this machine, else by a link on a
    /// page, since anyone may register, and a redirect without a look would make this an open redirector (RFC 9700
    /// section 4.11.2).
    Redirect(Box<(RedirectUri, Option<String>, OAuthError, bool)>),
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
    let result = read(ctx, query, &browser).and_then(|(asked, client, form)| {
        let prompt = form.get("prompt").unwrap_or_default().to_string();
        let session = session::current(ctx, headers)?.filter(|_| !asked.sign_in_anew);
        let redirect = redirect_of(&asked);
        let asker = Asker { client: &client, redirect: &redirect };
        let sealed = ctx.keys.seal(&asked);
        match session {
            Some(session) if prompt != "consent" && is_remembered(ctx, &session.user, &client.id, &redirect)? => {
                Ok(allow(ctx, &asked, &session.user, caller)?)
            }
            // OpenID Connect Core 3.1.2.1: the client wants no page.
            session if prompt == "none" => {
                let code = if session.is_some() { "consent_required" } else { "login_required" };
                let error = OAuthError::new(code, "the user has to decide on a page");
                Err(Refusal::Redirect(Box::new((
                    redirect.clone(),
                    asked.state.clone(),
                    error,
                    is_trusted(&client, &redirect),
                ))))
            }
            Some(session) => Ok(pages::consent(ctx, &asker, &session.user, &sealed)),
            None => Ok(pages::sign_in(ctx, Some(&asker), &sealed, None)),
        }
    });
    let mut response = result.unwrap_or_else(|refusal| refuse(ctx, refusal, caller));
    browser.remember(ctx, &mut response);
    response
}

/// `POST /.idp/auth`: the decision of somebody who is signed in.
pub fn decide(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = match Form::read(request) {
        Ok(form) => form,
        Err(refusal) => return refusal.page(ctx),
    };
    let headers = &request.parts.headers;
    let sealed = form.get("request").unwrap_or_default();
    let asked = ctx.keys.open::<AuthorizationRequest>(sealed, ctx.now());
    let Some(asked) = asked.ok().filter(|a| a.browser == Browser::of(ctx, headers).binding()) else {
        return signin::stale_form(ctx);
    };
    if !signin::same_origin(ctx, headers) {
        return signin::stale_form(ctx);
    }
    let session = match session::current(ctx, headers) {
        Ok(session) => session,
        Err(e) => return signin::unavailable(ctx, &e),
    };
    match (form.get("decision"), session) {
        (Some("deny"), _) => deny(ctx, &asked, caller),
        (Some("allow"), Some(session)) if !asked.sign_in_anew => {
            let result = remember(ctx, &session.user, &asked).and_then(|()| allow(ctx, &asked, &session.user, caller));
            result.unwrap_or_else(|e| signin::unavailable(ctx, &e))
        }
        // The session has ended meanwhile, or the user wants another one.
        (Some("allow" | "switch"), _) => {
            // A provider would else sign the same person in again, unseen.
            let asked = AuthorizationRequest { sign_in_anew: true, ..asked };
            let mut response = sign_in_page(ctx, &asked, &ctx.keys.seal(&asked), None);
            match session::end(ctx, headers, &mut response) {
                Ok(_) => response,
                Err(e) => signin::unavailable(ctx, &e),
            }
        }
        _ => signin::stale_form(ctx),
    }
}

/// The sign-in page for a request that is being decided.
pub fn sign_in_page(ctx: &Context, asked: &AuthorizationRequest, sealed: &str, problem: Option<Problem>) -> Response {
    match ctx.state.get::<Client>(asked.client.as_str()) {
        Ok(Some(client)) => {
            let redirect = redirect_of(asked);
            pages::sign_in(ctx, Some(&Asker { client: &client, redirect: &redirect }), sealed, problem)
        }
        Ok(None) => signin::stale_form(ctx),
        Err(e) => signin::unavailable(ctx, &e),
    }
}

/// The user said yes: a grant that waits for its code, and the code on its way to the client.
pub fn allow(ctx: &Context, asked: &AuthorizationRequest, user: &User, caller: Caller) -> Result<Response, StoreError> {
    let now = ctx.now();
    let id = GrantId(random_name());
    let exp = now + CODE_LIFETIME;
    let (asked_by, for_user, grant) = (asked.clone(), user.clone(), id.clone());
    let refresh_total = ctx.config.lifetimes.refresh_total;
    let known = ctx.state.transact(move |tx| {
        let Some(client) = tx.get::<Client>(asked_by.client.as_str())? else { return Ok(false) };
        let row = Grant {
            id: grant,
            user: for_user,
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
        // The registration lives as long as any grant of it can.
        let until = now + refresh_total + USED_MARGIN;
        if !client.used || client.expires_at < until {
            tx.put(
                client.id.clone().as_str(),
                &Client { used: true, expires_at: until.max(client.expires_at), ..client },
            );
        }
        Ok(true)
    })?;
    if !known {
        return Ok(signin::stale_form(ctx));
    }
    log::info!(request:% = caller.id, user:% = user.id, client:% = asked.client, address:% = caller.address, grant:% = id; "access was allowed");
    ctx.has_consented(user, &asked.client);
    let code = ctx.keys.seal(&AuthorizationCode { grant: id, exp });
    Ok(answer(ctx, &redirect_of(asked), asked.state.as_deref(), &[("code", &code)]))
}

/// The user said no.
pub fn deny(ctx: &Context, asked: &AuthorizationRequest, caller: Caller) -> Response {
    log::info!(request:% = caller.id, client:% = asked.client, address:% = caller.address; "access was denied");
    let error = [("error", "access_denied"), ("error_description", "the user denied access")];
    answer(ctx, &redirect_of(asked), asked.state.as_deref(), &error)
}

/// Checks a request in the order in which trust grows: client, redirect URI, then everything else.
fn read(ctx: &Context, query: &str, browser: &Browser) -> Result<(AuthorizationRequest, Client, Form), Refusal> {
    let page = |title, text: &str| Refusal::Page(title, text.to_string());
    let form = Form::parse(query.as_bytes())
        .map_err(|e| Refusal::Page("The request is malformed", format!("Of its parameters, {e}.")))?;
    let id =
        form.get("client_id").ok_or_else(|| page("The request is malformed", "It names no client (client_id)."))?;
    let client = ctx.state.get::<Client>(id)?.ok_or_else(|| {
        page("The application is not registered here", "Its registration has expired, or was made with another server.")
    })?;
    let (redirect, redirect_uri_given) = proven_redirect(&client, form.get("redirect_uri")).ok_or_else(|| {
        page(
            "The application is not what it seems",
            "It wants the answer at an address that it did not register (redirect_uri).",
        )
    })?;

    let state = form.get("state").map(str::to_string);
    let trusted = is_trusted(&client, &redirect);
    let tell = |error: OAuthError| Refusal::Redirect(Box::new((redirect.clone(), state.clone(), error, trusted)));
    let invalid = |text: &str| tell(OAuthError::new("invalid_request", text));
    if state.as_ref().is_some_and(|s| s.len() > MAX_STATE) {
        let error = OAuthError::new("invalid_request", "state is longer than 4096 bytes");
        return Err(Refusal::Redirect(Box::new((redirect, None, error, trusted))));
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

    let asked = AuthorizationRequest {
        client: client.id.clone(),
        redirect_uri: redirect.as_str().to_string(),
        redirect_uri_given,
        state,
        code_challenge: challenge.to_string(),
        sign_in_anew: form.get("prompt") == Some("login"),
        browser: browser.binding(),
        exp: ctx.now() + REQUEST_LIFETIME,
    };
    Ok((asked, client, form))
}

/// May the browser be sent to the client before the user has seen a page?
fn is_trusted(client: &Client, redirect: &RedirectUri) -> bool {
    client.used || redirect.destination() != Destination::Web
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

fn refuse(ctx: &Context, refusal: Refusal, caller: Caller) -> Response {
    match refusal {
        Refusal::Page(title, explanation) => {
            log::info!(request:% = caller.id, address:% = caller.address, reason = explanation.as_str(); "an authorization request was refused");
            let next = "Go back to the application, remove this server from it and add it again.";
            pages::error(ctx, StatusCode::BAD_REQUEST, title, &explanation, next)
        }
        Refusal::Redirect(told) => {
            let (redirect, state, error, trusted) = *told;
            log::info!(request:% = caller.id, address:% = caller.address, error = error.code; "an authorization request was refused");
            let parameters = [("error", error.code), ("error_description", error.description.as_str())];
            let response = answer(ctx, &redirect, state.as_deref(), &parameters);
            if trusted { response } else { pages::leave(ctx, &redirect, &response) }
        }
        Refusal::Store(error) => signin::unavailable(ctx, &error),
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
        tx.put(&key, &Consent { expires_at });
        Ok(())
    })
}
