//! Checks the bearer token of a request (RFC 6750). The result is the principal, or the reason why there is none.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::protected::{ProtectedResources, Target};
use super::seen::Seen;
use crate::identity::Principal;
use crate::login::Login;
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

/// The principal of the bearer token of a request. Reads memory only, except for a user record that is not cached yet.
pub fn principal(login: &Login, seen: &Seen, to: Destination<'_>, headers: &HeaderMap) -> Result<Principal, Denial> {
    let token = verify(login, to, headers)?;
    seen.note(&token);
    let person = match login.providers.of_credential(&token.credential) {
        // The store is read only if the record is not in memory, as at a user's first request after the proxy's start.
        Some(_) => match login.user_records.get(&token.sub) {
            Ok(None) => return Err(Denial::BadToken("the user was denied access since")),
            known => known.unwrap_or_default(),
        },
        None => None,
    };
    Ok(Principal {
        user: token.sub,
        // The address that the provider gave last; it may be newer than the one in the token.
        email: person.as_ref().map_or(token.email, |person| person.profile.email.clone()),
        client: token.client_id,
        grant: token.grant,
        expires_at: token.exp,
        person,
    })
}

/// The request's bearer token, if it is valid there.
pub fn verify(login: &Login, to: Destination<'_>, headers: &HeaderMap) -> Result<AccessToken, Denial> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Err(Denial::NoToken) };
    if fields.next().is_some() {
        return Err(Denial::BadToken("there are two Authorization fields"));
    }
    let text = field.to_str().map_err(|_| Denial::BadToken("the token is malformed"))?;
    let Some((_, token)) = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(Denial::NoToken);
    };
    let token = AccessToken::verify(token.trim(), &login.core.keys, login.core.now()).map_err(|e| match e {
        TokenError::Invalid => Denial::BadToken("the token is not valid"),
        TokenError::Expired => Denial::BadToken("the token has expired"),
    })?;
    let of_file = !token.servers.is_empty();
    if !to.resources.is_audience(&token.aud, of_file, to.target, to.path) {
        return Err(Denial::BadToken("the token is for another resource"));
    }
    let rules = token.servers.get(&to.target.resource.name).map(String::as_str).unwrap_or_default();
    if rules != to.target.resource.rules_digest() {
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
        Some(_) => {}
        None if !login.passwords.is_current(&token.credential) => {
            return Err(Denial::BadToken("the password, or the way to sign in, has been changed since"));
        }
        None => {}
    }
    Ok(token)
}
