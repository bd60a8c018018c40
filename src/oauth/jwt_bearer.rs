//! The grant type `urn:ietf:params:oauth:grant-type:jwt-bearer` (RFC 7523 section 2.1): assertions of trusted issuers.
//!
//! - An identity assertion (ID-JAG, draft-ietf-oauth-identity-assertion-authz-grant) names a person, and the client that may
//!   act for the person. The client has to authenticate. The organisation decides, so there is no consent page.
//! - The token of a workload is all that the workload has: no client authenticates.
//!
//! Both may come again until they expire: the first stands in for a refresh token, and platforms hand out the second again.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value};

use super::client_auth::{self, Authenticated};
use super::client_credentials::not_allowed;
use super::client_metadata::is_document;
use super::direct::{self, Direct};
use super::error::{OAuthError, invalid_grant};
use super::resource::{self, invalid_target};
use super::server::AuthorizationServer;
use crate::clock::Timestamp;
use crate::http::form::Form;
use crate::http::{Caller, Response};
use crate::identity::{Asserted, ClientId, User, UserId};
use crate::login::issuers::{AssertionKind, Issuer, Refusal, TrustedIssuer};
use crate::resource::protected::ProtectedResource;
use crate::resource_url::{ResourceUrl, Resources};
use crate::rules::strings;
use crate::store::rows::{AuthMethod, GrantType};
use crate::tokens::jwt::{ALGORITHMS, Unverified};

/// The grant type.
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// The type of an identity assertion.
const ID_JAG: &str = "oauth-id-jag+jwt";
/// How long an identity assertion may be valid, in seconds.
const LONGEST_IDENTITY_ASSERTION: u64 = 86_400;
/// Longest subject, in bytes: it is in each token.
const MAX_SUBJECT: usize = 512;

/// Exchanges an assertion for an access token.
pub(super) fn exchange(
    server: &AuthorizationServer,
    headers: &HeaderMap,
    form: &Form,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let text = form.get("assertion").ok_or_else(|| OAuthError::new("invalid_request", "assertion is missing"))?;
    let token = Unverified::parse(text).map_err(|why| invalid_grant(&format!("the assertion: {why}")))?;
    let requested = resource::requested(&server.core, form)?;
    let is_id_jag = token.typ.as_deref().is_some_and(|typ| {
        let bare = typ.get(..12).filter(|start| start.eq_ignore_ascii_case("application/")).map_or(typ, |_| &typ[12..]);
        bare.eq_ignore_ascii_case(ID_JAG)
    });
    match is_id_jag {
        true => enterprise(server, headers, form, &token, requested, caller),
        false => workload(server, headers, form, &token, requested, caller),
    }
}

/// What both kinds have in common: a trusted issuer, an audience of ours, times, and the signature.
fn verified(
    server: &AuthorizationServer,
    token: &Unverified<'_>,
    kind: AssertionKind,
) -> Result<(std::sync::Arc<Issuer>, Timestamp), OAuthError> {
    let refuse = |why: &str| invalid_grant(&format!("the assertion: {why}"));
    let issuer = token.text("iss").ok_or_else(|| refuse("it has no issuer (iss)"))?;
    let issuers = &server.login.issuers;
    let issuer =
        issuers.find(issuer, kind).ok_or_else(|| refuse("its issuer is not trusted for this (--trusted-issuers)"))?;
    if !token.is_signed_with(&ALGORITHMS) {
        return Err(refuse("its algorithm is none of ES256, RS256 and EdDSA"));
    }
    let audiences = strings(token.claims.get("aud"));
    let [audience] = audiences.as_slice() else { return Err(refuse("it must have exactly one audience (aud)")) };
    if !is_audience(server, &issuer.config, kind, audience) {
        return Err(refuse("it is for another audience (aud)"));
    }
    let exp = token.check_times(server.core.now()).map_err(refuse)?;
    if token.text("sub").is_none_or(|sub| sub.len() > MAX_SUBJECT) {
        return Err(refuse("it has no subject (sub), or one of more than 512 bytes"));
    }
    issuer.verify(&issuers.fetcher, token).map_err(|refusal| match refusal {
        Refusal::UnknownKey => refuse("none of its issuer's keys has signed it"),
        Refusal::NoKeys(why) => {
            log::warn!(issuer = issuer.config.name.as_str(), reason = why.as_str(); "the keys of a trusted issuer can't be fetched");
            OAuthError {
                status: http::StatusCode::SERVICE_UNAVAILABLE,
                code: "temporarily_unavailable",
                description: "the keys of the assertion's issuer can't be fetched; try again in a minute".into(),
            }
        }
    })?;
    Ok((issuer, exp))
}

fn is_audience(server: &AuthorizationServer, issuer: &TrustedIssuer, kind: AssertionKind, audience: &str) -> bool {
    let core = &server.core;
    match kind {
        AssertionKind::Enterprise => audience == core.keys.issuer(),
        AssertionKind::Workload if issuer.audiences.is_empty() => {
            audience == core.keys.issuer() || audience == core.url("/.idp/token")
        }
        AssertionKind::Workload => issuer.audiences.iter().any(|known| known == audience),
    }
}

/// An identity assertion, presented by the client that it names.
fn enterprise(
    server: &AuthorizationServer,
    headers: &HeaderMap,
    form: &Form,
    token: &Unverified<'_>,
    requested: Option<Resources>,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let refuse = |why: &str| invalid_grant(&format!("the assertion: {why}"));
    let named = token.text("client_id").ok_or_else(|| refuse("it names no client (client_id)"));
    // The assertion first: nothing of the client is fetched for one that is not genuine.
    let prove = |id: &str| {
        if named.clone()? != id {
            return Err(refuse("it is for another client (client_id)"));
        }
        verified(server, token, AssertionKind::Enterprise).map(drop)
    };
    let Authenticated { client, how } = client_auth::authenticate(server, headers, form, caller, &prove)?;
    if how == AuthMethod::None {
        return Err(client_auth::invalid_client("the client has to authenticate for this grant type"));
    }
    let is_document = is_document(client.id.as_str());
    if !is_document && !client.may(GrantType::JwtBearer) {
        return Err(not_allowed());
    }
    prove(client.id.as_str())?;
    let (issuer, exp) = verified(server, token, AssertionKind::Enterprise)?;
    let issued_at = token.time("iat").ok_or_else(|| refuse("it has no issue time (iat)"))?;
    if token.text("jti").is_none() {
        return Err(refuse("it has no id (jti)"));
    }
    // It comes again instead of a refresh token, so its issuer has to look at the user again before long.
    if exp > issued_at.saturating_add(LONGEST_IDENTITY_ASSERTION) {
        return Err(refuse("it is good for more than a day (iat, exp)"));
    }
    check_scopes(form, token)?;
    let requested = narrowed(server, token, requested)?;
    let user = issuer.config.person(&token.claims).ok_or_else(|| refuse("it has no subject (sub)"))?;
    let of = Presenter { client: client.id.clone(), client_name: client.shown_name().into(), auth_method: how };
    issue(server, &issuer, token, user, of, (issued_at, exp), requested, caller)
}

/// The token of a workload.
fn workload(
    server: &AuthorizationServer,
    headers: &HeaderMap,
    form: &Form,
    token: &Unverified<'_>,
    requested: Option<Resources>,
    caller: Caller,
) -> Result<Response, OAuthError> {
    if headers.contains_key(AUTHORIZATION)
        || form.get("client_assertion").is_some()
        || form.get("client_secret").is_some()
    {
        let why =
            "a workload authenticates with its assertion alone; an identity assertion has the type oauth-id-jag+jwt";
        return Err(OAuthError::new("invalid_request", why));
    }
    let refuse = |why: &str| invalid_grant(&format!("the assertion: {why}"));
    // Tokens that were made for something else say so.
    if token.typ.as_deref().is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt")) {
        return Err(refuse("its type (typ) is that of another kind of token"));
    }
    let (issuer, exp) = verified(server, token, AssertionKind::Workload)?;
    check_scopes(form, token)?;
    let user = issuer.config.workload(&token.claims).ok_or_else(|| refuse("it has no subject (sub)"))?;
    let issued_at = token.time("iat").unwrap_or(0);
    let client = ClientId(format!("workload:{}", issuer.config.name));
    let of = Presenter { client, client_name: String::new(), auth_method: AuthMethod::None };
    issue(server, &issuer, token, user, of, (issued_at, exp), requested, caller)
}

/// Who presents an assertion.
struct Presenter {
    client: ClientId,
    client_name: String,
    auth_method: AuthMethod,
}

#[allow(clippy::too_many_arguments, reason = "the facts of one assertion, each checked elsewhere")]
fn issue(
    server: &AuthorizationServer,
    by: &Issuer,
    token: &Unverified<'_>,
    user: UserId,
    of: Presenter,
    (issued_at, exp): (Timestamp, Timestamp),
    requested: Option<Resources>,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let issuer = &by.config;
    let profile = issuer.profile(&token.claims);
    let claims = Value::Object(visible(&token.claims, profile.email.is_some()));
    let asserted = Asserted { issuer: issuer.name.clone(), profile, exp };
    let may =
        |resource: &ProtectedResource| issuer.opens(&claims, &resource.name) && resource.admits_asserted(&asserted);
    let published = server.resources.now();
    let audience = direct::audience(&published, requested, &server.core.external.origin, &may);
    let audience = audience?;
    let direct = Direct {
        user: User { id: user, email: asserted.profile.email.clone(), credential: issuer.credential() },
        client: of.client,
        client_name: of.client_name,
        auth_method: of.auth_method,
        audience,
        of_file: published.whole().is_none(),
        asserted: Some((asserted, issued_at)),
        rules: Some(by.digest.clone()),
        lifetime: issuer.token_lifetime,
    };
    direct::issue(server, direct, JWT_BEARER, caller)
}

/// The claims that rules may read: an address only if it counts.
fn visible(claims: &Map<String, Value>, has_address: bool) -> Map<String, Value> {
    let mut visible = claims.clone();
    if !has_address {
        visible.remove("email");
    }
    visible
}

/// The scopes are those that the issuer, the client and this server all want.
fn check_scopes(form: &Form, token: &Unverified<'_>) -> Result<(), OAuthError> {
    direct::check_scope(form.get("scope"))?;
    match token.claims.get("scope") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(scope)) => direct::check_scope(Some(scope)),
        Some(_) => Err(invalid_grant("the assertion: its scope is malformed")),
    }
}

/// The resources of an identity assertion, narrowed to what the request asks for. Those of the assertion are the token's
/// audience, whatever the request asks for.
fn narrowed(
    server: &AuthorizationServer,
    token: &Unverified<'_>,
    requested: Option<Resources>,
) -> Result<Option<Resources>, OAuthError> {
    let of_token = match token.claims.get("resource") {
        None | Some(Value::Null) => return Ok(requested),
        resource => strings(resource),
    };
    let origin = &server.core.external.origin;
    let urls: Option<Vec<ResourceUrl>> = of_token.iter().map(|url| ResourceUrl::parse(url, origin)).collect();
    let urls = urls.filter(|urls| !urls.is_empty() && urls.len() <= resource::MAX_RESOURCES);
    let urls = urls.ok_or_else(|| invalid_target("the assertion is for a resource that is not here".into()))?;
    let allowed = Resources::new(urls, origin);
    match requested {
        None => Ok(Some(allowed)),
        Some(requested) if requested.urls().iter().all(|url| allowed.urls().contains(url)) => Ok(Some(requested)),
        Some(_) => Err(invalid_target("the assertion is for another resource".into())),
    }
}
