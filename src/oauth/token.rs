//! `POST /.idp/token`: codes and refresh tokens for access tokens (RFC 6749 sections 4.1.3 and 6).

use http::StatusCode;
use serde_json::json;

use super::form::Form;
use super::refresh::{self, Presented, Verdict};
use super::{OAuthError, client_auth, no_store, resource};
use crate::clock::Timestamp;
use crate::context::{Caller, Context};
use crate::encoding::digest;
use crate::http::{Request, Response};
use crate::identity::{SCOPE, User};
use crate::login::providers::people::Standing;
use crate::login::providers::recheck;
use crate::store::rows::{Client, Grant, Phase, Rotation};
use crate::tokens::access::AccessToken;
use crate::tokens::artefacts::{AuthorizationCode, RefreshToken};
use crate::tokens::{equal, random_name};

/// Answers a token request.
pub fn handle(ctx: &Context, request: &mut Request<'_>, caller: Caller) -> Response {
    let result = Form::read(request).map_err(OAuthError::from).and_then(|form| answer(ctx, request, &form, caller));
    match result {
        Ok(response) => response,
        Err(error) => {
            log::debug!(request:% = caller.id, address:% = caller.address, error = error.code; "a token request was refused");
            client_auth::refusal(&error, &request.parts.headers)
        }
    }
}

fn answer(ctx: &Context, request: &Request<'_>, form: &Form, caller: Caller) -> Result<Response, OAuthError> {
    let grant_type =
        form.get("grant_type").ok_or_else(|| OAuthError::new("invalid_request", "grant_type is missing"))?;
    if !matches!(grant_type, "authorization_code" | "refresh_token") {
        return Err(OAuthError::new(
            "unsupported_grant_type",
            "grant_type must be authorization_code or refresh_token",
        ));
    }
    let client = client_auth::authenticate(ctx, &request.parts.headers, form)?;
    resource::check(form, &ctx.config.external)?;
    if grant_type == "authorization_code" {
        redeem_code(ctx, &client, form, caller)
    } else {
        refresh_tokens(ctx, &client, form, caller)
    }
}

fn invalid_grant(description: &str) -> OAuthError {
    OAuthError::new("invalid_grant", description)
}

enum Redemption {
    Done(Box<Grant>),
    Replayed,
    Refused(&'static str),
}

fn redeem_code(ctx: &Context, client: &Client, form: &Form, caller: Caller) -> Result<Response, OAuthError> {
    let missing = |name: &str| OAuthError::new("invalid_request", format!("{name} is missing"));
    let code = form.get("code").ok_or_else(|| missing("code"))?;
    let verifier = form.get("code_verifier").ok_or_else(|| missing("code_verifier"))?;
    let code: AuthorizationCode =
        ctx.keys.open(code, ctx.now()).map_err(|_| invalid_grant("the code is not valid or has expired"))?;

    let lifetimes = ctx.config.lifetimes;
    let client_id = client.id.clone();
    let redirect = form.get("redirect_uri").map(str::to_string);
    let proof = digest(verifier.as_bytes());
    // RFC 7636 section 4.1.
    let well_formed = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'));
    let redemption = ctx.state.transact(move |tx| {
        let Some(mut grant) = tx.get::<Grant>(code.grant.as_str())? else {
            return Ok(Redemption::Refused("the code is not valid or has expired"));
        };
        let (challenge, uri, given, pending) = match &grant.phase {
            Phase::Pending { code_challenge, redirect_uri, redirect_uri_given } => {
                (code_challenge, redirect_uri, *redirect_uri_given, true)
            }
            Phase::Active { code_challenge, redirect_uri, redirect_uri_given, .. } => {
                (code_challenge, redirect_uri, *redirect_uri_given, false)
            }
            Phase::Revoked => return Ok(Redemption::Refused("the authorization has ended")),
        };
        if grant.client != client_id {
            return Ok(Redemption::Refused("the code was given to another client"));
        }
        // RFC 6749 section 4.1.3: the same as in the authorization request, if it was there.
        if redirect.as_ref().is_some_and(|r| r != uri) || (given && redirect.is_none()) {
            return Ok(Redemption::Refused("redirect_uri is not that of the authorization request"));
        }
        if !well_formed || !equal(proof.as_bytes(), challenge.as_bytes()) {
            return Ok(Redemption::Refused("code_verifier does not match code_challenge"));
        }
        if !pending {
            // RFC 6749 section 4.1.2: somebody has redeemed it before, and only one of the two is the client.
            tx.revoke(grant, lifetimes.access_token);
            return Ok(Redemption::Replayed);
        }
        let now = tx.now();
        grant.phase = Phase::Active {
            rotation: refresh::first(now),
            code_challenge: challenge.clone(),
            redirect_uri: uri.clone(),
            redirect_uri_given: given,
        };
        grant.access_token_lifetime = lifetimes.access_token;
        grant.created_at = now;
        grant.expires_at = now + lifetimes.refresh_idle.min(lifetimes.refresh_total);
        tx.put(grant.id.as_str(), &grant);
        Ok(Redemption::Done(Box::new(grant)))
    })?;
    match redemption {
        Redemption::Done(grant) => {
            // Who may enter may have been changed since the code was given.
            let Some(vouched) = vouch(ctx, &grant.user)? else {
                recheck::end_grant(ctx, &grant.id, &grant.user, "no allow rule fits any more");
                return Err(invalid_grant("the user may not use this server any more"));
            };
            log::info!(request:% = caller.id, user:% = grant.user.id, client:% = client.id, client_name = client.shown_name(), grant:% = grant.id, address:% = caller.address; "tokens were issued");
            Ok(tokens(ctx, &grant, ctx.now(), vouched))
        }
        Redemption::Replayed => {
            log::warn!(request:% = caller.id, client:% = client.id, client_name = client.shown_name(), address:% = caller.address; "an authorization code came twice; its grant was revoked");
            Err(invalid_grant("the code was redeemed before; the authorization has been revoked"))
        }
        Redemption::Refused(why) => {
            log::info!(request:% = caller.id, client:% = client.id, client_name = client.shown_name(), address:% = caller.address, reason = why; "an authorization code was refused");
            Err(invalid_grant(why))
        }
    }
}

enum Refresh {
    /// With a word for the log.
    Done(Box<Grant>, &'static str),
    Reuse(Box<Grant>),
    Refused(&'static str),
}

fn refresh_tokens(ctx: &Context, client: &Client, form: &Form, caller: Caller) -> Result<Response, OAuthError> {
    let text =
        form.get("refresh_token").ok_or_else(|| OAuthError::new("invalid_request", "refresh_token is missing"))?;
    let token: RefreshToken =
        ctx.keys.open(text, ctx.now()).map_err(|_| invalid_grant("the refresh token is not valid"))?;

    let lifetimes = ctx.config.lifetimes;
    let client_id = client.id.clone();
    let presented = Presented { generation: token.generation, attempt: token.attempt, since: token.since };
    let email = match is_copy(ctx, client, &token, presented)? {
        // A copy ends the grant, whatever the provider would say of the user, and whether it can be asked or not.
        true => None,
        false => ask_after(ctx, client, &token)?,
    };
    let mut current: Vec<_> = ctx.passwords.current().to_vec();
    current.extend(ctx.providers.all().iter().map(|p| p.credential.clone()));
    let outcome = ctx.state.transact(move |tx| {
        let Some(mut grant) = tx.get::<Grant>(token.grant.as_str())? else {
            return Ok(Refresh::Refused("the refresh token has expired"));
        };
        if grant.client != client_id {
            return Ok(Refresh::Refused("the refresh token was given to another client"));
        }
        let now = tx.now();
        let Phase::Active { rotation, .. } = &mut grant.phase else {
            return Ok(Refresh::Refused("the authorization has ended"));
        };
        if !current.contains(&grant.user.credential) {
            tx.revoke(grant, lifetimes.access_token);
            return Ok(Refresh::Refused("the password, or the way to sign in, has been changed since"));
        }
        match refresh::judge(*rotation, presented, now) {
            Verdict::Rotate(next) => {
                *rotation = next;
                grant.access_token_lifetime = grant.access_token_lifetime.max(lifetimes.access_token);
                if let Some(email) = email {
                    grant.user.email = email;
                }
                grant.expires_at = (now + lifetimes.refresh_idle).min(grant.created_at + lifetimes.refresh_total);
                tx.put(grant.id.as_str(), &grant);
                Ok(Refresh::Done(Box::new(grant), "rotated"))
            }
            Verdict::Repeat => Ok(Refresh::Done(Box::new(grant), "repeated")),
            Verdict::Replace(next) => {
                *rotation = next;
                // Whoever holds the one that is replaced, client or thief, is told apart from here on.
                let until = now + lifetimes.access_token.max(grant.access_token_lifetime);
                if !tx.supersede(&grant.id, next.generation, next.attempt, until)? {
                    tx.revoke(grant.clone(), lifetimes.access_token);
                    return Ok(Refresh::Reuse(Box::new(grant)));
                }
                tx.put(grant.id.as_str(), &grant);
                Ok(Refresh::Done(Box::new(grant), "replaced"))
            }
            Verdict::Reuse => {
                tx.revoke(grant.clone(), lifetimes.access_token);
                Ok(Refresh::Reuse(Box::new(grant)))
            }
            Verdict::Unknown => Ok(Refresh::Refused("the refresh token is not valid")),
        }
    })?;
    match outcome {
        Refresh::Done(grant, how) => {
            // They have been changed this very moment; the next try asks by the new ones, and this token serves again.
            let Some(vouched) = vouch(ctx, &grant.user)? else { return Err(put_off()) };
            log::info!(
                request:% = caller.id, user:% = grant.user.id, client:% = client.id, client_name = client.shown_name(), grant:% = grant.id, address:% = caller.address, how = how;
                "tokens were refreshed"
            );
            Ok(tokens(ctx, &grant, ctx.now(), vouched))
        }
        Refresh::Reuse(grant) => {
            log::warn!(
                request:% = caller.id, user:% = grant.user.id, client:% = client.id, client_name = client.shown_name(), grant:% = grant.id, address:% = caller.address;
                "an old refresh token was used again; its grant was revoked"
            );
            Err(invalid_grant("the refresh token was used before; the authorization has been revoked"))
        }
        Refresh::Refused(why) => {
            log::info!(request:% = caller.id, client:% = client.id, client_name = client.shown_name(), address:% = caller.address, reason = why; "a refresh token was refused");
            Err(invalid_grant(why))
        }
    }
}

/// Is the token a copy of an old one, as far as is known before the transaction that settles it?
fn is_copy(ctx: &Context, client: &Client, token: &RefreshToken, presented: Presented) -> Result<bool, OAuthError> {
    let grant = ctx.state.get::<Grant>(token.grant.as_str())?.filter(|g| g.client == client.id);
    Ok(match grant.map(|g| g.phase) {
        Some(Phase::Active { rotation, .. }) => refresh::judge(rotation, presented, ctx.now()) == Verdict::Reuse,
        _ => false,
    })
}

/// Asks the provider after a user who signed in there: may they still enter? The address that it gives now; `None` for
/// those who signed in by password.
fn ask_after(ctx: &Context, client: &Client, token: &RefreshToken) -> Result<Option<Option<String>>, OAuthError> {
    let grant = ctx.state.get::<Grant>(token.grant.as_str())?;
    let is_live = |g: &Grant| g.client == client.id && matches!(g.phase, Phase::Active { .. });
    let Some(grant) = grant.filter(is_live) else { return Ok(None) };
    if ctx.providers.of_credential(&grant.user.credential).is_none() {
        return Ok(None);
    }
    match ctx.people.ask_after(ctx, &grant.user, grant.created_at) {
        Standing::Allowed(person) => Ok(Some(person.identity.email.clone())),
        Standing::Denied(why) => {
            recheck::end_grant(ctx, &grant.id, &grant.user, &why);
            Err(invalid_grant("the user may not use this server any more, or has to sign in again"))
        }
        Standing::Unknown(why) => {
            log::warn!(user:% = grant.user.id, reason = why.as_str(); "a refresh was put off: the provider can't be asked, and what it said last is too old (--identity-lifetime, IDENTITY_LIFETIME)");
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

/// What stands behind a token of a user.
struct Vouched {
    /// Digest of the provider's rules that let the user in; `None` for a password's user.
    rules: Option<String>,
    /// The address that the provider gave last.
    email: Option<String>,
}

/// `None` when the user may not enter any more.
fn vouch(ctx: &Context, user: &User) -> Result<Option<Vouched>, OAuthError> {
    let Some(provider) = ctx.providers.of_credential(&user.credential) else {
        return Ok(Some(Vouched { rules: None, email: user.email.clone() }));
    };
    let rules = provider.rules();
    if !ctx.people.is_admitted_by(ctx, &user.id, &rules)? {
        return Ok(None);
    }
    let email = ctx.people.get(ctx, &user.id)?.and_then(|person| person.identity.email.clone());
    Ok(Some(Vouched { rules: Some(rules.digest()), email }))
}

/// RFC 6749 section 5.1. The refresh token has nothing but what the grant row has, so that it can be made again.
fn tokens(ctx: &Context, grant: &Grant, now: Timestamp, vouched: Vouched) -> Response {
    let Phase::Active { rotation: Rotation { generation, attempt, since, .. }, .. } = grant.phase else {
        return invalid_grant("the authorization has ended").response();
    };
    let exp = (now + ctx.config.lifetimes.access_token).min(grant.expires_at);
    let access = AccessToken {
        iss: ctx.keys.issuer().to_string(),
        aud: ctx.keys.issuer().to_string(),
        sub: grant.user.id.clone(),
        client_id: grant.client.clone(),
        scope: SCOPE.to_string(),
        jti: random_name(),
        iat: now,
        exp,
        grant: grant.id.clone(),
        generation,
        attempt,
        credential: grant.user.credential.clone(),
        email: vouched.email,
        rules: vouched.rules,
    };
    let refresh = RefreshToken { grant: grant.id.clone(), generation, attempt, since };
    no_store(Response::json(
        StatusCode::OK,
        &json!({
            "access_token": access.sign(&ctx.keys),
            "token_type": "Bearer",
            "expires_in": exp.saturating_sub(now),
            "refresh_token": ctx.keys.seal(&refresh),
            "scope": SCOPE,
        }),
    ))
}
