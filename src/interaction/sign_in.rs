//! `/.auth/login` and `/.auth/logout`.

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};

use super::complete::{Proof, complete};
use super::failure::Failure;
use super::provider;
use super::shared::{Interactions, Visit, cards};
use crate::http::form::Form;
use crate::http::{Caller, Request, Response};
use crate::identity::{ProviderId, User};
use crate::login::htpasswd;
use crate::login::password::Outcome;
use crate::login::session;
use crate::login::throttle::Visitor;
use crate::oauth::authorize::{self, NotAllowed, Suspended};
use crate::observe::events::Kind;
use crate::pages::{self, Problem};

/// `GET /.auth/login`: the sign-in page without a requesting client, or the page for a person who is signed in.
pub fn show(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    let visit = Visit::of(interactions, request, caller);
    match page(interactions, &visit) {
        Ok(mut response) => {
            visit.browser.remember(interactions.core(), &mut response);
            response
        }
        Err(failure) => failure.page(interactions, &visit),
    }
}

fn page(interactions: &Interactions, visit: &Visit<'_>) -> Result<Response, Failure> {
    let login = interactions.login();
    if let Some(session) = login.session(visit.headers)? {
        let (site, form) = (&interactions.core().site, interactions.plain_form(visit));
        let servers = interactions.server.resources.now().open_to(login, &session.user.id)?;
        return Ok(pages::home(site, &cards(&servers), &session.user, &form));
    }
    // With one way to sign in, there is nothing to choose.
    if let ([only], true) = (login.providers.all(), interactions.skips_chooser && !login.passwords.any()) {
        return provider::begin(interactions, visit, only.id, None, false);
    }
    Ok(interactions.plain_sign_in_page(visit, None))
}

/// `GET /` of a person at a browser: what this server is, or the servers of whoever is signed in.
pub fn home(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    let visit = Visit::of(interactions, request, caller);
    match interactions.login().session(visit.headers) {
        Ok(Some(_)) => show(interactions, request, caller),
        Ok(None) => pages::welcome(&interactions.core().site),
        Err(e) => Failure::from(e).page(interactions, &visit),
    }
}

/// `GET /.auth/logo`: the operator's picture. It is an image only: opened by itself, it can run nothing and load nothing.
pub fn logo(interactions: &Interactions, _: &mut Request<'_>, _: Caller) -> Response {
    match &interactions.core().site.logo {
        None => Response::text(StatusCode::NOT_FOUND, "there is no logo"),
        Some(logo) => Response::new(StatusCode::OK)
            .with_body(logo.content_type, logo.bytes.clone())
            .with(
                CONTENT_SECURITY_POLICY,
                HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; sandbox"),
            )
            .with(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
            .with(CACHE_CONTROL, HeaderValue::from_static("max-age=3600")),
    }
}

/// `POST /.auth/login`.
pub fn submit(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = Form::read(request);
    let visit = Visit::of(interactions, request, caller);
    let response = form.map_err(Failure::from).and_then(|form| sign_in(interactions, &visit, &form));
    response.unwrap_or_else(|failure| failure.page(interactions, &visit))
}

fn sign_in(interactions: &Interactions, visit: &Visit<'_>, form: &Form) -> Result<Response, Failure> {
    if !interactions.is_same_origin(visit) {
        return Err(Failure::ForeignForm);
    }
    let (core, sealed) = (interactions.core(), form.get("request").unwrap_or_default());
    let suspended = Suspended::verify(core, sealed, &visit.browser.binding());
    if suspended.is_none() && !interactions.is_plain_form(visit, sealed) {
        return Err(Failure::StaleForm);
    }
    if let Some(suspended) = &suspended
        && form.get("decision") == Some("deny")
    {
        return Ok(authorize::deny(core, suspended, visit.caller));
    }
    if let Some(id) = form.get("provider").and_then(ProviderId::of) {
        let another_account = form.get("account") == Some("another");
        return provider::begin(interactions, visit, id, suspended, another_account);
    }
    let client = suspended.as_ref().map_or("", |suspended| suspended.request.client.as_str());
    match check_password(interactions, visit, form, client) {
        Ok((user, failures)) => complete(interactions, visit, user, Proof::Password { failures }, suspended.as_ref()),
        Err(problem) => match suspended {
            Some(suspended) => {
                let client = suspended.client(core)?.ok_or(NotAllowed::NotRegistered)?;
                Ok(interactions.sign_in_page(&suspended, &client, Some(problem)))
            }
            None => Ok(interactions.plain_sign_in_page(visit, Some(problem))),
        },
    }
}

/// The user, and how many wrong passwords came before the right one.
fn check_password(
    interactions: &Interactions,
    visit: &Visit<'_>,
    form: &Form,
    client: &str,
) -> Result<(User, u32), Problem> {
    let login = interactions.login();
    let password = form.get("password").unwrap_or_default();
    // The page asks for a name only if users have one. A name that nobody can have stands for an unknown one.
    let typed = form.get("username").map(str::trim).filter(|name| login.passwords.has_names() && !name.is_empty());
    let name = typed.map(|name| if htpasswd::is_name(name) { name } else { "" });
    // What stands in the field may be a password, so the log has the name only if there is a user of this name.
    let shown = name.filter(|name| login.passwords.has_name(name)).map(|name| format!("htpasswd:{name}"));
    let shown = shown.unwrap_or_default();
    let address = visit.caller.address;
    let device = login.known_device(visit.headers, name);
    let visitor = match &device {
        Some(device) => Visitor::Known(device.clone(), address),
        None => Visitor::Stranger(address, name.map(String::from)),
    };
    if let Err(wait) = login.throttle.attempt(&visitor) {
        let seconds = wait.as_secs_f64().ceil() as u64;
        let event = visit.caller.event(Kind::SignInThrottled).with("user", shown).with("client", client);
        event.count("seconds", seconds).with("reason", "too many wrong passwords").tell();
        return Err(Problem::Slow(seconds));
    }
    match login.passwords.check(name, password, device.as_deref()) {
        Outcome::Right(user) => {
            let failures = login.throttle.succeeded(&visitor);
            Ok((user, failures))
        }
        Outcome::Wrong => {
            let is_unknown = shown.is_empty() && login.passwords.has_names();
            let reason = if is_unknown { "there is no user of this name" } else { "wrong password" };
            let event = visit.caller.event(Kind::SignInFailed).with("user", shown).with("client", client);
            event.with("reason", reason).tell();
            Err(Problem::Wrong)
        }
        Outcome::Busy => {
            login.throttle.withdrawn(&visitor);
            visit.caller.event(Kind::SignInQueueFull).tell();
            Err(Problem::Busy)
        }
    }
}

/// `GET /.auth/logout`: redirects to `/.auth/login`, which has the sign-out button.
pub fn logout_page(_: &Interactions, _: &mut Request<'_>, _: Caller) -> Response {
    Response::new(StatusCode::SEE_OTHER).with(LOCATION, HeaderValue::from_static("/.auth/login"))
}

/// `POST /.auth/logout`.
pub fn logout(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = Form::read(request);
    let visit = Visit::of(interactions, request, caller);
    let response = form.map_err(Failure::from).and_then(|form| sign_out(interactions, &visit, &form));
    response.unwrap_or_else(|failure| failure.page(interactions, &visit))
}

fn sign_out(interactions: &Interactions, visit: &Visit<'_>, form: &Form) -> Result<Response, Failure> {
    if !interactions.is_same_origin(visit) {
        return Err(Failure::ForeignForm);
    }
    if !interactions.is_plain_form(visit, form.get("form").unwrap_or_default()) {
        return Err(Failure::StaleForm);
    }
    let caller = visit.caller;
    let mut response = pages::signed_out(&interactions.core().site);
    if let Some(session) = session::end(interactions.core(), visit.headers, &mut response)? {
        caller.event(Kind::SignedOut).with("user", &session.user.id).tell();
    }
    Ok(response)
}
