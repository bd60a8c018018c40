//! `/.auth/account`: a signed-in user sees which applications and browsers have access, and ends it.

use http::header::LOCATION;
use http::{HeaderValue, StatusCode};

use super::failure::Failure;
use super::shared::{Interactions, Visit};
use crate::http::form::Form;
use crate::http::{Caller, Request, Response};
use crate::identity::ClientId;
use crate::login::session;
use crate::oauth::client_metadata::is_document;
use crate::oauth::owner::{self, BrowserSession, ConnectedApp};
use crate::observe::events::Kind;
use crate::pages::{self, AccountForm, AppCard, BrowserCard, Done};
use crate::store::rows::Session;

/// `GET /.auth/account`.
pub fn show(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    let visit = Visit::of(interactions, request, caller);
    let shown = signed_in(interactions, &visit).and_then(|session| match session {
        Some(session) => page(interactions, &visit, &session, None),
        None => Ok(to_sign_in()),
    });
    let mut response = shown.unwrap_or_else(|failure| failure.page(interactions, &visit));
    visit.browser.remember(interactions.core(), &mut response);
    response
}

/// `POST /.auth/account`: ends an access.
pub fn submit(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = Form::read(request);
    let visit = Visit::of(interactions, request, caller);
    let response = form.map_err(Failure::from).and_then(|form| carry_out(interactions, &visit, &form));
    response.unwrap_or_else(|failure| failure.page(interactions, &visit))
}

/// The session of the browser. Each page reads all grants, so an address can't ask for many.
fn signed_in(interactions: &Interactions, visit: &Visit<'_>) -> Result<Option<Session>, Failure> {
    let session = interactions.login().session(visit.headers)?;
    if session.is_some() && !interactions.account_views.take(visit.caller.address) {
        return Err(Failure::TooManyViews);
    }
    Ok(session)
}

fn to_sign_in() -> Response {
    Response::new(StatusCode::SEE_OTHER).with(LOCATION, HeaderValue::from_static("/.auth/login"))
}

fn page(
    interactions: &Interactions,
    visit: &Visit<'_>,
    session: &Session,
    done: Option<&Done>,
) -> Result<Response, Failure> {
    let (server, user) = (&interactions.server, &session.user);
    let apps: Vec<AppCard> = owner::apps(server, &user.id)?.into_iter().map(app_card).collect();
    let this = session::binding(session);
    let card = |browser: BrowserSession| {
        let id = session::binding_of(&browser.id);
        let address = browser.address.map(|address| address.to_string());
        BrowserCard { is_this: id == this, id, browser: browser.browser, address, since: browser.since }
    };
    let browsers: Vec<BrowserCard> = owner::sessions(server, &user.id)?.into_iter().map(card).collect();
    let form = interactions.plain_form(visit);
    let form = AccountForm { form: &form, session: &this };
    Ok(pages::account(&interactions.core().site, user, &apps, &browsers, &form, done))
}

fn app_card(app: ConnectedApp) -> AppCard {
    let id = app.client.as_str().to_string();
    let of_document = || id.trim_start_matches("https://").split(['/', ':']).next().map(String::from);
    let host = app.host.clone().or_else(|| is_document(&id).then(of_document).flatten());
    AppCard {
        host,
        name: app.name,
        servers: app.servers.into_iter().collect(),
        since: app.since,
        last_use: app.last_use.map(|last| (last.at, last.address.to_string())),
        id,
    }
}

fn carry_out(interactions: &Interactions, visit: &Visit<'_>, form: &Form) -> Result<Response, Failure> {
    if !interactions.is_same_origin(visit) {
        return Err(Failure::ForeignForm);
    }
    if !interactions.is_plain_form(visit, form.get("form").unwrap_or_default()) {
        return Err(Failure::StaleForm);
    }
    let Some(session) = signed_in(interactions, visit)? else { return Ok(to_sign_in()) };
    // The page of another user, who was signed in here before, must not disconnect this user's applications.
    let this = session::binding(&session);
    if form.get("session") != Some(&this) {
        return Err(Failure::StaleForm);
    }
    let (server, user, caller) = (&interactions.server, &session.user.id, visit.caller);
    let told = |kind| caller.event(kind).with("user", user);
    let done = match (form.get("action"), form.get("client"), form.get("browser")) {
        (Some("disconnect"), Some(client), _) => {
            let client = ClientId(client.to_string());
            let ended = owner::disconnect_user(server, user, Some(&client))?;
            told(Kind::AccessDisconnected).with("client", client).count("grants", ended).tell();
            Done::Disconnected(ended)
        }
        (Some("disconnect-all"), ..) => {
            let ended = owner::disconnect_user(server, user, None)?;
            told(Kind::AccessDisconnected).count("grants", ended).tell();
            Done::Disconnected(ended)
        }
        (Some("sign-out"), _, Some(browser)) => {
            let ended = owner::sign_out(server, user, |id| session::binding_of(id) == browser)?;
            told(Kind::BrowsersSignedOut).count("sessions", ended).tell();
            Done::SignedOut(ended)
        }
        (Some("sign-out-others"), ..) => {
            let ended = owner::sign_out(server, user, |id| session::binding_of(id) != this)?;
            told(Kind::BrowsersSignedOut).count("sessions", ended).tell();
            Done::SignedOut(ended)
        }
        _ => return Err(Failure::StaleForm),
    };
    // The browser may have signed itself out, with a made-up form.
    match interactions.login().session(visit.headers)? {
        Some(session) => page(interactions, visit, &session, Some(&done)),
        None => Ok(to_sign_in()),
    }
}
