//! The grant type `refresh_token` (RFC 6749 section 6). Whether a token may be used again is decided in
//! [`rotation`].

use std::sync::Arc;

use http::StatusCode;

use super::client_auth::{Authenticated, invalid_client};
use super::error::{OAuthError, invalid_grant};
use super::issue;
use super::resource;
use super::rotation::{self, Presented, Verdict};
use super::server::AuthorizationServer;
use crate::core::Lifetimes;
use crate::http::form::Form;
use crate::http::{Caller, Response};
use crate::identity::{ClientId, CredentialId, GrantId};
use crate::login::providers::user_records::Recheck;
use crate::observe::events::{Event, Kind};
use crate::resource::protected::ProtectedResources;
use crate::resource::stream_recheck::end_grant;
use crate::resource_url::{ResourceUrl, Resources};
use crate::store::rows::{AuthMethod, Client, Grant, Phase};
use crate::store::{StoreError, Tx};
use crate::tokens::artefacts::RefreshToken;

enum Refresh {
    /// New tokens are issued; the text tells the log how: rotated, repeated or replaced.
    Done(Box<Grant>, &'static str, Resources),
    Reuse(Box<Grant>),
    /// The client asks for a resource that it can't have.
    OtherTarget(OAuthError),
    /// The user may use none of the servers any more.
    NotAllowed(Box<Grant>),
    Refused(&'static str),
}

/// The refresh token of a request, if it is genuine.
pub(super) fn verify(server: &AuthorizationServer, form: &Form) -> Result<RefreshToken, OAuthError> {
    let text =
        form.get("refresh_token").ok_or_else(|| OAuthError::new("invalid_request", "refresh_token is missing"))?;
    server.core.keys.verify(text, server.core.now()).map_err(|_| invalid_grant("the refresh token is not valid"))
}

/// Exchanges a refresh token for new tokens (RFC 6749 section 6).
pub(super) fn refresh(
    server: &AuthorizationServer,
    authenticated: &Authenticated,
    form: &Form,
    resources: Option<Resources>,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let client = &authenticated.client;
    let token = verify(server, form)?;
    let grant = server.core.state.get::<Grant>(token.grant.as_str())?;
    let is_weaker = |grant: &Grant| grant.client == client.id && grant.auth_method == AuthMethod::PrivateKeyJwt;
    if authenticated.how != AuthMethod::PrivateKeyJwt && grant.as_ref().is_some_and(is_weaker) {
        return Err(invalid_client(
            "this authorization began with private_key_jwt, and the client's assertion is missing",
        ));
    }
    let presented = Presented { generation: token.generation, attempt: token.attempt, since: token.since };
    let email = match is_copy(server, client, &token, presented)? {
        // A reused token ends the grant whatever the provider says, so the provider is not asked.
        true => None,
        false => recheck_user(server, client, &token)?,
    };
    let published = server.resources.now();
    let denied = resource::denied(&server.login, &published, &token.grant)?;
    let attempt = Attempt {
        client: client.id.clone(),
        presented,
        email,
        current: server.login.current_credentials(),
        lifetimes: server.core.lifetimes,
        resources,
        origin: server.core.external.origin.clone(),
        published: published.clone(),
        denied: denied.clone(),
    };
    let outcome = server.core.state.transact(move |tx| settle(tx, &token.grant, attempt))?;
    let told = |kind, grant: &Grant| {
        let event = caller
            .event(kind)
            .with("user", &grant.user.id)
            .with("client", &client.id)
            .with("client_name", client.shown_name());
        event.with("grant", &grant.id)
    };
    match outcome {
        Refresh::Done(grant, how, audience) => {
            cut_streams(server, &published, &grant.id, &denied);
            // The allow rules changed during this request. The client can retry with the same refresh token, and the
            // retry applies the new rules.
            let Some(vouched) = issue::vouch(&server.login, &grant.user)? else { return Err(put_off()) };
            told(Kind::TokensRefreshed, &grant).with("how", how).tell();
            Ok(issue::tokens(&server.core, &published, &grant, audience, vouched))
        }
        Refresh::Reuse(grant) => {
            told(Kind::RefreshTokenReused, &grant).tell();
            Err(invalid_grant("the refresh token was used before; the authorization has been revoked"))
        }
        Refresh::OtherTarget(error) => Err(error),
        Refresh::NotAllowed(grant) => Err(issue::end(server, &grant, "no server's allow rules fit any more")),
        Refresh::Refused(why) => Err(invalid_grant(why)),
    }
}

/// The input of [`settle`]: what the client presented, and what is known besides the grant.
struct Attempt {
    client: ClientId,
    presented: Presented,
    /// The user's e-mail address according to the provider, if it gives one; outer `None` if the provider was not
    /// asked.
    email: Option<Option<String>>,
    /// All credentials (passwords and providers) that are configured.
    current: Vec<CredentialId>,
    lifetimes: Lifetimes,
    /// The resources that the client asks for. They narrow this access token and not the grant (RFC 8707 section 2.2).
    resources: Option<Resources>,
    /// The external origin.
    origin: String,
    /// The published servers.
    published: Arc<ProtectedResources>,
    /// Those resources of the grant that its user may not use any more.
    denied: Vec<ResourceUrl>,
}

/// Checks a refresh token and updates its grant, in one transaction.
fn settle(tx: &mut Tx<'_>, id: &GrantId, attempt: Attempt) -> Result<Refresh, StoreError> {
    let Attempt { client, presented, email, current, lifetimes, resources, origin, published, denied } = attempt;
    let Some(mut grant) = tx.get::<Grant>(id.as_str())? else {
        return Ok(Refresh::Refused("the refresh token has expired"));
    };
    if grant.client != client {
        return Ok(Refresh::Refused("the refresh token was given to another client"));
    }
    let now = tx.now();
    let is_allowed = resource::withdraw(&mut grant, &denied, &origin);
    let audience = resource::audience(&published, &grant, resources.as_ref(), &origin);
    let Phase::Active { rotation, .. } = &mut grant.phase else {
        return Ok(Refresh::Refused("the authorization has ended"));
    };
    if !current.contains(&grant.user.credential) {
        tx.revoke(grant, lifetimes.access_token);
        return Ok(Refresh::Refused("the password, or the way to sign in, has been changed since"));
    }
    let verdict = rotation::judge(*rotation, presented, now);
    let how = match verdict {
        // Reuse ends the grant whatever the client asks for.
        Verdict::Reuse => {
            tx.revoke(grant.clone(), lifetimes.access_token);
            return Ok(Refresh::Reuse(Box::new(grant)));
        }
        Verdict::Unknown => return Ok(Refresh::Refused("the refresh token is not valid")),
        _ if !is_allowed => return Ok(Refresh::NotAllowed(Box::new(grant))),
        Verdict::Rotate(_) => "rotated",
        Verdict::Repeat => "repeated",
        Verdict::Replace(_) => "replaced",
    };
    let audience = match audience {
        Ok(audience) => audience,
        Err(error) => return Ok(Refresh::OtherTarget(error)),
    };
    match verdict {
        Verdict::Rotate(next) => {
            *rotation = next;
            grant.access_token_lifetime = grant.access_token_lifetime.max(lifetimes.access_token);
            if let Some(email) = email {
                grant.user.email = email;
            }
            grant.expires_at = (now + lifetimes.refresh_idle).min(grant.created_at + lifetimes.refresh_total);
        }
        Verdict::Replace(next) => {
            *rotation = next;
            // Refuse access tokens of the replaced attempt from now on. Client and thief then no longer hold the same
            // tokens, so they can be distinguished.
            let until = now + lifetimes.access_token.max(grant.access_token_lifetime);
            if !tx.supersede(&grant.id, next.generation, next.attempt, until)? {
                tx.revoke(grant.clone(), lifetimes.access_token);
                return Ok(Refresh::Reuse(Box::new(grant)));
            }
        }
        _ => {}
    }
    if how != "repeated" || !denied.is_empty() {
        tx.put(grant.id.as_str(), &grant);
    }
    Ok(Refresh::Done(Box::new(grant), how, audience))
}

/// Cuts the grant's streams from the servers of the resources that were taken out of it.
fn cut_streams(server: &AuthorizationServer, published: &ProtectedResources, id: &GrantId, denied: &[ResourceUrl]) {
    for resource in denied.iter().filter_map(|url| published.named_by(url)) {
        let cut = server.streams.cut_if(|grant, from| grant == id && from == resource.name);
        let event = Event::new(Kind::ServerWithdrawn).with("grant", id).with("server", &resource.name);
        event.count("streams", cut).tell();
    }
}

/// Is this the reuse of an old token? This is a preliminary check; the transaction in [`settle`] decides.
fn is_copy(
    server: &AuthorizationServer,
    client: &Client,
    token: &RefreshToken,
    presented: Presented,
) -> Result<bool, OAuthError> {
    let grant = server.core.state.get::<Grant>(token.grant.as_str())?.filter(|g| g.client == client.id);
    Ok(match grant.map(|g| g.phase) {
        Some(Phase::Active { rotation, .. }) => {
            rotation::judge(rotation, presented, server.core.now()) == Verdict::Reuse
        }
        _ => false,
    })
}

/// Checks with the provider whether a user who signed in there may still enter; if not, ends the grant. Returns `Some`
/// with the e-mail address that the provider gives, if it gives one. Returns `None` if there was nothing to check: the
/// user signed in by password, or the client has no active grant with this id.
fn recheck_user(
    server: &AuthorizationServer,
    client: &Client,
    token: &RefreshToken,
) -> Result<Option<Option<String>>, OAuthError> {
    let grant = server.core.state.get::<Grant>(token.grant.as_str())?;
    let is_live = |g: &Grant| g.client == client.id && matches!(g.phase, Phase::Active { .. });
    let Some(grant) = grant.filter(is_live) else { return Ok(None) };
    if server.login.providers.of_credential(&grant.user.credential).is_none() {
        return Ok(None);
    }
    match server.login.user_records.recheck(&grant.user, grant.created_at) {
        Recheck::Allowed(person) => Ok(Some(person.profile.email.clone())),
        Recheck::Denied(why) => {
            end_grant(&server.core, &server.streams, &grant.id, &grant.user, &why);
            Err(invalid_grant("the user may not use this server any more, or has to sign in again"))
        }
        Recheck::Unknown(why) => {
            let event = Event::new(Kind::RefreshPutOff).with("user", &grant.user.id).with("grant", &grant.id);
            event.with("reason", why).tell();
            Err(put_off())
        }
    }
}

fn put_off() -> OAuthError {
    OAuthError {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "temporarily_unavailable",
        description: "the identity provider can't be asked; try again in a minute".into(),
    }
}
