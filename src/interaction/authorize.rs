//! `/.idp/auth`: the authorization endpoint. Shows the sign-in or consent page, and handles the decision.

use super::failure::Failure;
use super::shared::{Interactions, Visit, cards, requesting};
use crate::http::form::Form;
use crate::http::{Caller, Request, Response};
use crate::identity::User;
use crate::login::session;
use crate::oauth::authorize::{self, NotAllowed, Refusal, RefusedRedirect, Step, Suspended};
use crate::oauth::consent;
use crate::oauth::consent::Decision;
use crate::observe::events::Kind;
use crate::pages::{self, ChoiceProblem};
use crate::resource_url::Resources;
use crate::store::rows::Client;

/// Most servers that can be ticked: they are in each access token, which a request has to carry in its head.
const MAX_CHOSEN: usize = 32;

/// `GET /.idp/auth`: starts an authorization request.
pub fn show(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    let visit = Visit::of(interactions, request, caller);
    let query = request.parts.uri.query().unwrap_or_default();
    let mut response = begin(interactions, &visit, query).unwrap_or_else(|failure| failure.page(interactions, &visit));
    visit.browser.remember(interactions.core(), &mut response);
    response
}

fn begin(interactions: &Interactions, visit: &Visit<'_>, query: &str) -> Result<Response, Failure> {
    let step = authorize::read(&interactions.server, query, &visit.browser.binding(), visit.caller);
    let step = step.and_then(|opened| {
        let session = interactions.login().session(visit.headers)?;
        let client = opened.client().clone();
        Ok((opened.next(&interactions.server, session, visit.caller)?, client))
    });
    match step {
        Ok((Step::Answer(response), _)) => Ok(response),
        Ok((Step::SignIn(suspended), client)) => Ok(interactions.sign_in_page(&suspended, &client, None)),
        Ok((Step::Consent(suspended, session), client)) => {
            consent_page(interactions, visit, &suspended, &client, &session.user, None)
        }
        Err(Refusal::Page(fault)) => Err(Failure::Refused(fault)),
        Err(Refusal::NotAllowed(error)) => Err(error.into()),
        Err(Refusal::Redirect(refused)) => refuse(interactions, visit, *refused),
    }
}

/// Redirects the error to the client if the signed-in user already has an active grant for it; else shows a page with a
/// link. Otherwise this would be an open redirector (RFC 9700 section 4.11.2).
fn refuse(interactions: &Interactions, visit: &Visit<'_>, refused: RefusedRedirect) -> Result<Response, Failure> {
    let RefusedRedirect { client, redirect, error, response } = refused;
    let (core, caller) = (interactions.core(), visit.caller);
    let event = caller.event(Kind::AuthorizationRefused).with("client", &client);
    event.with("error", error.code).with("reason", &error.description).tell();
    let is_known = match interactions.login().session(visit.headers)? {
        Some(session) => consent::has_active_grant(core, &session.user.id, &client)?,
        None => false,
    };
    Ok(match is_known {
        true => response,
        false => pages::leave(&core.site, caller.id, &redirect, &response, &error.description),
    })
}

/// Asks the person for consent, or says that the servers that the client wants are not for this person.
pub(super) fn consent_page(
    interactions: &Interactions,
    visit: &Visit<'_>,
    suspended: &Suspended,
    client: &Client,
    user: &User,
    problem: Option<ChoiceProblem>,
) -> Result<Response, Failure> {
    let (core, published) = (interactions.core(), interactions.server.resources.now());
    let asked = authorize::servers(&published, &suspended.request);
    let usable = authorize::usable(&interactions.server, &published, &suspended.request, user)?;
    let request = suspended.sign(core);
    if usable.is_empty() {
        let event = visit.caller.event(Kind::AccessNotGiven).with("user", &user.id).with("client", &client.id);
        event.with("client_name", client.shown_name()).with("reason", authorize::NO_RULE).tell();
        let client = requesting(client, suspended, &asked);
        return Ok(pages::no_server(&core.site, visit.caller.id, &client, user, &request));
    }
    let choices = if suspended.request.resources.is_none() { cards(&usable) } else { Vec::new() };
    let client = requesting(client, suspended, &usable);
    Ok(pages::consent(&core.site, &client, user, &request, &choices, problem))
}

/// The resources of the servers that were ticked on the page, of those that the user may use.
fn chosen(
    interactions: &Interactions,
    suspended: &Suspended,
    user: &User,
    form: &Form,
) -> Result<Result<Resources, ChoiceProblem>, Failure> {
    let published = interactions.server.resources.now();
    let usable = authorize::usable(&interactions.server, &published, &suspended.request, user)?;
    let ticked = usable.iter().filter(|server| form.all("server").any(|name| name == server.name));
    let urls: Vec<_> = ticked.map(|server| server.url().clone()).collect();
    Ok(match urls.len() {
        0 => Err(ChoiceProblem::None),
        1..=MAX_CHOSEN => Ok(Resources::new(urls, &interactions.core().external.origin)),
        _ => Err(ChoiceProblem::TooMany(MAX_CHOSEN)),
    })
}

/// `POST /.idp/auth`: the decision on the consent page.
pub fn decide(interactions: &Interactions, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = Form::read(request);
    let visit = Visit::of(interactions, request, caller);
    let response = form.map_err(Failure::from).and_then(|form| carry_out(interactions, &visit, &form));
    response.unwrap_or_else(|failure| failure.page(interactions, &visit))
}

fn carry_out(interactions: &Interactions, visit: &Visit<'_>, form: &Form) -> Result<Response, Failure> {
    let (core, caller) = (interactions.core(), visit.caller);
    let suspended = Suspended::verify(core, form.get("request").unwrap_or_default(), &visit.browser.binding());
    let mut suspended = suspended.ok_or(Failure::StaleForm)?;
    if !interactions.is_same_origin(visit) {
        return Err(Failure::ForeignForm);
    }
    let session = interactions.login().session(visit.headers)?;
    let binding = session.as_ref().map(session::binding);
    match (form.get("decision"), session) {
        (Some("deny"), _) => Ok(authorize::deny(core, &suspended, caller)),
        (Some("allow"), Some(session)) if suspended.request.session == binding => {
            if suspended.request.resources.is_none() {
                match chosen(interactions, &suspended, &session.user, form)? {
                    Ok(resources) => suspended.request.resources = Some(resources),
                    Err(problem) => {
                        let client = suspended.client(core)?.ok_or(NotAllowed::NotRegistered)?;
                        return consent_page(interactions, visit, &suspended, &client, &session.user, Some(problem));
                    }
                }
            }
            Ok(authorize::allow(&interactions.server, &suspended, &session.user, Decision::Now, caller)?)
        }
        // The session is not the one that the page was made for: show the page again with the name of the current user.
        (Some("allow"), Some(session)) if !suspended.request.sign_in_anew => {
            suspended.request.session = binding;
            let client = suspended.client(core)?.ok_or(NotAllowed::NotRegistered)?;
            consent_page(interactions, visit, &suspended, &client, &session.user, None)
        }
        // The session has ended since the page was made, or the person wants another account.
        (Some("allow" | "switch"), _) => {
            // Without this, the provider would sign the same person in again without showing a page.
            suspended.request.sign_in_anew = true;
            suspended.request.session = None;
            let client = suspended.client(core)?.ok_or(NotAllowed::NotRegistered);
            let mut response = match client {
                Ok(client) => interactions.sign_in_page(&suspended, &client, None),
                Err(error) => Failure::from(error).page(interactions, visit),
            };
            session::end(core, visit.headers, &mut response)?;
            Ok(response)
        }
        _ => Err(Failure::StaleForm),
    }
}
