//! Client ID metadata documents (draft-ietf-oauth-client-id-metadata-document): a client whose id is the https URL of a
//! document that describes it.

use serde::Deserialize;
use serde_json::Value;

use super::client_checks::{MAX_NAME, UNUSED_LIFETIME, check_redirect_uris};
use super::error::OAuthError;
use crate::clock::Timestamp;
use crate::identity::ClientId;
use crate::store::rows::{AuthMethod, Client, ClientKeys};
use crate::tokens::jwt::KeySet;

#[derive(Deserialize)]
struct Document {
    client_id: Option<String>,
    client_name: Option<String>,
    redirect_uris: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    application_type: Option<String>,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    client_secret: Option<Value>,
    client_secret_expires_at: Option<Value>,
}

/// Does this client id name a document?
pub fn is_document(id: &str) -> bool {
    id.starts_with("https://")
}

/// Checks the document at `url` and returns the client that it describes.
pub fn parse(url: &str, body: &[u8], now: Timestamp) -> Result<Client, OAuthError> {
    let bad = |text: &str| OAuthError::new("invalid_client_metadata", text);
    let document: Document =
        serde_json::from_slice(body).map_err(|_| bad("the document is not a JSON object with client metadata"))?;
    // Compared byte for byte: another spelling is another client.
    if document.client_id.as_deref() != Some(url) {
        return Err(bad("client_id in the document is not its URL"));
    }
    let name =
        document.client_name.filter(|name| !name.trim().is_empty()).ok_or_else(|| bad("client_name is missing"))?;
    let redirect_uris = document.redirect_uris.unwrap_or_default();
    let is_local = check_redirect_uris(&redirect_uris)?;
    // Everybody can read the document, so a secret in it is none.
    let has_secret = document.client_secret.is_some() || document.client_secret_expires_at.is_some();
    if has_secret || document.jwks.as_ref().is_some_and(KeySet::has_secrets) {
        return Err(bad("the document has a secret or a private key in it, which everybody can read"));
    }
    let keys = match (document.jwks, document.jwks_uri) {
        (Some(_), Some(_)) => return Err(bad("the document has jwks and jwks_uri; it may have one of them")),
        (Some(jwks), None) => Some(ClientKeys::Jwks(jwks)),
        (None, Some(uri)) => Some(ClientKeys::JwksUri(uri)),
        (None, None) => None,
    };
    let auth_method = match document.token_endpoint_auth_method.as_deref() {
        Some("private_key_jwt") if keys.is_some() => AuthMethod::PrivateKeyJwt,
        Some("private_key_jwt") => return Err(bad("the document declares private_key_jwt, but names no keys")),
        Some(method) if method.starts_with("client_secret") => {
            return Err(bad("the document declares a method with a shared secret, which it can't have"));
        }
        _ => AuthMethod::None,
    };
    if document.grant_types.is_some_and(|g| !g.is_empty() && !g.iter().any(|t| t == "authorization_code")) {
        return Err(bad("grant_types must include authorization_code"));
    }
    if document.response_types.is_some_and(|r| !r.is_empty() && !r.iter().any(|t| t == "code")) {
        return Err(bad("response_types must include code"));
    }
    let application_type = match document.application_type.as_deref() {
        Some(known @ ("web" | "native")) => known,
        _ if is_local => "native",
        _ => "web",
    };
    Ok(Client {
        id: ClientId(url.to_string()),
        name: Some(name.chars().take(MAX_NAME).collect()),
        redirect_uris,
        auth_method,
        application_type: Some(application_type.to_string()),
        issued_at: now,
        used: false,
        used_by: None,
        network: None,
        secret_digests: Vec::new(),
        keys,
        preregistered: None,
        expires_at: now + UNUSED_LIFETIME,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const URL: &str = "https://app.example/client.json";

    fn of(change: impl FnOnce(&mut Value)) -> Result<Client, OAuthError> {
        let mut document =
            json!({"client_id": URL, "client_name": "App", "redirect_uris": ["https://app.example/callback"]});
        change(&mut document);
        parse(URL, document.to_string().as_bytes(), 1_000)
    }

    #[test]
    fn a_document_describes_a_public_client() {
        let client = of(|_| {}).unwrap();
        assert_eq!((client.id.as_str(), client.shown_name(), client.auth_method), (URL, "App", AuthMethod::None));
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}]});
        let client = of(|d| {
            d["token_endpoint_auth_method"] = "private_key_jwt".into();
            d["jwks"] = keys.clone();
        });
        assert_eq!(client.unwrap().auth_method, AuthMethod::PrivateKeyJwt);
    }

    #[test]
    fn a_document_that_lies_or_has_a_secret_is_refused() {
        type Change = fn(&mut Value);
        let wrong: [(&str, Change); 13] = [
            ("not its URL", |d| d["client_id"] = "https://app.example/client.json/".into()),
            ("not its URL", |d| drop(d.as_object_mut().unwrap().remove("client_id"))),
            ("client_name", |d| drop(d.as_object_mut().unwrap().remove("client_name"))),
            ("client_name", |d| d["client_name"] = " ".into()),
            ("redirect_uris", |d| d["redirect_uris"] = json!([])),
            ("redirect URI", |d| d["redirect_uris"] = json!(["javascript:alert(1)"])),
            ("secret", |d| d["client_secret"] = "x".into()),
            ("secret", |d| d["client_secret_expires_at"] = 0.into()),
            ("secret", |d| d["token_endpoint_auth_method"] = "client_secret_post".into()),
            ("private key", |d| d["jwks"] = json!({"keys": [{"kty": "EC", "d": "x"}]})),
            ("private key", |d| d["jwks"] = json!({"keys": [{"kty": "oct", "k": "x"}]})),
            ("no keys", |d| d["token_endpoint_auth_method"] = "private_key_jwt".into()),
            ("authorization_code", |d| d["grant_types"] = json!(["client_credentials"])),
        ];
        for (reason, change) in wrong {
            let refused = of(change).unwrap_err();
            assert!(refused.description.contains(reason), "{reason}: {}", refused.description);
        }
        assert!(parse(URL, b"<html>", 0).is_err() && parse(URL, b"[]", 0).is_err());
    }
}
