//! One sign-in at a provider: the parameters of the authorization request, and the tokens that result.

use serde::{Deserialize, Serialize};

use crate::encoding::base64url;
use crate::tokens::{Keys, Kind};

/// Parameters of one authorization request to a provider.
pub struct AuthorizationParameters<'h> {
    /// The proxy's callback URL at this provider.
    pub redirect_uri: &'h str,
    /// The `state` parameter, which identifies the sign-in.
    pub state: &'h str,
    /// PKCE challenge (RFC 7636).
    pub challenge: &'h str,
    /// The `nonce` that the ID token must contain.
    pub nonce: &'h str,
    /// The person wants to choose another account.
    pub another_account: bool,
    /// The provider should ask for consent again, even if the person gave it before.
    pub consent: bool,
}

/// Tokens of the provider for later requests; encrypted in the store.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderTokens {
    /// Refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// Access token, where it lasts (GitHub).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
}

/// Result of a token refresh at a provider.
pub struct Renewed {
    /// Tokens to store.
    pub tokens: ProviderTokens,
    /// Access token for requests to the provider now.
    pub access: String,
    /// ID token, if one came.
    pub id_token: Option<String>,
    /// The provider sent no ID token although the `openid` scope was requested: claims may be missing that were there
    /// before.
    pub lacks_claims: bool,
}

/// PKCE verifier and nonce of a sign-in. Both are derived from the `state` and the browser's secret name, so that the
/// proxy stores neither, and somebody who sees the `state` cannot compute them.
pub fn pkce_and_nonce(keys: &Keys, state: &str, browser: &str) -> (String, String) {
    let make = |what: &str| base64url(keys.mac(Kind::PkceAndNonce, format!("{what}\0{browser}\0{state}").as_bytes()));
    (make("verifier"), make("nonce"))
}
