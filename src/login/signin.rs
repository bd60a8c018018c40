//! `/.auth/login` and `/.auth/logout`.

use http::header::{HOST, LOCATION, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::federation;
use super::pages::{self, Problem};
use super::password::Outcome;
use super::session::{self, Browser};
use super::throttle::Visitor;
use crate::context::{Caller, Context};
use crate::http::{Request, Response};
use crate::identity::ProviderId;
use crate::identity::User;
use crate::oauth::authorize;
use crate::oauth::form::Form;
use crate::store::StoreError;
use crate::store::rows::Client;
use crate::tokens::artefacts::{AuthorizationRequest, PlainForm, REQUEST_LIFETIME};

/// A sealed form that no client asked for.
pub fn plain_form(ctx: &Context, browser: &Browser) -> String {
    ctx.keys.seal(&PlainForm { browser: browser.binding(), exp: ctx.now() + REQUEST_LIFETIME })
}

/// `GET /.auth/login`: sign in without a client asking, or see that one is signed in.
pub fn show(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    let browser = Browser::of(ctx, &request.parts.headers);
    let form = plain_form(ctx, &browser);
    let mut response = match session::current(ctx, &request.parts.headers) {
        Ok(Some(session)) => pages::signed_in(ctx, &session.user, &form),
        // With one way to sign in, there is nothing to choose.
        Ok(None) if ctx.config.auto_select && !ctx.passwords.any() && ctx.providers.all().len() == 1 => {
            federation::begin(ctx, &browser, ctx.providers.all()[0].slug, None, false, caller)
        }
        Ok(None) => pages::sign_in(ctx, None, &form, None),
        Err(e) => return unavailable(ctx, &e, caller),
    };
    browser.remember(ctx, &mut response);
    response
}

/// What a sign-in form was made for.
enum Target {
    /// A client asks: signing in is the consent.
    Client(Box<AuthorizationRequest>),
    /// Nothing but signing in.
    Plain,
}

/// `POST /.auth/login`.
pub fn submit(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = match Form::read(request) {
        Ok(form) => form,
        Err(refusal) => return refusal.page(ctx, caller),
    };
    let headers = &request.parts.headers;
    let browser = Browser::of(ctx, headers);
    let sealed = form.get("request").unwrap_or_default();
    if !same_origin(ctx, headers) {
        return foreign_form(ctx, headers, caller);
    }
    let target = if let Ok(request) = ctx.keys.open::<AuthorizationRequest>(sealed, ctx.now()) {
        (request.browser == browser.binding()).then(|| Target::Client(Box::new(request)))
    } else {
        let plain = ctx.keys.open::<PlainForm>(sealed, ctx.now()).ok();
        plain.filter(|p| p.browser == browser.binding()).map(|_| Target::Plain)
    };
    let Some(target) = target else { return stale_form(ctx, &browser, caller) };

    if let Target::Client(request) = &target
        && form.get("decision") == Some("deny")
    {
        return authorize::deny(ctx, request, caller);
    }
    if let Some(slug) = form.get("provider").and_then(ProviderId::of) {
        let request = match target {
            Target::Client(request) => Some(request),
            Target::Plain => None,
        };
        let another_account = form.get("account") == Some("another");
        return federation::begin(ctx, &browser, slug, request, another_account, caller);
    }
    match check_password(ctx, form.get("password").unwrap_or_default(), headers, caller) {
        Ok(user) => signed_in(ctx, headers, &target, user, caller).unwrap_or_else(|e| unavailable(ctx, &e, caller)),
        Err(problem) => match target {
            Target::Client(request) => authorize::sign_in_page(ctx, &request, sealed, Some(problem), caller),
            Target::Plain => pages::sign_in(ctx, None, sealed, Some(problem)),
        },
    }
}

fn check_password(ctx: &Context, password: &str, headers: &HeaderMap, caller: Caller) -> Result<User, Problem> {
    let device = session::known_device(ctx, headers);
    let visitor = match &device {
        Some(device) => Visitor::Known(device.clone(), caller.address),
        None => Visitor::Stranger(caller.address),
    };
    let (request, address) = (caller.id, caller.address);
    if let Err(wait) = ctx.throttle.attempt(&visitor) {
        let seconds = wait.as_secs_f64().ceil() as u64;
        log::warn!(request:% = request, address:% = address, seconds = seconds; "a sign-in was refused: too many wrong passwords");
        return Err(Problem::Slow(seconds));
    }
    match ctx.passwords.check(password, device.as_deref()) {
        Outcome::Right(user) => {
            ctx.throttle.succeeded(&visitor);
            Ok(user)
        }
        Outcome::Wrong => {
            log::warn!(request:% = request, address:% = address; "a sign-in failed: wrong password");
            Err(Problem::Wrong)
        }
        Outcome::Busy => {
            ctx.throttle.withdrawn(&visitor);
            log::warn!(request:% = request, address:% = address; "a sign-in was refused: the password queue is full (--password-queue, PASSWORD_QUEUE)");
            Err(Problem::Busy)
        }
    }
}

fn signed_in(
    ctx: &Context,
    headers: &HeaderMap,
    target: &Target,
    user: User,
    caller: Caller,
) -> Result<Response, StoreError> {
    let (session, cookies) = session::start(ctx, headers, user)?;
    let user = &session.user;
    let client = match target {
        Target::Client(request) => authorize::client_of(ctx, request)?,
        Target::Plain => None,
    };
    let client_name = client.as_ref().map_or("", Client::shown_name);
    log::info!(request:% = caller.id, user:% = user.id, client_name = client_name, address:% = caller.address; "signed in");
    let mut response = match target {
        Target::Client(request) => {
            authorize::remember(ctx, user, request)?;
            authorize::allow(ctx, request, user, caller)?
        }
        Target::Plain => Response::new(StatusCode::SEE_OTHER).with(LOCATION, HeaderValue::from_static("/.auth/login")),
    };
    for cookie in cookies {
        response.headers.append(SET_COOKIE, cookie);
    }
    Ok(response)
}

/// `GET /.auth/logout`: the page that has the button.
pub fn logout_page(_: &Context, _: &mut Request<'_>, _: Caller) -> Response {
    Response::new(StatusCode::SEE_OTHER).with(LOCATION, HeaderValue::from_static("/.auth/login"))
}

/// `POST /.auth/logout`.
pub fn logout(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = match Form::read(request) {
        Ok(form) => form,
        Err(refusal) => return refusal.page(ctx, caller),
    };
    let headers = &request.parts.headers;
    let proof = ctx.keys.open::<PlainForm>(form.get("form").unwrap_or_default(), ctx.now());
    let genuine = proof.is_ok_and(|p| p.browser == Browser::of(ctx, headers).binding());
    if !same_origin(ctx, headers) {
        return foreign_form(ctx, headers, caller);
    }
    if !genuine {
        return stale_form(ctx, &Browser::of(ctx, headers), caller);
    }
    let mut response = pages::signed_out(ctx);
    match session::end(ctx, headers, &mut response) {
        Ok(ended) => {
            if ended.is_some() {
                log::info!(request:% = caller.id, address:% = caller.address; "signed out");
            }
            response
        }
        Err(e) => unavailable(ctx, &e, caller),
    }
}

/// Browsers name the origin of a form; one from elsewhere is refused whatever it carries.
pub fn same_origin(ctx: &Context, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    // The Host field has been checked against the allowed names: a form of this very host is ours as well.
    let host = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let external = &ctx.config.external;
    let scheme = if external.secure { "https" } else { "http" };
    origin == external.origin
        || origin.split_once("://").is_some_and(|(s, o)| s == scheme && !o.is_empty() && o.eq_ignore_ascii_case(host))
}

/// The form was sent from another site.
pub fn foreign_form(ctx: &Context, headers: &HeaderMap, caller: Caller) -> Response {
    let origin = headers.get(ORIGIN).map(|o| String::from_utf8_lossy(o.as_bytes())).unwrap_or_default();
    let shown: String = origin.chars().take(100).collect();
    log::info!(request:% = caller.id, address:% = caller.address, origin = shown.as_str(); "a form was refused: it came from a page of another site, or the proxy is reached under another name than --external-url (EXTERNAL_URL)");
    pages::error(
        ctx,
        caller.id,
        StatusCode::BAD_REQUEST,
        "This form came from another site",
        "The page that sent it was not one of this server under this address.",
        "Go back to the application and start connecting again.",
    )
}

/// The form is too old, or another browser's.
pub fn stale_form(ctx: &Context, browser: &Browser, caller: Caller) -> Response {
    let reason = if browser.is_new() { "the browser sent no cookie" } else { "too old, or opened in another browser" };
    log::info!(request:% = caller.id, address:% = caller.address, reason = reason; "a form was refused");
    if browser.is_new() {
        let host = &ctx.config.external.host;
        return pages::error(
            ctx,
            caller.id,
            StatusCode::BAD_REQUEST,
            "Your browser sent no cookie",
            &format!("Signing in needs a cookie of {host}, and your browser sent none with the form."),
            &format!(
                "Allow cookies for {host} in the settings of your browser, or use a window that is not private. Then go back to the application and start connecting again."
            ),
        );
    }
    pages::error(
        ctx,
        caller.id,
        StatusCode::BAD_REQUEST,
        "This page is no longer valid",
        "The form was too old, or was opened in another browser.",
        "Go back to the application and start connecting again.",
    )
}

/// More sign-ins from one address than people make.
pub fn too_many(ctx: &Context, caller: Caller) -> Response {
    let response = pages::error(
        ctx,
        caller.id,
        StatusCode::TOO_MANY_REQUESTS,
        "Too many sign-ins",
        "There were too many sign-ins from your network in a short time.",
        "Go back to the application and start connecting again in a minute.",
    );
    response.with(RETRY_AFTER, 60)
}

/// The store can't be used just now.
pub fn unavailable(ctx: &Context, error: &StoreError, caller: Caller) -> Response {
    log::debug!(request:% = caller.id, error:% = error; "answered 503");
    pages::error(
        ctx,
        caller.id,
        StatusCode::SERVICE_UNAVAILABLE,
        "Not possible at the moment",
        "The server can't save anything just now.",
        "Try again in a minute. Its operator finds the reason in the log.",
    )
    .with(http::header::RETRY_AFTER, 60)
}
