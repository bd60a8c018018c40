//! The parameter `resource` (RFC 8707) at the authorization and token endpoints.

use super::error::OAuthError;
use crate::core::Core;
use crate::http::form::Form;
use crate::resource_url::{ResourceUrl, Resources};
use crate::store::rows::Grant;

/// Most resources in one request: they are in each access token.
const MAX_RESOURCES: usize = 8;

/// What the request asks for, `None` if it names no resource. Each one must be a URL on the external origin; otherwise the
/// error is `invalid_target` (RFC 8707 section 2).
pub(super) fn requested(core: &Core, form: &Form) -> Result<Option<Resources>, OAuthError> {
    let origin = &core.external.origin;
    let urls: Vec<&str> = form.all("resource").collect();
    if urls.len() > MAX_RESOURCES {
        return Err(invalid_target(format!("there are more than {MAX_RESOURCES} resources")));
    }
    let urls: Option<Vec<ResourceUrl>> = urls.into_iter().map(|url| ResourceUrl::parse(url, origin)).collect();
    let urls = urls.ok_or_else(|| invalid_target(format!("the resource is not a URL on {origin}")))?;
    Ok((!urls.is_empty()).then(|| Resources::new(urls, origin)))
}

/// The audience of an access token: what the token request asks for, or else everything that the grant is for. It is an
/// error to ask for more than that (RFC 8707 section 2.2).
pub(super) fn audience(grant: &Grant, requested: Option<&Resources>, origin: &str) -> Result<Resources, OAuthError> {
    // Grants of earlier versions name no resource: they are for the whole origin.
    let granted = grant.resources.clone().unwrap_or_else(|| Resources::new(Vec::new(), origin));
    match requested {
        None => Ok(granted),
        Some(requested) if granted.include(requested) => Ok(requested.clone()),
        Some(_) => Err(not_granted()),
    }
}

/// The error for a token request that asks for more than was granted.
pub(super) fn not_granted() -> OAuthError {
    invalid_target("the authorization is not for this resource".into())
}

fn invalid_target(description: String) -> OAuthError {
    OAuthError::new("invalid_target", description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_of_an_earlier_version_is_for_the_whole_origin() {
        let row = r#"{"id":"g","user":{"id":"password","credential":"k"},"client":"c","auth_method":"none","phase":"revoked",
            "access_token_lifetime":3600,"created_at":1,"expires_at":2}"#;
        let grant: Grant = serde_json::from_str(row).unwrap();
        let origin = "https://mcp.example.com";
        assert_eq!(audience(&grant, None, origin).unwrap(), Resources::new(Vec::new(), origin));
        let narrower = Resources::new(vec![ResourceUrl::parse("https://mcp.example.com/mcp", origin).unwrap()], origin);
        assert_eq!(audience(&grant, Some(&narrower), origin).unwrap(), narrower);
    }
}
