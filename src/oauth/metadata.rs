//! Discovery documents: protected resource metadata (RFC 9728), authorization server metadata (RFC 8414), the same as
//! OpenID discovery, and an empty key set.

use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::context::Context;
use crate::http::Response;
use crate::identity::{OFFLINE_ACCESS, SCOPE};

/// Where the resource metadata is found; the path of the resource follows.
pub const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";
const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/.well-known/jwks.json";

/// Answers for everything below `/.well-known/`. `endpoint` is the path of the MCP endpoint where there is just one.
pub fn well_known(ctx: &Context, path: &str, endpoint: Option<&str>) -> Response {
    let below = |prefix: &str| path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let document = if let Some(resource) = below(PROTECTED_RESOURCE) {
        protected_resource(ctx, if resource.is_empty() { endpoint.unwrap_or_default() } else { resource })
    } else if below(AUTHORIZATION_SERVER).is_some() {
        authorization_server(ctx)
    } else if below(OPENID_CONFIGURATION).is_some() {
        openid_configuration(ctx)
    } else if path == JWKS {
        json!({"keys": []})
    } else {
        return Response::json(StatusCode::NOT_FOUND, &json!({"error": "not_found"}));
    };
    Response::json(StatusCode::OK, &document).with(CACHE_CONTROL, HeaderValue::from_static("max-age=300"))
}

/// `resource` is what the user typed into the client, so it answers with the path that was asked for.
fn protected_resource(ctx: &Context, path: &str) -> Value {
    json!({
        "resource": ctx.url(path),
        "authorization_servers": [ctx.keys.issuer()],
        "scopes_supported": [SCOPE],
        "bearer_methods_supported": ["header"],
    })
}

fn authorization_server(ctx: &Context) -> Value {
    let methods = ["none", "client_secret_basic", "client_secret_post"];
    json!({
        "issuer": ctx.keys.issuer(),
        "authorization_endpoint": ctx.url("/.idp/auth"),
        "token_endpoint": ctx.url("/.idp/token"),
        "registration_endpoint": ctx.url("/.idp/register"),
        "revocation_endpoint": ctx.url("/.idp/revoke"),
        "jwks_uri": ctx.url(JWKS),
        "scopes_supported": [SCOPE, OFFLINE_ACCESS],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": methods,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
    })
}

fn openid_configuration(ctx: &Context) -> Value {
    let mut document = authorization_server(ctx);
    document["subject_types_supported"] = json!(["public"]);
    // Clients' schemas want the field; there are no ID tokens.
    document["id_token_signing_alg_values_supported"] = json!([]);
    document
}

/// The path of a request, in the form in which it may stand in a quoted header parameter and a URL.
pub fn resource_metadata_url(ctx: &Context, path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&b);
    let suffix = if path == "/" || path.len() > 256 || !path.bytes().all(plain) { "" } else { path };
    format!("{}{suffix}", ctx.url(PROTECTED_RESOURCE))
}
