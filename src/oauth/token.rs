//! `POST /.idp/token`: the token endpoint (RFC 6749 section 3.2). Each grant type is handled in its own file.

use super::error::OAuthError;
use super::server::AuthorizationServer;
use super::{authorization_code, client_auth, refresh_token, resource};
use crate::http::form::Form;
use crate::http::{Caller, Request, Response};

/// Answers a token request.
pub fn handle(server: &AuthorizationServer, request: &mut Request<'_>, caller: Caller) -> Response {
    let result = Form::read(request).map_err(OAuthError::from).and_then(|form| answer(server, request, &form, caller));
    result.unwrap_or_else(|error| {
        log::debug!(request:% = caller.id, address:% = caller.address, error = error.code; "a token request was refused");
        client_auth::refusal(&error, &request.parts.headers)
    })
}

fn answer(
    server: &AuthorizationServer,
    request: &Request<'_>,
    form: &Form,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let grant_type =
        form.get("grant_type").ok_or_else(|| OAuthError::new("invalid_request", "grant_type is missing"))?;
    let grant = match grant_type {
        "authorization_code" => authorization_code::redeem,
        "refresh_token" => refresh_token::refresh,
        _ => {
            let known = "grant_type must be authorization_code or refresh_token";
            return Err(OAuthError::new("unsupported_grant_type", known));
        }
    };
    let client = client_auth::authenticate(&server.core, &request.parts.headers, form)?;
    let resources = resource::requested(&server.core, form)?;
    grant(server, &client, form, resources, caller)
}
