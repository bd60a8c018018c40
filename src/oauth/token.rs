//! `POST /.idp/token`: the token endpoint (RFC 6749 section 3.2). Each grant type is handled in its own file.

use super::client_metadata::is_document;
use super::error::OAuthError;
use super::jwt_bearer::{self, JWT_BEARER};
use super::server::AuthorizationServer;
use super::{authorization_code, client_auth, client_credentials, refresh_token, resource};
use crate::http::form::Form;
use crate::http::{Caller, Request, Response};
use crate::login::issuers::AssertionKind;
use crate::observe::events::Kind;

/// Longest client id that is written about a request that is refused, in characters.
const MAX_SHOWN: usize = 200;

/// Answers a token request.
pub fn handle(server: &AuthorizationServer, request: &mut Request<'_>, caller: Caller) -> Response {
    let form = match Form::read(request) {
        Ok(form) => form,
        Err(error) => return client_auth::refusal(&error.into(), &request.parts.headers),
    };
    answer(server, request, &form, caller).unwrap_or_else(|error| {
        let known = grant_types(server);
        let grant_type = form.get("grant_type").filter(|asked| known.contains(asked)).unwrap_or_default();
        let client =
            client_auth::credentials(&request.parts.headers, &form).map(|claimed| claimed.id).unwrap_or_default();
        let client: String = client.chars().take(MAX_SHOWN).collect();
        let event = caller.event(Kind::TokenRequestRefused).with("client", client).with("grant_type", grant_type);
        event.with("error", error.code).with("reason", &error.description).tell();
        client_auth::refusal(&error, &request.parts.headers)
    })
}

/// The grant types that there are now.
pub(super) fn grant_types(server: &AuthorizationServer) -> Vec<&'static str> {
    let mut types = vec!["authorization_code", "refresh_token", "client_credentials"];
    let issuers = &server.login.issuers;
    if issuers.has(AssertionKind::Enterprise) || issuers.has(AssertionKind::Workload) {
        types.push(JWT_BEARER);
    }
    types
}

fn answer(
    server: &AuthorizationServer,
    request: &Request<'_>,
    form: &Form,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let headers = &request.parts.headers;
    let grant_type =
        form.get("grant_type").ok_or_else(|| OAuthError::new("invalid_request", "grant_type is missing"))?;
    let known = grant_types(server);
    if !known.contains(&grant_type) {
        let why = format!("grant_type must be one of {}", known.join(", "));
        return Err(OAuthError::new("unsupported_grant_type", why));
    }
    let resources = || resource::requested(&server.core, form);
    match grant_type {
        "authorization_code" => {
            let prove = |_: &str| authorization_code::verify(server, form).map(drop);
            let client = client_auth::authenticate(server, headers, form, caller, &prove)?;
            authorization_code::redeem(server, &client, form, resources()?, caller)
        }
        "refresh_token" => {
            let prove = |_: &str| refresh_token::verify(server, form).map(drop);
            let client = client_auth::authenticate(server, headers, form, caller, &prove)?;
            refresh_token::refresh(server, &client, form, resources()?, caller)
        }
        "client_credentials" => {
            let prove = |id: &str| if is_document(id) { Err(client_credentials::not_allowed()) } else { Ok(()) };
            let client = client_auth::authenticate(server, headers, form, caller, &prove)?;
            client_credentials::grant(server, &client, form, resources()?, caller)
        }
        _ => jwt_bearer::exchange(server, headers, form, caller),
    }
}
