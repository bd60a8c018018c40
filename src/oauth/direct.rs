//! Grants that are given without a code and have no refresh token: client credentials, and assertions of trusted issuers.

use http::StatusCode;
use serde_json::json;

use super::error::{OAuthError, invalid_grant, no_store};
use super::issue;
use super::resource::invalid_target;
use super::server::AuthorizationServer;
use crate::clock::Timestamp;
use crate::encoding::digest;
use crate::http::{Caller, Response};
use crate::identity::{Asserted, ClientId, GrantId, OFFLINE_ACCESS, SCOPE, User};
use crate::observe::events::Kind;
use crate::resource::protected::{ProtectedResource, ProtectedResources};
use crate::resource_url::Resources;
use crate::store::rows::{AuthMethod, Consent, Grant, Phase};
use crate::store::{StoreError, Tx};
use crate::tokens::random_name;

/// Most resources of a token for which the client has named none: they are in the token, which each request carries.
const MAX_RESOURCES: usize = 32;

/// What a token is to be issued for.
pub(super) struct Direct {
    pub(super) user: User,
    pub(super) client: ClientId,
    /// For the log.
    pub(super) client_name: String,
    pub(super) auth_method: AuthMethod,
    pub(super) audience: Resources,
    pub(super) of_file: bool,
    /// What a trusted issuer has said, and when it said so.
    pub(super) asserted: Option<(Asserted, Timestamp)>,
    /// Digest of the issuer's settings.
    pub(super) rules: Option<String>,
    /// Lifetime of the access token, in seconds.
    pub(super) lifetime: u64,
}

/// The resources that a token is for: those that the client asks for, which `may` has to open to it, or else all that `may`
/// opens.
pub(super) fn audience(
    published: &ProtectedResources,
    requested: Option<Resources>,
    origin: &str,
    may: &dyn Fn(&ProtectedResource) -> bool,
) -> Result<Resources, OAuthError> {
    if let Some(requested) = requested {
        let is_open =
            |url| published.can_be_requested(url) && published.named_by(url).is_some_and(|server| may(server));
        return match requested.urls().iter().all(is_open) {
            true => Ok(requested),
            false => Err(invalid_target("there is no such MCP server, or it is not open to this client".into())),
        };
    }
    if let Some(whole) = published.whole() {
        return match may(whole) {
            true => Ok(Resources::new(Vec::new(), origin)),
            false => Err(invalid_target("the MCP server is not open to this client".into())),
        };
    }
    let open: Vec<_> = published.all().iter().filter(|server| may(server)).map(|server| server.url().clone()).collect();
    match open.len() {
        0 => Err(invalid_target("no MCP server is open to this client".into())),
        1..=MAX_RESOURCES => Ok(Resources::new(open, origin)),
        _ => Err(invalid_target("there are too many MCP servers; name those that are wanted (resource)".into())),
    }
}

/// Checks that what was asked for has the one scope that there is. `None` asks for all.
pub(super) fn check_scope(asked: Option<&str>) -> Result<(), OAuthError> {
    let has_ours = |scope: &str| scope.split(' ').any(|word| word == SCOPE);
    match asked {
        Some(scope) if !has_ours(scope) => {
            let why = format!("the only scopes are {SCOPE} and {OFFLINE_ACCESS}, and access needs {SCOPE}");
            Err(OAuthError::new("invalid_scope", why))
        }
        _ => Ok(()),
    }
}

/// Stores the grant and answers with an access token for it.
pub(super) fn issue(
    server: &AuthorizationServer,
    direct: Direct,
    grant_type: &str,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let core = &*server.core;
    let (user, client, name) = (direct.user.clone(), direct.client.clone(), direct.client_name.clone());
    let (audience, rules, lifetime) = (direct.audience.clone(), direct.rules.clone(), direct.lifetime);
    let grant = core.state.transact(move |tx| settle(tx, direct))?;
    let Some(grant) = grant else {
        return Err(invalid_grant("the authorization was ended after this assertion was issued"));
    };
    let token = issue::access_token(core, &server.resources.now(), &grant, audience, rules, lifetime);
    let event = caller.event(Kind::TokensIssued).with("user", &user.id).with("client", client);
    let event = event.with("client_name", name).with("grant", &grant.id).with("grant_type", grant_type);
    event.with("issuer", grant.asserted.as_ref().map_or("", |asserted| &asserted.issuer)).tell();
    Ok(no_store(Response::json(
        StatusCode::OK,
        &json!({
            "access_token": token.sign(&core.keys),
            "token_type": "Bearer",
            "expires_in": token.exp.saturating_sub(token.iat),
            "scope": SCOPE,
        }),
    )))
}

/// The grant of this user, client and audience; there is one. `None` if it was ended after the assertion was issued.
fn settle(tx: &mut Tx<'_>, direct: Direct) -> Result<Option<Grant>, StoreError> {
    let Direct { user, client, auth_method, audience, of_file, asserted, lifetime, .. } = direct;
    let (asserted, issued_at) = asserted.map_or((None, None), |(asserted, at)| (Some(asserted), Some(at)));
    let issuer = asserted.as_ref().map_or("", |asserted| &asserted.issuer);
    let urls: Vec<&str> = audience.urls().iter().map(|url| url.as_str()).collect();
    let index = digest(format!("direct\0{}\0{issuer}\0{client}\0{of_file}\0{}", user.id, urls.join("\0")).as_bytes());
    let now = tx.now();
    let known = match tx.get::<Consent>(&index)?.and_then(|row| row.grant) {
        Some(id) => tx.get::<Grant>(id.as_str())?,
        None => None,
    };
    if let Some(ended) = known.as_ref().filter(|grant| grant.phase == Phase::Revoked)
        && issued_at.is_some_and(|at| at <= ended.ended_at)
    {
        return Ok(None);
    }
    let exp = asserted.as_ref().map_or(0, |asserted| asserted.exp);
    if let Some(grant) = known.as_ref().filter(|grant| grant.phase == Phase::Direct) {
        let is_same = grant.asserted == asserted && grant.access_token_lifetime >= lifetime && grant.user == user;
        // Nothing to write for most of a client's requests.
        if is_same && grant.expires_at >= now + lifetime {
            return Ok(known);
        }
    }
    let known = known.filter(|grant| grant.phase == Phase::Direct);
    let (id, created_at) = known.map_or_else(|| (GrantId(random_name()), now), |grant| (grant.id, grant.created_at));
    let grant = Grant {
        id,
        user,
        client,
        auth_method,
        resources: Some(audience),
        of_file,
        phase: Phase::Direct,
        access_token_lifetime: lifetime,
        asserted,
        ended_at: 0,
        created_at,
        expires_at: now.saturating_add(lifetime.saturating_mul(2)),
    };
    tx.put(grant.id.as_str(), &grant);
    tx.put(
        &index,
        &Consent { grant: Some(grant.id.clone()), user: None, client: None, expires_at: grant.expires_at.max(exp) },
    );
    Ok(Some(grant))
}
