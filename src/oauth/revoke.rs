//! `POST /.idp/revoke`: token revocation by a client (RFC 7009). Revoking an access or a refresh token ends the whole
//! grant.

use http::StatusCode;

use super::client_auth;
use super::error::{OAuthError, no_store};
use super::server::AuthorizationServer;
use crate::core::Core;
use crate::http::form::Form;
use crate::http::{Caller, Request, Response};
use crate::identity::GrantId;
use crate::observe::events::Kind;
use crate::store::rows::{Grant, Phase};
use crate::tokens::access::AccessToken;
use crate::tokens::artefacts::RefreshToken;

/// Answers a revocation request. Invalid tokens get 200 as well (RFC 7009 section 2.2).
pub fn handle(server: &AuthorizationServer, request: &mut Request<'_>, caller: Caller) -> Response {
    let result = Form::read(request).map_err(OAuthError::from).and_then(|form| revoke(server, request, &form, caller));
    match result {
        Ok(()) => no_store(Response::new(StatusCode::OK)),
        Err(error) => client_auth::refusal(&error, &request.parts.headers),
    }
}

enum Outcome {
    /// There is nothing to revoke: the grant is gone or already revoked.
    Nothing,
    Revoked,
    Anothers,
}

fn revoke(server: &AuthorizationServer, request: &Request<'_>, form: &Form, caller: Caller) -> Result<(), OAuthError> {
    let core = &*server.core;
    // The keys of a client with a document are fetched only for a genuine token.
    let prove = |_: &str| match form.get("token").and_then(|token| grant_of(core, token)) {
        Some(_) => Ok(()),
        None => Err(OAuthError::new("invalid_request", "token is missing, or not valid")),
    };
    let client = client_auth::authenticate(server, &request.parts.headers, form, caller, &prove)?.client;
    let token = form.get("token").ok_or_else(|| OAuthError::new("invalid_request", "token is missing"))?;
    let Some(id) = grant_of(core, token) else { return Ok(()) };
    let (client_id, lifetime, ended) = (client.id.clone(), core.lifetimes.access_token, id.clone());
    let outcome = core.state.transact(move |tx| {
        let Some(grant) = tx.get::<Grant>(id.as_str())? else { return Ok(Outcome::Nothing) };
        if grant.client != client_id {
            return Ok(Outcome::Anothers);
        }
        if grant.phase == Phase::Revoked {
            return Ok(Outcome::Nothing);
        }
        tx.revoke(grant, lifetime);
        Ok(Outcome::Revoked)
    })?;
    let told = |kind| caller.event(kind).with("client", &client.id).with("client_name", client.shown_name());
    match outcome {
        Outcome::Nothing => {}
        Outcome::Revoked => {
            server.streams.cut(&ended);
            told(Kind::TokenRevoked).with("grant", &ended).tell();
        }
        // RFC 7009 section 2.1: refuse the request and inform the client.
        Outcome::Anothers => {
            told(Kind::RevocationRefused).tell();
            return Err(OAuthError::new("invalid_grant", "the token was issued to another client"));
        }
    }
    Ok(())
}

fn grant_of(core: &Core, token: &str) -> Option<GrantId> {
    let now = core.now();
    let refresh = core.keys.verify::<RefreshToken>(token, now).map(|t| t.grant);
    refresh.or_else(|_| AccessToken::verify(token, &core.keys, now).map(|t| t.grant)).ok()
}
