//! Completes a sign-in, by password or at a provider.

use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderValue, StatusCode};

use super::failure::Failure;
use super::shared::{Interactions, Visit};
use crate::http::Response;
use crate::identity::User;
use crate::login::session;
use crate::oauth::authorize::{self, Suspended};
use crate::oauth::consent;
use crate::store::rows::Client;

/// How the user has signed in.
pub(super) enum Proof<'p> {
    /// By password.
    Password,
    /// At a provider: the user's id or e-mail address there, and the kind of allow rule that matched.
    Provider { id: &'p str, rule: &'p str },
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
    let is_password = matches!(proof, Proof::Password);
    let (session, cookies) = session::start(core, visit.headers, user, is_password)?;
    let user = &session.user;
    let client = suspended.and_then(|suspended| suspended.client(core).unwrap_or_default());
    let client_name = client.as_ref().map_or("", Client::shown_name);
    match proof {
        Proof::Password => {
            log::info!(request:% = caller.id, user:% = user.id, client_name = client_name, address:% = caller.address; "signed in")
        }
        Proof::Provider { id, rule } => {
            log::info!(request:% = caller.id, address:% = caller.address, user:% = user.id, client_name = client_name, id = id, rule = rule; "signed in")
        }
    }
    let mut response = match suspended {
        Some(suspended) => {
            consent::remember(core, user, &suspended.request, &suspended.redirect)?;
            let answer = authorize::allow(&interactions.server, suspended, user, caller);
            answer.unwrap_or_else(|e| Failure::from(e).page(interactions, visit))
        }
        None => Response::new(StatusCode::SEE_OTHER).with(LOCATION, HeaderValue::from_static("/.auth/login")),
    };
    for cookie in cookies {
        response.headers.append(SET_COOKIE, cookie);
    }
    Ok(response)
}
