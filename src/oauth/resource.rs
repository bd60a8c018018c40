//! The parameter `resource` (RFC 8707) at the authorization and token endpoints.

use super::error::OAuthError;
use crate::core::Core;
use crate::http::form::Form;
use crate::identity::GrantId;
use crate::login::Login;
use crate::resource::protected::ProtectedResources;
use crate::resource_url::{ResourceUrl, Resources};
use crate::store::StoreError;
use crate::store::rows::Grant;

/// Most resources in one request: they are in each access token.
pub(super) const MAX_RESOURCES: usize = 8;

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

/// What an authorization request is for: the resources that it asks for, which must be published here. If it asks for none,
/// the whole origin where one server has that, else `None`.
pub(super) fn to_authorize(
    core: &Core,
    published: &ProtectedResources,
    requested: Option<Resources>,
) -> Result<Option<Resources>, OAuthError> {
    match requested {
        Some(resources) if resources.urls().iter().all(|url| published.can_be_requested(url)) => Ok(Some(resources)),
        Some(_) => Err(invalid_target("no MCP server is published at this URL".into())),
        None => Ok(published.whole().map(|_| Resources::new(Vec::new(), &core.external.origin))),
    }
}

/// What a grant is for. Grants of earlier versions name no resource: they are for the whole origin.
fn granted(grant: &Grant, origin: &str) -> Resources {
    grant.resources.clone().unwrap_or_else(|| Resources::new(Vec::new(), origin))
}

/// The resources of a grant whose servers do not admit its user any more.
pub(super) fn denied(
    login: &Login,
    published: &ProtectedResources,
    grant: &GrantId,
) -> Result<Vec<ResourceUrl>, StoreError> {
    let mut denied = Vec::new();
    let Some(grant) = login.core.state.get::<Grant>(grant.as_str())? else { return Ok(denied) };
    for url in granted(&grant, &login.core.external.origin).urls() {
        if let Some(server) = published.named_for(url, grant.of_file)
            && !server.is_open_to_grant(login, &grant)?
        {
            denied.push(url.clone());
        }
    }
    Ok(denied)
}

/// Takes resources out of a grant. False if none is left.
pub(super) fn withdraw(grant: &mut Grant, denied: &[ResourceUrl], origin: &str) -> bool {
    if denied.is_empty() {
        return true;
    }
    match granted(grant, origin).filter(|url| !denied.contains(url)) {
        Some(left) => {
            grant.resources = Some(left);
            true
        }
        None => false,
    }
}

/// The audience of an access token: what the token request asks for, or else everything that the grant is for and that is
/// published now. It is an error to ask for more than that (RFC 8707 section 2.2).
pub(super) fn audience(
    published: &ProtectedResources,
    grant: &Grant,
    requested: Option<&Resources>,
    origin: &str,
) -> Result<Resources, OAuthError> {
    let granted = granted(grant, origin);
    match requested {
        None => granted
            .filter(|url| published.named_for(url, grant.of_file).is_some())
            .ok_or_else(|| invalid_target("no MCP server of this authorization is published at the moment".into())),
        Some(requested) if requested.urls().iter().all(|url| published.include(&granted, grant.of_file, url)) => {
            Ok(requested.clone())
        }
        Some(_) => Err(not_granted()),
    }
}

/// The error for a token request that asks for more than was granted.
pub(super) fn not_granted() -> OAuthError {
    invalid_target("the authorization is not for this resource".into())
}

pub(super) fn invalid_target(description: String) -> OAuthError {
    OAuthError::new("invalid_target", description)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::protected::ProtectedResource;

    #[test]
    fn a_grant_of_an_earlier_version_is_for_the_whole_origin() {
        let row = r#"{"id":"g","user":{"id":"password","credential":"k"},"client":"c","auth_method":"none","phase":"revoked",
            "access_token_lifetime":3600,"created_at":1,"expires_at":2}"#;
        let grant: Grant = serde_json::from_str(row).unwrap();
        let origin = "https://mcp.example.com";
        let one = || ProtectedResources::one(ProtectedResource::sample(origin, ""));
        assert_eq!(audience(&one(), &grant, None, origin).unwrap(), Resources::new(Vec::new(), origin));
        let narrower = Resources::new(vec![ResourceUrl::parse("https://mcp.example.com/mcp", origin).unwrap()], origin);
        assert_eq!(audience(&one(), &grant, Some(&narrower), origin).unwrap(), narrower);
    }
}
