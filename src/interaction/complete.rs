//! Completes a sign-in, by password or at a provider.

use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderValue, StatusCode};

use super::authorize::consent_page;
use super::failure::Failure;
use super::shared::{Interactions, Visit};
use crate::http::Response;
use crate::identity::{ProviderId, User};
use crate::login::session;
use crate::oauth::authorize::{self, NotAllowed, Suspended};
use crate::oauth::consent::Decision;
use crate::observe::events::Kind;
use crate::store::rows::Client;

/// A right password after so many wrong ones may be a guessed one.
const MANY_FAILURES: u32 = 4;

/// How the user has signed in.
pub(super) enum Proof<'p> {
    /// By password, after so many wrong ones.
    Password { failures: u32 },
    /// At a provider: which, the user's id or e-mail address there, and the kind of allow rule that matched.
    Provider { provider: ProviderId, id: &'p str, rule: &'p str },
}

/// Starts the browser's session. If a client requests access, also allows the authorization request: the sign-in page
/// named the client, so signing in is the consent.
pub(super) fn complete(
    interactions: &Interactions,
    visit: &Visit<'_>,
    user: User,
    proof: Proof<'_>,
    suspended: Option<&Suspended>,
) -> Result<Response, Failure> {
    let (core, caller) = (interactions.core(), visit.caller);
    let is_password = matches!(proof, Proof::Password { .. });
    let (session, cookies) = session::start(core, visit.headers, user, is_password, caller.address)?;
    let user = &session.user;
    let client = suspended.and_then(|suspended| suspended.client(core).unwrap_or_default());
    let told = |kind| {
        let event = caller.event(kind).with("user", &user.id);
        let event = event.with("client", client.as_ref().map_or("", |client| client.id.as_str()));
        event.with("client_name", client.as_ref().map_or("", Client::shown_name))
    };
    let event = told(Kind::SignedIn);
    match proof {
        Proof::Password { failures } if failures >= MANY_FAILURES => {
            told(Kind::SignedInAfterFailures).count("failures", failures).tell();
            event
        }
        Proof::Password { .. } => event,
        Proof::Provider { provider, id, rule } => event.with("provider", provider).with("id", id).with("rule", rule),
    }
    .tell();
    let mut response = match suspended {
        // The client did not say what it wants, or wants what this user may not use: the person decides on another page.
        Some(suspended) if needs_page(interactions, suspended, user)? => {
            let mut suspended = suspended.clone();
            suspended.request.session = Some(session::binding(&session));
            let client = client.ok_or(NotAllowed::NotRegistered)?;
            consent_page(interactions, visit, &suspended, &client, user, None)?
        }
        Some(suspended) => {
            let answer = authorize::allow(&interactions.server, suspended, user, Decision::Now, caller);
            answer.unwrap_or_else(|e| Failure::from(e).page(interactions, visit))
        }
        None => Response::new(StatusCode::SEE_OTHER).with(LOCATION, HeaderValue::from_static("/.auth/login")),
    };
    for cookie in cookies {
        response.headers.append(SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Must the person still choose, or be told that nothing here is for them?
fn needs_page(interactions: &Interactions, suspended: &Suspended, user: &User) -> Result<bool, Failure> {
    let published = interactions.server.resources.now();
    let usable = authorize::usable(&interactions.server, &published, &suspended.request, user)?;
    Ok(suspended.request.resources.is_none() || usable.is_empty())
}
