//! Discovery documents: authorization server metadata (RFC 8414), the same as OpenID discovery document, and an empty
//! key set. The metadata of the protected resource is in [`resource::metadata`](crate::resource::metadata).

use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::core::Core;
use crate::http::Response;
use crate::identity::{OFFLINE_ACCESS, SCOPE};
use crate::resource::metadata;
use crate::resource::protected::ProtectedResources;

const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/.well-known/jwks.json";

/// Answers every request below `/.well-known/`.
pub fn well_known(core: &Core, resources: &ProtectedResources, path: &str) -> Response {
    let not_found = || Response::json(StatusCode::NOT_FOUND, &json!({"error": "not_found"}));
    let below = |prefix: &str| path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let document = if let Some(resource) = below(metadata::PROTECTED_RESOURCE) {
        match metadata::protected_resource(core, resources, resource) {
            Some(document) => document,
            None => return not_found(),
        }
    } else if below(AUTHORIZATION_SERVER).is_some() {
        authorization_server(core)
    } else if below(OPENID_CONFIGURATION).is_some() {
        openid_configuration(core)
    } else if path == JWKS {
        json!({"keys": []})
    } else {
        return not_found();
    };
    Response::json(StatusCode::OK, &document).with(CACHE_CONTROL, HeaderValue::from_static("max-age=300"))
}

fn authorization_server(core: &Core) -> Value {
    let methods = ["none", "client_secret_basic", "client_secret_post"];
    json!({
        "issuer": core.keys.issuer(),
        "authorization_endpoint": core.url("/.idp/auth"),
        "token_endpoint": core.url("/.idp/token"),
        "registration_endpoint": core.url("/.idp/register"),
        "revocation_endpoint": core.url("/.idp/revoke"),
        "jwks_uri": core.url(JWKS),
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

fn openid_configuration(core: &Core) -> Value {
    let mut document = authorization_server(core);
    document["subject_types_supported"] = json!(["public"]);
    // The schemas of some clients require this field, although this server issues no ID tokens.
    document["id_token_signing_alg_values_supported"] = json!([]);
    document
}
