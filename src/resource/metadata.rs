//! Protected resource metadata (RFC 9728).

use serde_json::{Value, json};

use crate::core::Core;
use crate::identity::SCOPE;

/// Path of the metadata document; the path of the resource is appended.
pub const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// The metadata document. `resource` has to be the URL that the user typed into the client, so it is built from the
/// requested path.
pub fn protected_resource(core: &Core, path: &str) -> Value {
    json!({
        "resource": core.url(path),
        "authorization_servers": [core.keys.issuer()],
        "scopes_supported": [SCOPE],
        "bearer_methods_supported": ["header"],
    })
}

/// The URL of the metadata for a request at `path`. Leaves out a path that is longer than 256 bytes or has characters
/// that are not safe in a quoted header parameter.
pub fn resource_metadata_url(core: &Core, path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&b);
    let suffix = if path == "/" || path.len() > 256 || !path.bytes().all(plain) { "" } else { path };
    format!("{}{suffix}", core.url(PROTECTED_RESOURCE))
}
