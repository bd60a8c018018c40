//! `POST /.idp/introspect`: token introspection (RFC 7662), for resource servers that the operator has registered.

use http::StatusCode;
use serde_json::{Value, json};

use super::client_auth;
use super::client_credentials::not_allowed;
use super::error::{OAuthError, no_store};
use super::server::AuthorizationServer;
use crate::http::form::Form;
use crate::http::{Caller, Request, Response};
use crate::identity::SCOPE;
use crate::login::api_keys;
use crate::resource::bearer;
use crate::resource::protected::ProtectedResource;
use crate::store::rows::AuthMethod;
use crate::tokens::access::AccessToken;

/// Answers an introspection request. Whatever is wrong with the token, the answer is only that it is not active (section 2.2).
pub fn handle(server: &AuthorizationServer, request: &mut Request<'_>, caller: Caller) -> Response {
    let result =
        Form::read(request).map_err(OAuthError::from).and_then(|form| introspect(server, request, &form, caller));
    match result {
        Ok(answer) => no_store(Response::json(StatusCode::OK, &answer)),
        Err(error) => client_auth::refusal(&error, &request.parts.headers),
    }
}

fn introspect(
    server: &AuthorizationServer,
    request: &Request<'_>,
    form: &Form,
    caller: Caller,
) -> Result<Value, OAuthError> {
    let has_document = |id: &str| if super::client_metadata::is_document(id) { Err(not_allowed()) } else { Ok(()) };
    let asker = client_auth::authenticate(server, &request.parts.headers, form, caller, &has_document)?;
    let of = asker.client.preregistered.as_ref().filter(|of| of.introspects && asker.how != AuthMethod::None);
    let of = of.ok_or_else(not_allowed)?;
    let token = form.get("token").ok_or_else(|| OAuthError::new("invalid_request", "token is missing"))?;
    let published = server.resources.now();
    let is_its = |resource: &&ProtectedResource| of.servers.is_empty() || of.servers.contains(&resource.name);
    let its: Vec<&ProtectedResource> = published.all().iter().map(|resource| &**resource).filter(is_its).collect();
    let login = &server.login;
    let now = server.core.now();
    let inactive = json!({"active": false});
    if token.starts_with(api_keys::PREFIX) {
        let Ok(key) = login.api_keys.find(token, now) else { return Ok(inactive) };
        let Some(principal) = its.iter().find_map(|resource| bearer::of_key(&key, resource).ok()) else {
            return Ok(inactive);
        };
        let opens = published.all().iter().filter(|resource| bearer::of_key(&key, resource).is_ok());
        let aud: Vec<&str> = opens.map(|resource| resource.url().as_str()).collect();
        return Ok(json!({
            "active": true, "scope": SCOPE, "client_id": principal.client, "sub": principal.user, "token_type": "Bearer",
            "exp": key.expires_at, "iat": key.created_at, "aud": aud, "iss": server.core.keys.issuer(),
        }));
    }
    let Ok(token) = AccessToken::verify(token, &server.core.keys, now) else { return Ok(inactive) };
    let is_active = |resource: &&ProtectedResource| {
        published.concerns(&token.aud, !token.servers.is_empty(), resource)
            && bearer::check(login, resource, &token).is_ok()
    };
    if !its.iter().copied().any(|resource| is_active(&resource)) {
        return Ok(inactive);
    }
    let mut answer = json!({
        "active": true, "scope": token.scope, "client_id": token.client_id, "sub": token.sub, "token_type": "Bearer",
        "exp": token.exp, "iat": token.iat, "aud": token.aud, "iss": token.iss, "jti": token.jti,
    });
    if let Some(email) = &token.email {
        answer["username"] = email.as_str().into();
    }
    Ok(answer)
}
