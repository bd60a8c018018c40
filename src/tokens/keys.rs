//! The keys of an issuer, and what they do: sign and verify, encrypt and decrypt.

use std::fmt;
use std::sync::{Arc, RwLock};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use rand::TryRng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

use crate::clock::Timestamp;
use crate::encoding::base64url;
use crate::lock::Unpoisoned;

/// A master secret.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new random secret.
    pub fn generate() -> Secret {
        Secret(random())
    }

    /// From base64, with either alphabet.
    pub fn from_base64(text: &str) -> Option<Secret> {
        let text = text.trim();
        let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text.trim_end_matches('='))).ok()?;
        Some(Secret(bytes.try_into().ok()?))
    }

    /// From the content of a file: base64, or the raw bytes as sigbit/mcp-auth-proxy stores them.
    pub fn from_file(bytes: &[u8]) -> Option<Secret> {
        if let Ok(secret) = bytes.try_into() {
            return Some(Secret(secret));
        }
        Secret::from_base64(std::str::from_utf8(bytes).ok()?)
    }

    /// As base64, for the data directory.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a key is used for; each kind has its own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bearer token for the resource.
    AccessToken,
    /// Gets the next access token.
    RefreshToken,
    /// Gets the first tokens.
    AuthorizationCode,
    /// A client's authorization request, while the user decides.
    AuthorizationRequest,
    /// Cookie of a signed-in browser.
    Session,
    /// Cookie that identifies a browser before anybody signs in.
    Browser,
    /// Cookie of a browser in which somebody has signed in by password before.
    Device,
    /// Form without a client's request: sign-in, sign-out.
    PlainForm,
    /// Secret of a confidential client, derived from its id.
    ClientSecret,
    /// Id of a credential, used in rows and tokens instead of the credential itself.
    Credential,
    /// Session id of an MCP client.
    McpSession,
    /// A sign-in at a provider that is in progress.
    ProviderState,
    /// PKCE verifier and nonce of a sign-in at a provider.
    PkceAndNonce,
    /// Tokens that providers issued, stored encrypted.
    ProviderTokens,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 14] = [
        Kind::AccessToken,
        Kind::RefreshToken,
        Kind::AuthorizationCode,
        Kind::AuthorizationRequest,
        Kind::Session,
        Kind::Browser,
        Kind::Device,
        Kind::PlainForm,
        Kind::ClientSecret,
        Kind::Credential,
        Kind::McpSession,
        Kind::ProviderState,
        Kind::PkceAndNonce,
        Kind::ProviderTokens,
    ];

    fn label(self) -> &'static str {
        match self {
            Kind::AccessToken => "access token",
            Kind::RefreshToken => "refresh token",
            Kind::AuthorizationCode => "authorization code",
            Kind::AuthorizationRequest => "authorization request",
            Kind::Session => "session",
            Kind::Browser => "browser",
            Kind::Device => "device",
            Kind::PlainForm => "plain form",
            Kind::ClientSecret => "client secret",
            Kind::Credential => "credential",
            Kind::McpSession => "mcp session",
            Kind::ProviderState => "provider state",
            Kind::PkceAndNonce => "hop secret",
            Kind::ProviderTokens => "provider tokens",
        }
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Not signed by us, or altered, or of another kind.
    Invalid,
    /// Genuine, but expired.
    Expired,
}

/// Data that is signed and handed out.
pub trait Artefact: Serialize + DeserializeOwned {
    /// Which key signs it.
    const KIND: Kind;

    /// When it stops being accepted; `None` if it has no expiry of its own.
    fn expires_at(&self) -> Option<Timestamp>;
}

type HmacSha256 = Hmac<Sha256>;

/// The keys of one issuer. Keys from the current secret sign; keys from all secrets verify. They can be replaced.
pub struct Keys {
    issuer: String,
    keys: RwLock<Arc<Derived>>,
}

/// For each kind, the current key first.
type Derived = [Vec<HmacSha256>; Kind::ALL.len()];

impl Keys {
    /// Derives the keys of `issuer` from the secrets.
    pub fn new(issuer: &str, current: &Secret, previous: &[Secret]) -> Keys {
        let keys = RwLock::new(Arc::new(derived(issuer, current, previous)));
        Keys { issuer: issuer.to_string(), keys }
    }

    /// Takes the keys of these secrets from now on.
    pub fn replace(&self, current: &Secret, previous: &[Secret]) {
        *self.keys.write().unpoisoned() = Arc::new(derived(&self.issuer, current, previous));
    }

    /// The issuer whose keys these are.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Calls `f` with the keys of `kind`.
    fn with<R>(&self, kind: Kind, f: impl FnOnce(&[HmacSha256]) -> R) -> R {
        let at = Kind::ALL.iter().position(|k| *k == kind).expect("ALL has every kind");
        f(&self.keys.read().unpoisoned()[at])
    }

    /// The MAC of `data` under the current key of `kind`.
    pub fn mac(&self, kind: Kind, data: &[u8]) -> [u8; 32] {
        self.with(kind, |keys| keys[0].clone().chain_update(data).finalize().into_bytes().into())
    }

    /// The MACs of `data` under every key of `kind`, the current one first.
    pub fn macs(&self, kind: Kind, data: &[u8]) -> Vec<[u8; 32]> {
        let mac = |key: &HmacSha256| key.clone().chain_update(data).finalize().into_bytes().into();
        self.with(kind, |keys| keys.iter().map(mac).collect())
    }

    /// True if `mac` is the MAC of `data` under any key of `kind`. Compares in constant time.
    pub fn verify_mac(&self, kind: Kind, data: &[u8], mac: &[u8]) -> bool {
        self.with(kind, |keys| keys.iter().any(|k| k.clone().chain_update(data).verify_slice(mac).is_ok()))
    }

    /// Encrypts `data` under the current key of `kind` (ChaCha20-Poly1305), with `owner` as associated data. Returns
    /// base64url of nonce and ciphertext.
    pub fn encrypt(&self, kind: Kind, owner: &[u8], data: &[u8]) -> String {
        let nonce = random::<12>();
        let mut text = data.to_vec();
        cipher(&self.mac(kind, b"encryption"))
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(owner), &mut text)
            .expect("what is encrypted is far shorter than the cipher's bound");
        base64url([nonce.as_slice(), &text].concat())
    }

    /// Decrypts the result of [`Keys::encrypt`] with any key of `kind`.
    pub fn decrypt(&self, kind: Kind, owner: &[u8], text: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, text) = bytes.split_first_chunk::<12>()?;
        self.macs(kind, b"encryption").iter().find_map(|key| {
            let mut text = text.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let plain = cipher(key).open_in_place(nonce, Aad::from(owner), &mut text).ok()?;
            Some(plain.to_vec())
        })
    }

    /// Signs an artefact: `base64url(JSON).base64url(MAC)`.
    pub fn sign<A: Artefact>(&self, artefact: &A) -> String {
        let mut out = URL_SAFE_NO_PAD.encode(serde_json::to_vec(artefact).expect("artefacts are plain data"));
        let mac = self.mac(A::KIND, out.as_bytes());
        out.push('.');
        URL_SAFE_NO_PAD.encode_string(mac, &mut out);
        out
    }

    /// Checks signature and lifetime.
    pub fn verify<A: Artefact>(&self, text: &str, now: Timestamp) -> Result<A, TokenError> {
        let (data, mac) = text.rsplit_once('.').ok_or(TokenError::Invalid)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| TokenError::Invalid)?;
        if !self.verify_mac(A::KIND, data.as_bytes(), &mac) {
            return Err(TokenError::Invalid);
        }
        let data = URL_SAFE_NO_PAD.decode(data).map_err(|_| TokenError::Invalid)?;
        let artefact: A = serde_json::from_slice(&data).map_err(|_| TokenError::Invalid)?;
        match artefact.expires_at() {
            Some(end) if now >= end => Err(TokenError::Expired),
            _ => Ok(artefact),
        }
    }
}

fn derived(issuer: &str, current: &Secret, previous: &[Secret]) -> Derived {
    let derive = |secret: &Secret, kind: Kind| {
        let mut mac = HmacSha256::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
        mac.update(b"mcp-auth-proxy\0");
        mac.update(kind.label().as_bytes());
        mac.update(b"\0");
        mac.update(issuer.as_bytes());
        HmacSha256::new_from_slice(&mac.finalize().into_bytes()).expect("HMAC takes keys of any length")
    };
    Kind::ALL.map(|kind| std::iter::once(current).chain(previous).map(|s| derive(s, kind)).collect())
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("its keys have 32 bytes"))
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// A random name of 128 bits, URL-safe.
pub fn random_name() -> String {
    base64url(random::<16>())
}

/// Compares in a time that depends on the lengths only.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(a, b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_32_bytes_of_base64() {
        let secret = Secret::generate();
        assert!(Secret::from_base64(&format!("{}\n", secret.to_base64())).is_some_and(|s| s.0 == secret.0));
        for text in ["", "c2hvcnQ=", "not base64!", &STANDARD.encode([0; 33])] {
            assert!(Secret::from_base64(text).is_none());
        }
    }

    #[test]
    fn every_kind_and_every_issuer_has_a_key_of_its_own() {
        let secret = Secret::generate();
        let (a, b) = (Keys::new("https://a", &secret, &[]), Keys::new("https://b", &secret, &[]));
        let mut macs: Vec<[u8; 32]> = Kind::ALL.iter().flat_map(|k| [a.mac(*k, b"x"), b.mac(*k, b"x")]).collect();
        macs.sort();
        macs.dedup();
        assert_eq!(macs.len(), 2 * Kind::ALL.len());
    }

    #[test]
    fn what_is_encrypted_is_for_one_owner_and_one_kind() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let keys = Keys::new("https://a", &old, &[]);
        let text = keys.encrypt(Kind::ProviderTokens, b"alice", b"secret");
        assert_ne!(text, keys.encrypt(Kind::ProviderTokens, b"alice", b"secret"));
        let rotated = Keys::new("https://a", &new, std::slice::from_ref(&old));
        for keys in [&keys, &rotated] {
            assert_eq!(keys.decrypt(Kind::ProviderTokens, b"alice", &text).as_deref(), Some(b"secret".as_slice()));
        }
        assert_eq!(keys.decrypt(Kind::ProviderTokens, b"bob", &text), None);
        assert_eq!(keys.decrypt(Kind::PkceAndNonce, b"alice", &text), None);
        assert_eq!(Keys::new("https://b", &old, &[]).decrypt(Kind::ProviderTokens, b"alice", &text), None);
        for altered in [&text[1..], &text[..text.len() - 2], ""] {
            assert_eq!(keys.decrypt(Kind::ProviderTokens, b"alice", altered), None);
        }
    }

    #[test]
    fn previous_secrets_verify_and_do_not_sign() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let before = Keys::new("https://a", &old, &[]);
        let after = Keys::new("https://a", &new, std::slice::from_ref(&old));
        assert!(after.verify_mac(Kind::Session, b"x", &before.mac(Kind::Session, b"x")));
        assert!(!before.verify_mac(Kind::Session, b"x", &after.mac(Kind::Session, b"x")));
    }
}
