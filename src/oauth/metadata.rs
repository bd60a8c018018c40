//! Discovery documents: authorization server metadata (RFC 8414), the same as OpenID discovery document, and the
//! keys of identity assertions. The metadata of the protected resource is in [`resource::metadata`](crate::resource::metadata).

use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::clients::Registration;
use super::server::AuthorizationServer;
use super::token;
use crate::http::Response;
use crate::identity::{OFFLINE_ACCESS, SCOPE};
use crate::login::issuers::AssertionKind;
use crate::resource::metadata;
use crate::tokens::jwt::ALGORITHMS;

const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
/// Found in `authorization_grant_profiles_supported` where identity assertions are accepted.
const ID_JAG_PROFILE: &str = "urn:ietf:params:oauth:grant-profile:id-jag";
const JWKS: &str = "/.well-known/jwks.json";

/// Answers every request below `/.well-known/`.
pub fn well_known(server: &AuthorizationServer, path: &str) -> Response {
    let (core, resources) = (&*server.core, &*server.resources.now());
    let not_found = || Response::json(StatusCode::NOT_FOUND, &json!({"error": "not_found"}));
    let below = |prefix: &str| path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let document = if let Some(resource) = below(metadata::PROTECTED_RESOURCE) {
        match metadata::protected_resource(core, resources, resource) {
            Some(document) => document,
            None => return not_found(),
        }
    } else if below(AUTHORIZATION_SERVER).is_some() {
        authorization_server(server)
    } else if below(OPENID_CONFIGURATION).is_some() {
        openid_configuration(server)
    } else if path == JWKS {
        json!({"keys": server.assertions.as_ref().map(|key| key.now().jwks(core.now())).unwrap_or_default()})
    } else {
        return not_found();
    };
    Response::json(StatusCode::OK, &document).with(CACHE_CONTROL, HeaderValue::from_static("max-age=300"))
}

fn authorization_server(server: &AuthorizationServer) -> Value {
    let core = &*server.core;
    let methods = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"];
    let mut document = json!({
        "issuer": core.keys.issuer(),
        "authorization_endpoint": core.url("/.idp/auth"),
        "token_endpoint": core.url("/.idp/token"),
        "revocation_endpoint": core.url("/.idp/revoke"),
        "introspection_endpoint": core.url("/.idp/introspect"),
        "jwks_uri": core.url(JWKS),
        "scopes_supported": [SCOPE, OFFLINE_ACCESS],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": token::grant_types(server),
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "introspection_endpoint_auth_methods_supported": methods[1..],
        "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": server.clients.policy.has_documents,
    });
    if server.clients.policy.registration != Registration::Off {
        document["registration_endpoint"] = core.url("/.idp/register").into();
    }
    if server.login.issuers.has(AssertionKind::Enterprise) {
        document["authorization_grant_profiles_supported"] = json!([ID_JAG_PROFILE]);
    }
    document
}

fn openid_configuration(server: &AuthorizationServer) -> Value {
    let mut document = authorization_server(server);
    document["subject_types_supported"] = json!(["public"]);
    // The schemas of some clients require this field, although this server issues no ID tokens.
    document["id_token_signing_alg_values_supported"] = json!([]);
    document
}
