//! One sign-in at a provider: what the proxy sends the browser there with, and what it gets.

use serde::{Deserialize, Serialize};

use crate::encoding::base64url;
use crate::tokens::{Keys, Kind};

/// What goes with the browser to the provider and back.
pub struct Hop<'h> {
    /// Where it comes back to.
    pub redirect_uri: &'h str,
    /// Names the sign-in.
    pub state: &'h str,
    /// PKCE challenge (RFC 7636).
    pub challenge: &'h str,
    /// Comes back in the ID token.
    pub nonce: &'h str,
    /// The person wants to choose another account.
    pub another_account: bool,
    /// The person is to be asked for consent, though it was given before.
    pub consent: bool,
}

/// What the provider gave for later; sealed where it is kept.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderTokens {
    /// Refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// Access token, where it lasts (GitHub).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
}

/// New tokens: those to keep, and those to ask with.
pub struct Renewed {
    /// To keep.
    pub tokens: ProviderTokens,
    /// Access token.
    pub access: String,
    /// ID token, if one came.
    pub id_token: Option<String>,
    /// None came where one could: what is known now may be less than before.
    pub lacks_claims: bool,
}

/// PKCE verifier and nonce of a sign-in: derived from its state and the browser's secret name, so that neither is kept
/// anywhere, and nobody who sees the state can make them.
pub fn hop_secrets(keys: &Keys, state: &str, browser: &str) -> (String, String) {
    let make = |what: &str| base64url(keys.mac(Kind::HopSecret, format!("{what}\0{browser}\0{state}").as_bytes()));
    (make("verifier"), make("nonce"))
}
