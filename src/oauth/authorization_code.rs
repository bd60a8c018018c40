//! The grant type `authorization_code` (RFC 6749 section 4.1.3, PKCE by RFC 7636).

use std::sync::Arc;

use super::client_auth::Authenticated;
use super::client_metadata::is_document;
use super::error::{OAuthError, invalid_grant};
use super::issue;
use super::resource;
use super::rotation;
use super::server::AuthorizationServer;
use crate::core::Lifetimes;
use crate::encoding::digest;
use crate::http::form::Form;
use crate::http::{Caller, Response};
use crate::identity::{ClientId, GrantId};
use crate::observe::events::Kind;
use crate::resource::protected::ProtectedResources;
use crate::resource_url::{ResourceUrl, Resources};
use crate::store::rows::{AuthMethod, Grant, Phase};
use crate::store::{StoreError, Tx};
use crate::tokens::artefacts::AuthorizationCode;
use crate::tokens::equal;

enum Redemption {
    Done(Box<Grant>, Resources),
    Replayed,
    /// The client asks for a resource that it can't have.
    OtherTarget(OAuthError),
    /// The user may use none of the servers any more.
    NotAllowed(Box<Grant>),
    Refused(&'static str),
}

fn missing(name: &str) -> OAuthError {
    OAuthError::new("invalid_request", format!("{name} is missing"))
}

/// The code of a request, if it is genuine.
pub(super) fn verify(server: &AuthorizationServer, form: &Form) -> Result<AuthorizationCode, OAuthError> {
    let code = form.get("code").ok_or_else(|| missing("code"))?;
    let code = server.core.keys.verify(code, server.core.now());
    code.map_err(|_| invalid_grant("the code is not valid or has expired"))
}

/// Redeems a code (RFC 6749 section 4.1.3).
pub(super) fn redeem(
    server: &AuthorizationServer,
    authenticated: &Authenticated,
    form: &Form,
    resources: Option<Resources>,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let client = &authenticated.client;
    form.get("code").ok_or_else(|| missing("code"))?;
    let verifier = form.get("code_verifier").ok_or_else(|| missing("code_verifier"))?;
    let code = verify(server, form)?;

    let published = server.resources.now();
    let denied = resource::denied(&server.login, &published, &code.grant)?;
    let presented = Presented {
        client: client.id.clone(),
        how: is_document(client.id.as_str()).then_some(authenticated.how),
        redirect_uri: form.get("redirect_uri").map(str::to_string),
        proof: proof_of(verifier),
        resources,
        origin: server.core.external.origin.clone(),
        published: published.clone(),
        denied,
    };
    let lifetimes = server.core.lifetimes;
    let redemption = server.core.state.transact(move |tx| settle(tx, &code.grant, presented, lifetimes))?;
    match redemption {
        Redemption::Done(grant, audience) => {
            // The allow rules may have changed since the code was issued.
            let Some(vouched) = issue::vouch(&server.login, &grant.user)? else {
                return Err(issue::end(server, &grant, "no allow rule fits any more"));
            };
            let event = caller
                .event(Kind::TokensIssued)
                .with("user", &grant.user.id)
                .with("client", &client.id)
                .with("client_name", client.shown_name());
            event.with("grant", &grant.id).with("grant_type", "authorization_code").tell();
            Ok(issue::tokens(&server.core, &published, &grant, audience, vouched))
        }
        Redemption::Replayed => {
            let event = caller.event(Kind::CodeReused).with("client", &client.id);
            event.with("client_name", client.shown_name()).tell();
            Err(invalid_grant("the code was redeemed before; the authorization has been revoked"))
        }
        Redemption::OtherTarget(error) => Err(error),
        Redemption::NotAllowed(grant) => Err(issue::end(server, &grant, "no server's allow rules fit any more")),
        Redemption::Refused(why) => Err(invalid_grant(why)),
    }
}

/// The parameters that a client sends with a code.
struct Presented {
    client: ClientId,
    /// How a client with a document has authenticated: its grant keeps that.
    how: Option<AuthMethod>,
    redirect_uri: Option<String>,
    /// The challenge computed from `code_verifier`; `None` if the verifier is malformed.
    proof: Option<String>,
    /// The resources that it asks for.
    resources: Option<Resources>,
    /// The external origin.
    origin: String,
    /// The published servers.
    published: Arc<ProtectedResources>,
    /// Those resources of the grant that its user may not use any more.
    denied: Vec<ResourceUrl>,
}

/// Computes the S256 challenge of a verifier (RFC 7636 section 4.6); `None` if the verifier is malformed (section 4.1).
fn proof_of(verifier: &str) -> Option<String> {
    let is_unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let is_well_formed = (43..=128).contains(&verifier.len()) && verifier.bytes().all(is_unreserved);
    is_well_formed.then(|| digest(verifier.as_bytes()))
}

/// Checks a code and updates its grant, in one transaction.
fn settle(tx: &mut Tx<'_>, id: &GrantId, presented: Presented, lifetimes: Lifetimes) -> Result<Redemption, StoreError> {
    let Some(mut grant) = tx.get::<Grant>(id.as_str())? else {
        return Ok(Redemption::Refused("the code is not valid or has expired"));
    };
    let (challenge, uri, given, pending) = match &grant.phase {
        Phase::Pending { code_challenge, redirect_uri, redirect_uri_given } => {
            (code_challenge, redirect_uri, *redirect_uri_given, true)
        }
        Phase::Active { code_challenge, redirect_uri, redirect_uri_given, .. } => {
            (code_challenge, redirect_uri, *redirect_uri_given, false)
        }
        Phase::Direct | Phase::Revoked => return Ok(Redemption::Refused("the authorization has ended")),
    };
    if grant.client != presented.client {
        return Ok(Redemption::Refused("the code was given to another client"));
    }
    // RFC 6749 section 4.1.3: it must match the authorization request, and it is required if it was present there.
    let redirect = presented.redirect_uri;
    if redirect.as_ref().is_some_and(|r| r != uri) || (given && redirect.is_none()) {
        return Ok(Redemption::Refused("redirect_uri is not that of the authorization request"));
    }
    if !presented.proof.is_some_and(|proof| equal(proof.as_bytes(), challenge.as_bytes())) {
        return Ok(Redemption::Refused("code_verifier does not match code_challenge"));
    }
    if !pending {
        // RFC 6749 section 4.1.2: the code was redeemed before, so it may have been stolen. Revoke the grant.
        tx.revoke(grant, lifetimes.access_token);
        return Ok(Redemption::Replayed);
    }
    let (code_challenge, redirect_uri) = (challenge.clone(), uri.clone());
    if !resource::withdraw(&mut grant, &presented.denied, &presented.origin) {
        return Ok(Redemption::NotAllowed(Box::new(grant)));
    }
    let audience =
        match resource::audience(&presented.published, &grant, presented.resources.as_ref(), &presented.origin) {
            Ok(audience) => audience,
            // The code stays valid, so that the client can correct its request.
            Err(error) => return Ok(Redemption::OtherTarget(error)),
        };
    let now = tx.now();
    grant.phase =
        Phase::Active { rotation: rotation::first(now), code_challenge, redirect_uri, redirect_uri_given: given };
    grant.auth_method = presented.how.unwrap_or(grant.auth_method);
    grant.access_token_lifetime = lifetimes.access_token;
    grant.created_at = now;
    grant.expires_at = now + lifetimes.refresh_idle.min(lifetimes.refresh_total);
    tx.put(grant.id.as_str(), &grant);
    Ok(Redemption::Done(Box::new(grant), audience))
}
