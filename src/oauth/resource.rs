//! Resource indicators (RFC 8707). There is only one resource, the external origin.

use super::error::OAuthError;
use crate::http::form::Form;
use crate::url::ExternalUrl;

/// Checks every `resource` parameter. Each must be a URL on the external origin; without any, the check passes.
pub fn check(form: &Form, external: &ExternalUrl) -> Result<(), OAuthError> {
    match form.all("resource").all(|r| is_ours(r, external)) {
        true => Ok(()),
        false => Err(OAuthError::new("invalid_target", format!("the resource is not on {}", external.origin))),
    }
}

fn is_ours(resource: &str, external: &ExternalUrl) -> bool {
    let Some((scheme, after)) = resource.split_once("://") else { return false };
    if resource.contains(['#', '\\']) {
        return false;
    }
    let authority = &after[..after.find(['/', '?']).unwrap_or(after.len())];
    ExternalUrl::parse(&format!("{scheme}://{authority}")).is_ok_and(|url| url.origin == external.origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_url_on_the_origin_and_none_elsewhere() {
        let ours = ExternalUrl::parse("https://mcp.example.com").unwrap();
        let check = |query: &str| check(&Form::parse(query.as_bytes()).unwrap(), &ours).is_ok();
        assert!(check("") && check("resource="));
        for good in ["https://mcp.example.com", "https://mcp.example.com/", "https://MCP.example.com:443/mcp?x=1"] {
            assert!(check(&format!("resource={good}")), "{good}");
        }
        for bad in [
            "http://mcp.example.com",
            "https://mcp.example.com.evil",
            "https://evil/mcp.example.com",
            "https://u@mcp.example.com",
            "https://mcp.example.com:8443",
            "https://mcp.example.com%23f",
            "/mcp",
            "mcp.example.com",
            "https://mcp.example.com%5c@evil",
        ] {
            assert!(!check(&format!("resource={bad}")), "{bad}");
        }
        assert!(check("resource=https://mcp.example.com/a&resource=https://mcp.example.com/b"));
        assert!(!check("resource=https://mcp.example.com/a&resource=https://evil"), "a mixture");
    }
}
