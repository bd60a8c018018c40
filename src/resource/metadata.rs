//! Protected resource metadata (RFC 9728).

use serde_json::{Value, json};

use super::protected::{ProtectedResources, Target};
use crate::core::Core;
use crate::identity::SCOPE;

/// Path of the metadata document; the path of the resource is appended.
pub const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// The metadata document of the server at `path`; `None` if there is none. `resource` has to be the URL that the user typed
/// into the client. So a server that has the whole origin is named by the requested path.
pub fn protected_resource(core: &Core, resources: &ProtectedResources, path: &str) -> Option<Value> {
    let (resource, name) = match resources.whole() {
        Some(whole) if path.is_empty() => {
            (core.url(whole.upstream.endpoint().unwrap_or_default()), whole.title.clone())
        }
        Some(whole) => {
            resources.at(path)?;
            (core.url(path), whole.title.clone())
        }
        None => {
            let path = if path.is_empty() { "/mcp" } else { path };
            let target = resources.at(path)?;
            (core.url(target.endpoint(path)), target.resource.title.clone())
        }
    };
    let mut document = json!({
        "resource": resource,
        "authorization_servers": [core.keys.issuer()],
        "scopes_supported": [SCOPE],
        "bearer_methods_supported": ["header"],
    });
    if !name.is_empty() {
        document["resource_name"] = name.into();
    }
    Some(document)
}

/// The URL of the metadata for a request at `path`, which leads to `target`. Leaves out a path that is longer than 256
/// bytes or has characters that are not safe in a quoted header parameter.
pub fn resource_metadata_url(core: &Core, resources: &ProtectedResources, target: &Target, path: &str) -> String {
    let path = if resources.whole().is_some() { path } else { target.endpoint(path) };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&b);
    let suffix = if path == "/" || path.len() > 256 || !path.bytes().all(plain) { "" } else { path };
    format!("{}{suffix}", core.url(PROTECTED_RESOURCE))
}
