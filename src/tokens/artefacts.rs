//! All signed artefacts except access tokens.

use serde::{Deserialize, Serialize};

use super::keys::{Artefact, Kind};
use crate::clock::Timestamp;
use crate::identity::ProviderId;
use crate::identity::{ClientId, CredentialId, GrantId, SessionId};
use crate::resource_url::Resources;
use crate::store::rows::Client;

/// Lifetime of an authorization code, in seconds (RFC 6749 section 4.1.2 recommends ten minutes at most).
pub const CODE_LIFETIME: u64 = 60;
/// How long a user may take for sign-in and consent, in seconds.
pub const REQUEST_LIFETIME: u64 = 15 * 60;
/// How long a browser is remembered as a known device after a sign-in by password, in seconds.
pub const DEVICE_LIFETIME: u64 = 180 * 86_400;

/// An authorization code. It names the row of the pending grant.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationCode {
    /// The pending grant.
    pub grant: GrantId,
    /// End.
    pub exp: Timestamp,
}

/// A refresh token. It contains only values of the grant row, so that the same token can be issued again.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct RefreshToken {
    /// The grant.
    pub grant: GrantId,
    /// Its generation: each rotation starts a new one.
    pub generation: u64,
    /// Its attempt within the generation: a lost answer leads to another attempt.
    #[serde(default)]
    pub attempt: u64,
    /// When it was made.
    pub since: Timestamp,
}

/// A client's authorization request. The pages carry it while the user decides. It is bound to one browser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationRequest {
    /// Random id, used to limit the number of grants from one request.
    pub id: String,
    /// The client, known and checked.
    pub client: ClientId,
    /// A copy of the registration if nobody has used the client before. Such a registration may be evicted before the
    /// user has decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<Box<Client>>,
    /// The redirect URI, checked to be one of the client's.
    pub redirect_uri: String,
    /// True if the redirect URI was in the request, false if it came from the registration (RFC 6749 section 4.1.3).
    pub redirect_uri_given: bool,
    /// The client's `state` parameter, returned unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// PKCE challenge, S256 (RFC 7636).
    pub code_challenge: String,
    /// What the client wants access to (RFC 8707). `None` if it did not say so and there are several servers: the user
    /// chooses on the consent page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The resources are servers of a servers file, or can be chosen from them.
    #[serde(default)]
    pub of_file: bool,
    /// The client asked for a new sign-in: a session is not enough.
    #[serde(default)]
    pub sign_in_anew: bool,
    /// The client asked that the user choose an account.
    #[serde(default)]
    pub select_account: bool,
    /// Digest of the session that the page was made for: only the user of that session can give the consent.
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

/// Cookie that identifies a browser. Forms are bound to it, which prevents cross-site request forgery.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct BrowserCookie {
    /// Random.
    pub browser: String,
}

/// Proves that a form was made for the browser that submits it. Used for sign-in without a client and for sign-out.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct PlainForm {
    /// Digest of the browser cookie.
    pub browser: String,
    /// End.
    pub exp: Timestamp,
}

/// Cookie of a browser in which somebody has signed in by password before. Such a browser has its own password
/// throttle.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceCookie {
    /// Random.
    pub device: String,
    /// The password that was used. Once it is no longer configured, the browser counts as unknown.
    pub credential: CredentialId,
    /// End.
    pub exp: Timestamp,
}

/// An `Mcp-Session-Id`. It names a session, and only the session's owner can use it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct McpSessionId {
    /// The session.
    pub session: String,
    /// Digest of user and client.
    pub owner: String,
    /// The name of its server; `None` for the one server of the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// A sign-in at a provider that is in progress. The provider returns it in the `state` parameter, and only the browser
/// that it was made for may bring it back.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ProviderState {
    /// The provider.
    pub provider: ProviderId,
    /// The authorization request behind it; `None` for a sign-in without a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<AuthorizationRequest>>,
    /// Random id.
    pub id: String,
    /// True for a second attempt, in which the provider is made to ask for consent so that it issues a refresh token.
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
            resources: Some(Resources::new(Vec::new(), keys.issuer())),
            of_file: false,
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
            (
                Kind::McpSession,
                keys.sign(&McpSessionId { session: text(), owner: text(), server: None }),
                opens::<McpSessionId>,
            ),
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
