//! Issues access and refresh tokens for a grant.

use http::StatusCode;
use serde_json::json;

use super::error::{OAuthError, invalid_grant, no_store};
use super::server::AuthorizationServer;
use crate::core::Core;
use crate::http::Response;
use crate::identity::{SCOPE, User};
use crate::login::Login;
use crate::resource::protected::ProtectedResources;
use crate::resource::stream_recheck::end_grant;
use crate::resource_url::Resources;
use crate::store::rows::{Grant, Phase, Rotation};
use crate::tokens::access::AccessToken;
use crate::tokens::artefacts::RefreshToken;
use crate::tokens::random_name;

/// Claims for an access token of a user who may enter.
pub(super) struct Vouched {
    /// Digest of the provider's allow rules that admitted the user; `None` for a user who signed in by password.
    rules: Option<String>,
    /// The e-mail address that the provider gave last.
    email: Option<String>,
}

/// Applies the allow rules to what the provider last said about the user; `None` if the user may not enter any more.
pub(super) fn vouch(login: &Login, user: &User) -> Result<Option<Vouched>, OAuthError> {
    let Some(provider) = login.providers.of_credential(&user.credential) else {
        return Ok(Some(Vouched { rules: None, email: user.email.clone() }));
    };
    let rules = provider.rules();
    if !login.user_records.is_admitted_by(&user.id, &rules)? {
        return Ok(None);
    }
    let email = login.user_records.get(&user.id)?.and_then(|person| person.profile.email.clone());
    Ok(Some(Vouched { rules: Some(rules.digest()), email }))
}

/// Ends the grant of a user who may not use it any more; `why` is for the log. Returns the error for the client.
pub(super) fn end(server: &AuthorizationServer, grant: &Grant, why: &str) -> OAuthError {
    end_grant(&server.core, &server.streams, &grant.id, &grant.user, why);
    invalid_grant("the user may not use this server any more")
}

/// Builds the token response (RFC 6749 section 5.1). The refresh token contains only values of the grant row, so that
/// the same token can be issued again. `audience` is what the access token is for.
pub(super) fn tokens(
    core: &Core,
    published: &ProtectedResources,
    grant: &Grant,
    audience: Resources,
    vouched: Vouched,
) -> Response {
    let Phase::Active { rotation: Rotation { generation, attempt, since, .. }, .. } = grant.phase else {
        return invalid_grant("the authorization has ended").response();
    };
    let lifetime = core.lifetimes.access_token;
    let access = access_token(core, published, grant, audience, vouched.rules, lifetime);
    let access = AccessToken { generation, attempt, email: vouched.email, ..access };
    let refresh = RefreshToken { grant: grant.id.clone(), generation, attempt, since };
    no_store(Response::json(
        StatusCode::OK,
        &json!({
            "access_token": access.sign(&core.keys),
            "token_type": "Bearer",
            "expires_in": access.exp.saturating_sub(access.iat),
            "refresh_token": core.keys.sign(&refresh),
            "scope": SCOPE,
        }),
    ))
}

/// An access token of a grant for this audience. `rules` is the digest of the rules that have admitted its user.
pub(super) fn access_token(
    core: &Core,
    published: &ProtectedResources,
    grant: &Grant,
    audience: Resources,
    rules: Option<String>,
    lifetime: u64,
) -> AccessToken {
    let now = core.now();
    let servers = audience.urls().iter().filter_map(|url| published.named_by(url));
    let servers = servers.filter(|_| published.whole().is_none());
    let servers = servers.map(|server| (server.name.clone(), server.rules_digest())).collect();
    AccessToken {
        iss: core.keys.issuer().to_string(),
        aud: audience,
        sub: grant.user.id.clone(),
        client_id: grant.client.clone(),
        scope: SCOPE.to_string(),
        jti: random_name(),
        iat: now,
        exp: (now + lifetime).min(grant.expires_at),
        grant: grant.id.clone(),
        generation: 1,
        attempt: 0,
        credential: grant.user.credential.clone(),
        email: grant.user.email.clone(),
        rules,
        servers,
        asserted: grant.asserted.clone().map(Box::new),
    }
}
