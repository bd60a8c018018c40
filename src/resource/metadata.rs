//! Protected resource metadata (RFC 9728).

use serde_json::{Value, json};

use crate::core::Core;
use crate::identity::SCOPE;

/// Where the metadata is found; the path of the resource follows.
pub const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// `resource` is what the user typed into the client, so it answers with the path that was asked for.
pub fn protected_resource(core: &Core, path: &str) -> Value {
    json!({
        "resource": core.url(path),
        "authorization_servers": [core.keys.issuer()],
        "scopes_supported": [SCOPE],
        "bearer_methods_supported": ["header"],
    })
}

/// The URL of the metadata for a request at `path`. A path that may not stand in a quoted header parameter is left out.
pub fn resource_metadata_url(core: &Core, path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&b);
    let suffix = if path == "/" || path.len() > 256 || !path.bytes().all(plain) { "" } else { path };
    format!("{}{suffix}", core.url(PROTECTED_RESOURCE))
}
