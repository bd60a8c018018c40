//! What is the same for clients that register themselves and for those with a metadata document.

use super::error::OAuthError;
use crate::redirect_uri::{Destination, RedirectUri};

const MAX_REDIRECT_URIS: usize = 32;
/// Longest name of a client, in characters.
pub(super) const MAX_NAME: usize = 256;
/// Maximum total size of a client's redirect URIs, in bytes: anyone may register, and must not fill the disk.
const MAX_REDIRECT_BYTES: usize = 4 << 10;
/// How long a registration that no user has authorized is kept, in seconds.
pub(super) const UNUSED_LIFETIME: u64 = 30 * 86_400;

/// Checks redirect URIs (RFC 7591 section 5); true when all of them lead to the user's own machine.
pub(super) fn check_redirect_uris(redirect_uris: &[String]) -> Result<bool, OAuthError> {
    let bad = |why: String| OAuthError::new("invalid_redirect_uri", why);
    if redirect_uris.is_empty() {
        return Err(bad("redirect_uris is missing or empty".into()));
    }
    if redirect_uris.len() > MAX_REDIRECT_URIS {
        return Err(bad(format!("there are more than {MAX_REDIRECT_URIS} redirect_uris")));
    }
    if redirect_uris.iter().map(String::len).sum::<usize>() > MAX_REDIRECT_BYTES {
        return Err(bad(format!("the redirect_uris have more than {MAX_REDIRECT_BYTES} bytes together")));
    }
    let mut is_local = true;
    for uri in redirect_uris {
        let uri = RedirectUri::parse(uri).map_err(|why| bad(format!("a redirect URI is refused: {why}")))?;
        is_local &= uri.destination() != Destination::Web;
    }
    Ok(is_local)
}
