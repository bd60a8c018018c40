//! Finds clients: those that registered themselves, those that the operator registered, and those with a metadata document.

use std::net::IpAddr;

use super::client_metadata::{self, is_document};
use super::error::OAuthError;
use crate::core::Core;
use crate::http::client::{Documents, GuardedUrl};
use crate::redirect_pattern::RedirectPattern;
use crate::redirect_uri::RedirectUri;
use crate::store::StoreError;
use crate::store::rows::{Client, ClientKeys};
use crate::tokens::jwt::KeySet;

/// How long the description of a client is used that can't be fetched, in seconds.
const STALE: u64 = 86_400;

/// Who may register at `/.idp/register`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Everybody.
    Open,
    /// Clients whose redirect URIs all fit one of these patterns.
    Allowlist(Vec<RedirectPattern>),
    /// Nobody.
    Off,
}

/// Which clients there may be, besides those that the operator registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPolicy {
    /// Who may register.
    pub registration: Registration,
    /// Are metadata documents accepted?
    pub has_documents: bool,
    /// The domains that documents may be at, with all names below them; empty for all.
    pub document_domains: Vec<String>,
}

/// Finds clients.
pub struct Clients {
    /// Which clients there may be.
    pub policy: ClientPolicy,
    documents: Documents,
}

/// Why there is no client.
pub enum NoClient {
    /// It is not registered.
    Unknown,
    /// Its document is not accepted; the reason.
    Document(String),
    /// Its document can't be fetched at the moment; the reason.
    Unreachable(String),
    /// The store can't be read.
    Store(StoreError),
}

impl From<StoreError> for NoClient {
    fn from(error: StoreError) -> NoClient {
        NoClient::Store(error)
    }
}

impl Clients {
    /// Finds clients by this policy.
    pub fn new(policy: ClientPolicy, documents: Documents) -> Clients {
        Clients { policy, documents }
    }

    /// The client with this id, as it is now. May fetch its document, so call it when everything else in the request has
    /// been found to be right.
    pub fn find(&self, core: &Core, id: &str, caller: IpAddr) -> Result<Client, NoClient> {
        if !is_document(id) {
            return core.state.get::<Client>(id)?.ok_or(NoClient::Unknown);
        }
        let url = self.document_url(id).map_err(NoClient::Document)?;
        let known = core.state.get::<Client>(id)?;
        let body = match (self.documents.get(&url, caller), &known) {
            (Ok(body), _) => body,
            // As it was when a user allowed it: documents outlive a failure of their host for a day, also over a restart.
            (Err(_), Some(known)) if core.now().saturating_sub(known.issued_at) < STALE => return Ok(known.clone()),
            (Err(e), _) => return Err(NoClient::Unreachable(e.0)),
        };
        let client = client_metadata::parse(id, &body, core.now())
            .map_err(|e| NoClient::Document(format!("{}: {}", url.host(), e.description)))?;
        Ok(match known {
            Some(known) => Client { used: known.used, used_by: known.used_by, ..client },
            None => client,
        })
    }

    /// The client with this id for a request in which its document is not needed: that of a code or a refresh token, which
    /// say enough. Fetches nothing.
    pub fn known(&self, core: &Core, id: &str) -> Result<Client, NoClient> {
        if !is_document(id) {
            return core.state.get::<Client>(id)?.ok_or(NoClient::Unknown);
        }
        self.document_url(id).map_err(NoClient::Document)?;
        core.state.get::<Client>(id)?.ok_or(NoClient::Unknown)
    }

    /// The URL of a document, if one may be there.
    fn document_url(&self, id: &str) -> Result<GuardedUrl, String> {
        if !self.policy.has_documents {
            return Err("client metadata documents are switched off (--no-cimd, NO_CIMD)".into());
        }
        let url = GuardedUrl::parse(id).map_err(|why| format!("client_id can't be the URL of a document: {why}"))?;
        let host = url.host();
        let is_below = |domain: &String| host == *domain || host.strip_suffix(domain).is_some_and(|h| h.ends_with('.'));
        let domains = &self.policy.document_domains;
        match domains.is_empty() || domains.iter().any(is_below) {
            true => Ok(url),
            false => {
                Err(format!("documents at {host} are not accepted (--cimd-allowed-domains, CIMD_ALLOWED_DOMAINS)"))
            }
        }
    }

    /// The public keys of a client. May fetch them.
    pub fn keys(&self, client: &Client, caller: IpAddr) -> Result<KeySet, String> {
        match &client.keys {
            None => Err("the client has no keys".into()),
            Some(ClientKeys::Jwks(jwks)) => KeySet::of(jwks).map_err(|why| format!("the client's keys: {why}")),
            Some(ClientKeys::JwksUri(uri)) => {
                let url = GuardedUrl::parse(uri).map_err(|why| format!("jwks_uri: {why}"))?;
                let body = self.documents.get(&url, caller).map_err(|e| e.0)?;
                KeySet::parse(&body).map_err(|why| format!("{}: {why}", url.host()))
            }
        }
    }

    /// May a client with these redirect URIs register? The error names the first that may not.
    pub fn may_register(&self, redirect_uris: &[String]) -> Result<(), OAuthError> {
        match &self.policy.registration {
            Registration::Open => Ok(()),
            Registration::Off => Err(OAuthError {
                status: http::StatusCode::FORBIDDEN,
                code: "access_denied",
                description: "registration is switched off here (--registration, REGISTRATION): use a client metadata document, or ask the operator for a client_id".into(),
            }),
            Registration::Allowlist(patterns) => {
                let fits = |uri: &&String| {
                    RedirectUri::parse(uri).is_ok_and(|uri| patterns.iter().any(|pattern| pattern.fits(&uri)))
                };
                match redirect_uris.iter().find(|uri| !fits(uri)) {
                    None => Ok(()),
                    Some(_) => Err(OAuthError::new(
                        "invalid_redirect_uri",
                        "a redirect URI is not among those that may register here (--registration-redirect-uris, REGISTRATION_REDIRECT_URIS)",
                    )),
                }
            }
        }
    }
}
