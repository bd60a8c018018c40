//! Base64url, and SHA-256 digests in base64url.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Base64 with the URL-safe alphabet and no padding.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// SHA-256, in base64url.
pub fn digest(data: &[u8]) -> String {
    base64url(Sha256::digest(data))
}
