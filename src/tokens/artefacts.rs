//! The signed artefacts besides access tokens.

use serde::{Deserialize, Serialize};

use super::keys::{Artefact, Kind};
use crate::clock::Timestamp;
use crate::identity::ProviderId;
use crate::identity::{ClientId, CredentialId, GrantId, SessionId};
use crate::store::rows::Client;

/// How long an authorization code is good for (RFC 6749 section 4.1.2 allows ten minutes at most).
pub const CODE_LIFETIME: u64 = 60;
/// How long a user may take over sign-in and consent.
pub const REQUEST_LIFETIME: u64 = 15 * 60;
/// How long a browser is remembered as one that has signed in.
pub const DEVICE_LIFETIME: u64 = 180 * 86_400;

/// An authorization code: names the grant row that waits for it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationCode {
    /// The pending grant.
    pub grant: GrantId,
    /// End.
    pub exp: Timestamp,
}

/// A refresh token. It has nothing but what the grant row has too, so that the same one can be made again.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct RefreshToken {
    /// The grant.
    pub grant: GrantId,
    /// Which of the grant's refresh tokens.
    pub generation: u64,
    /// Which attempt to hand that one out.
    #[serde(default)]
    pub attempt: u64,
    /// When it was made.
    pub since: Timestamp,
}

/// What a client asked for, carried by the pages while the user decides. Bound to one browser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationRequest {
    /// Tells it from others: each leads to a few grants at most.
    pub id: String,
    /// The client, known and checked.
    pub client: ClientId,
    /// Its registration, where that may be gone by the time that the user has decided: nobody has used it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<Box<Client>>,
    /// Where the answer goes, proven to be the client's.
    pub redirect_uri: String,
    /// The redirect URI was in the request and not supplied by the registration (RFC 6749 section 4.1.3).
    pub redirect_uri_given: bool,
    /// The client's own, returned as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// PKCE challenge, S256 (RFC 7636).
    pub code_challenge: String,
    /// The client asked for a new sign-in: a session is not enough.
    #[serde(default)]
    pub sign_in_anew: bool,
    /// The client asked that the user choose an account.
    #[serde(default)]
    pub select_account: bool,
    /// Digest of the session that the page was made for: the consent is its user's and nobody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Digest of the browser cookie.
    pub browser: String,
    /// End.
    pub exp: Timestamp,
}

/// Cookie of a signed-in browser.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionCookie {
    /// The row.
    pub session: SessionId,
    /// End.
    pub exp: Timestamp,
}

/// Cookie that tells browsers apart; forms are bound to it, which is what defeats forged requests.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct BrowserCookie {
    /// Random.
    pub browser: String,
}

/// Proves that a form was made for the browser that sends it: sign-in without a client, sign-out.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct PlainForm {
    /// Digest of the browser cookie.
    pub browser: String,
    /// End.
    pub exp: Timestamp,
}

/// Cookie of a browser in which somebody has signed in by password before: it has a throttle of its own.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceCookie {
    /// Random.
    pub device: String,
    /// The password that was right; with another, the browser is a stranger's.
    pub credential: CredentialId,
    /// End.
    pub exp: Timestamp,
}

/// An `Mcp-Session-Id`: names a session, and is of no use to anyone but its owner.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct McpSessionId {
    /// The session.
    pub session: String,
    /// Digest of user and client.
    pub owner: String,
}

/// A sign-in at a provider that is under way: comes back in `state`, to the browser that it was made for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ProviderState {
    /// At which provider.
    pub provider: ProviderId,
    /// What for; `None` when no client asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<AuthorizationRequest>>,
    /// Tells it from others.
    pub id: String,
    /// The person is asked for consent at the provider for a second time, so as to get a refresh token.
    #[serde(default)]
    pub consent: bool,
    /// Digest of the browser cookie.
    pub browser: String,
    /// End.
    pub exp: Timestamp,
}

impl Artefact for ProviderState {
    const KIND: Kind = Kind::ProviderState;
    fn expires_at(&self) -> Option<Timestamp> {
        Some(self.exp)
    }
}

impl Artefact for McpSessionId {
    const KIND: Kind = Kind::McpSession;
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }
}

impl Artefact for AuthorizationCode {
    const KIND: Kind = Kind::AuthorizationCode;
    fn expires_at(&self) -> Option<Timestamp> {
        Some(self.exp)
    }
}

impl Artefact for RefreshToken {
    const KIND: Kind = Kind::RefreshToken;
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }
}

impl Artefact for AuthorizationRequest {
    const KIND: Kind = Kind::AuthorizationRequest;
    fn expires_at(&self) -> Option<Timestamp> {
        Some(self.exp)
    }
}

impl Artefact for SessionCookie {
    const KIND: Kind = Kind::Session;
    fn expires_at(&self) -> Option<Timestamp> {
        Some(self.exp)
    }
}

impl Artefact for PlainForm {
    const KIND: Kind = Kind::PlainForm;
    fn expires_at(&self) -> Option<Timestamp> {
        Some(self.exp)
    }
}

impl Artefact for BrowserCookie {
    const KIND: Kind = Kind::Browser;
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }
}

impl Artefact for DeviceCookie {
    const KIND: Kind = Kind::Device;
    fn expires_at(&self) -> Option<Timestamp> {
        Some(self.exp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::access::AccessToken;
    use crate::tokens::{Keys, Secret, TokenError};

    const NOW: Timestamp = 1_000;

    fn opens<A: Artefact>(keys: &Keys, text: &str) -> bool {
        keys.verify::<A>(text, NOW).is_ok()
    }

    /// One of each kind, and for each kind a function that tries to open a text as that kind.
    type Opener = fn(&Keys, &str) -> bool;
    fn one_of_each(keys: &Keys) -> Vec<(Kind, String, Opener)> {
        let exp = NOW + 60;
        let text = || "x".to_string();
        let (grant, client) = (GrantId(text()), ClientId(text()));
        let request = AuthorizationRequest {
            id: text(),
            client,
            registration: None,
            redirect_uri: text(),
            redirect_uri_given: true,
            state: None,
            code_challenge: text(),
            sign_in_anew: false,
            select_account: false,
            session: None,
            browser: text(),
            exp,
        };
        let access = AccessToken::sample(keys.issuer(), exp);
        vec![
            (
                Kind::AuthorizationCode,
                keys.sign(&AuthorizationCode { grant: grant.clone(), exp }),
                opens::<AuthorizationCode>,
            ),
            (
                Kind::RefreshToken,
                keys.sign(&RefreshToken { grant, generation: 1, attempt: 0, since: NOW }),
                opens::<RefreshToken>,
            ),
            (Kind::AuthorizationRequest, keys.sign(&request), opens::<AuthorizationRequest>),
            (Kind::Session, keys.sign(&SessionCookie { session: SessionId(text()), exp }), opens::<SessionCookie>),
            (Kind::PlainForm, keys.sign(&PlainForm { browser: text(), exp }), opens::<PlainForm>),
            (Kind::Browser, keys.sign(&BrowserCookie { browser: text() }), opens::<BrowserCookie>),
            (
                Kind::Device,
                keys.sign(&DeviceCookie { device: text(), credential: CredentialId(text()), exp }),
                opens::<DeviceCookie>,
            ),
            (
                Kind::ProviderState,
                keys.sign(&ProviderState {
                    provider: ProviderId::Oidc,
                    request: None,
                    id: text(),
                    consent: false,
                    browser: text(),
                    exp,
                }),
                opens::<ProviderState>,
            ),
            (Kind::McpSession, keys.sign(&McpSessionId { session: text(), owner: text() }), opens::<McpSessionId>),
            (Kind::AccessToken, access.sign(keys), |keys, text| AccessToken::verify(text, keys, NOW).is_ok()),
        ]
    }

    #[test]
    fn no_artefact_passes_as_another_kind_or_at_another_issuer_or_altered() {
        let secret = Secret::generate();
        let keys = Keys::new("https://a", &secret, &[]);
        let other_issuer = Keys::new("https://b", &secret, &[]);
        let other_secret = Keys::new("https://a", &Secret::generate(), &[]);
        let all = one_of_each(&keys);
        for (kind, text, _) in &all {
            for (place, _, opens) in &all {
                assert_eq!(opens(&keys, text), kind == place, "{kind:?} in the place of {place:?}");
            }
        }
        for (kind, text, opens) in &all {
            assert!(!opens(&other_issuer, text) && !opens(&other_secret, text), "{kind:?}");
            for i in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
                let altered = String::from_utf8(bytes).unwrap();
                assert!(!opens(&keys, &altered), "{kind:?} altered at {i}");
            }
            for cut in [&text[1..], &text[..text.len() - 1], &format!("{text}A"), &format!("{text}="), ""] {
                assert!(!opens(&keys, cut), "{kind:?} as {cut}");
            }
        }
    }

    #[test]
    fn time_ends_an_artefact() {
        let keys = Keys::new("https://a", &Secret::generate(), &[]);
        let text = keys.sign(&AuthorizationCode { grant: GrantId("g".into()), exp: NOW });
        assert!(keys.verify::<AuthorizationCode>(&text, NOW - 1).is_ok());
        assert_eq!(keys.verify::<AuthorizationCode>(&text, NOW), Err(TokenError::Expired));
    }
}
