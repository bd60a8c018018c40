//! Checks the bearer token of a request (RFC 6750). The result is the principal, or the reason why there is none.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::protected::{ProtectedResource, ProtectedResources, Target};
use super::seen::Seen;
use crate::http::Caller;
use crate::identity::{ClientId, GrantId, Principal, SCOPE, UserId, Voucher};
use crate::login::Login;
use crate::login::api_keys::{self, KeyError};
use crate::observe::events::Kind;
use crate::store::rows::ApiKey;
use crate::tokens::TokenError;
use crate::tokens::access::AccessToken;

/// Why a request has no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It has no bearer token. The challenge then has no `error`, because some clients start OAuth only without one.
    NoToken,
    /// Its token is not valid. The reason is for the developer who reads the response.
    BadToken(&'static str),
}

const RULES_CHANGED: &str = "the allow rules have changed since; the token has to be refreshed";

/// Where a request goes: its path, and which of the published servers has it.
#[derive(Clone, Copy)]
pub struct Destination<'d> {
    /// The published servers.
    pub resources: &'d ProtectedResources,
    /// The server that the path leads to.
    pub target: &'d Target,
    /// The path.
    pub path: &'d str,
}

/// What a request may carry as its bearer token.
pub enum Bearer {
    /// An access token.
    Token(Box<AccessToken>),
    /// An API key, and whom it stands for.
    Key(Box<Principal>),
}

/// The principal of the bearer token of a request. Reads memory only, except for a user record that is not cached yet.
pub fn principal(
    login: &Login,
    seen: &Seen,
    to: Destination<'_>,
    headers: &HeaderMap,
    caller: Caller,
) -> Result<Principal, Denial> {
    let token = match verify(login, to, headers)? {
        Bearer::Token(token) => token,
        Bearer::Key(principal) => {
            if let Some(previous) = seen.note_key_use(&principal.grant, caller.address, login.core.now()) {
                let event = caller.event(Kind::KeyUsedElsewhere).with("previous", previous);
                event.with("user", &principal.user).with("server", &to.target.resource.name).tell();
            }
            return Ok(*principal);
        }
    };
    seen.note(&token, caller.address, login.core.now());
    let person = match login.providers.of_credential(&token.credential) {
        // The store is read only if the record is not in memory, as at a user's first request after the proxy's start.
        Some(_) => match login.user_records.get(&token.sub) {
            Ok(None) => return Err(Denial::BadToken("the user was denied access since")),
            known => known.unwrap_or_default().map(Voucher::Provider),
        },
        None => token.asserted.map(|asserted| Voucher::Issuer(Arc::from(asserted))),
    };
    Ok(Principal {
        user: token.sub,
        // The address that the provider gave last; it may be newer than the one in the token.
        email: person.as_ref().map_or(token.email, |person| person.profile().email.clone()),
        client: token.client_id,
        grant: token.grant,
        expires_at: token.exp,
        person,
    })
}

/// The request's bearer token, if it is valid there.
pub fn verify(login: &Login, to: Destination<'_>, headers: &HeaderMap) -> Result<Bearer, Denial> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Err(Denial::NoToken) };
    if fields.next().is_some() {
        return Err(Denial::BadToken("there are two Authorization fields"));
    }
    let text = field.to_str().map_err(|_| Denial::BadToken("the token is malformed"))?;
    let Some((_, token)) = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(Denial::NoToken);
    };
    let (token, now) = (token.trim(), login.core.now());
    if token.starts_with(api_keys::PREFIX) {
        let key = login.api_keys.find(token, now).map_err(|e| match e {
            KeyError::Off => Denial::BadToken("API keys are switched off here (--api-keys)"),
            KeyError::Unknown => Denial::BadToken("the API key is not valid, or was revoked"),
            KeyError::Expired => Denial::BadToken("the API key has expired"),
        })?;
        return of_key(&key, &to.target.resource).map(|principal| Bearer::Key(Box::new(principal)));
    }
    let token = AccessToken::verify(token, &login.core.keys, now).map_err(|e| match e {
        TokenError::Invalid => Denial::BadToken("the token is not valid"),
        TokenError::Expired => Denial::BadToken("the token has expired"),
    })?;
    let of_file = !token.servers.is_empty();
    if !to.resources.is_audience(&token.aud, of_file, to.target, to.path) {
        return Err(Denial::BadToken("the token is for another resource"));
    }
    check(login, &to.target.resource, &token)?;
    Ok(Bearer::Token(Box::new(token)))
}

/// Whom a key stands for at this server: the user `key:NAME`.
pub fn of_key(key: &Arc<ApiKey>, resource: &ProtectedResource) -> Result<Principal, Denial> {
    if !key.servers.is_empty() && !key.servers.contains(&resource.name) {
        return Err(Denial::BadToken("the API key is for another server"));
    }
    let user = UserId::of_api_key(&key.name);
    if !resource.admits(&user, None, &[]) {
        return Err(Denial::BadToken("the server's allow rules do not name this API key"));
    }
    Ok(Principal {
        client: ClientId(user.as_str().to_string()),
        user,
        email: None,
        grant: GrantId::of_api_key(&key.name),
        expires_at: key.expires_at,
        person: None,
    })
}

/// Is a genuine token whose audience is this server still good there: not revoked or replaced, and its user still admitted?
pub fn check(login: &Login, resource: &ProtectedResource, token: &AccessToken) -> Result<(), Denial> {
    if !token.scope.split(' ').any(|scope| scope == SCOPE) {
        return Err(Denial::BadToken("the token has another scope"));
    }
    let rules = token.servers.get(&resource.name).map(String::as_str).unwrap_or_default();
    if rules != resource.rules_digest() {
        return Err(Denial::BadToken(RULES_CHANGED));
    }
    if login.core.state.is_revoked(&token.grant) {
        return Err(Denial::BadToken("the token has been revoked"));
    }
    if login.core.state.is_superseded(&token.grant, token.generation, token.attempt) {
        return Err(Denial::BadToken("the token has been replaced by a newer one"));
    }
    match login.providers.of_credential(&token.credential) {
        // Refreshing re-evaluates the allow rules.
        Some(provider) if token.rules.as_ref() != Some(&provider.rules().digest()) => {
            return Err(Denial::BadToken(RULES_CHANGED));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    match &token.asserted {
        Some(asserted) => match login.issuers.by_name(&asserted.issuer) {
            Some(issuer) if token.rules.as_ref() == Some(&issuer.digest) => Ok(()),
            Some(_) => Err(Denial::BadToken("the rules of the trusted issuer have changed since")),
            None => Err(Denial::BadToken("its issuer is not trusted any more")),
        },
        None if !login.is_current(&token.credential) => {
            Err(Denial::BadToken("the password, or the way to sign in, has been changed since"))
        }
        None => Ok(()),
    }
}
