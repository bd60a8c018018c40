//! Fetches and caches a provider's discovery document (OpenID Connect Discovery 1.0) and its keys.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde::Deserialize;

use super::error::ProviderError;
use super::oidc_config::{OidcConfig, TENANT};
use crate::http::client::{Answer, Fetcher, RemoteUrl};
use crate::lock::Unpoisoned;
use crate::tokens::jwt::KeySet;

/// How long the discovery document and the keys are used before they are fetched again.
pub(super) const FRESH: Duration = Duration::from_secs(3_600);
/// After the document could not be fetched, the next attempt waits this long.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// Cached discovery document and keys of one provider.
#[derive(Default)]
pub(super) struct Discovery {
    metadata: Mutex<Option<(Instant, Arc<Metadata>)>>,
    reading: Mutex<()>,
    read_in_vain: Mutex<Option<(Instant, String)>>,
    keys: Mutex<Option<(Instant, Arc<KeySet>)>>,
}

impl Discovery {
    /// The discovery document, fetched again if the cached one is older than `FRESH`. If fetching fails, or another
    /// thread is already fetching, returns the cached one, however old it is.
    pub(super) fn metadata(&self, config: &OidcConfig, fetcher: &Fetcher) -> Result<Arc<Metadata>, ProviderError> {
        let known = lock(&self.metadata).clone();
        if let Some((at, metadata)) = &known
            && at.elapsed() < FRESH
        {
            return Ok(metadata.clone());
        }
        if let Some((at, why)) = &*lock(&self.read_in_vain)
            && at.elapsed() < READ_AGAIN
        {
            return known.map(|(_, metadata)| metadata).ok_or_else(|| ProviderError::Unreachable(why.clone()));
        }
        // Only one thread fetches; meanwhile the others use the cached document.
        let _reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let nothing = ProviderError::Unreachable("its discovery document is still being fetched".into());
                return known.map(|(_, metadata)| metadata).ok_or(nothing);
            }
        };
        match (self.read(config, fetcher), known) {
            (Ok(metadata), _) => Ok(metadata),
            // Continue with the cached document, although it is older than `FRESH`.
            (Err(why), Some((_, metadata))) => {
                log::debug!(url:% = config.configuration_url, reason = why.as_str(); "a discovery document could not be fetched again, so the one that was read before is used");
                Ok(metadata)
            }
            (Err(why), None) => Err(ProviderError::Unreachable(why)),
        }
    }

    /// Reads the document.
    pub(super) fn read(&self, config: &OidcConfig, fetcher: &Fetcher) -> Result<Arc<Metadata>, String> {
        let url = &config.configuration_url;
        let found = fetcher
            .get(url, &[])
            .map_err(|e| e.0)
            .and_then(|answer| document(&answer).map_err(String::from))
            .and_then(|body| Metadata::parse(&body).map_err(|e| format!("{}: {e}", url.host())))
            .and_then(|metadata| check(config, metadata))
            .map(Arc::new);
        *lock(&self.read_in_vain) = found.as_ref().err().map(|why| (Instant::now(), why.clone()));
        if let Ok(metadata) = &found {
            *lock(&self.metadata) = Some((Instant::now(), metadata.clone()));
        }
        found
    }

    /// The keys, fetched again if the cached ones are older than `max_age`.
    pub(super) fn keys(
        &self,
        fetcher: &Fetcher,
        metadata: &Metadata,
        max_age: Duration,
    ) -> Result<Arc<KeySet>, ProviderError> {
        let known = lock(&self.keys).clone();
        if let Some((at, keys)) = &known
            && at.elapsed() < max_age
        {
            return Ok(keys.clone());
        }
        let url = metadata.jwks_uri.as_ref().ok_or(ProviderError::Invalid("the provider names no keys".into()))?;
        let answer = fetcher.get(url, &[]).map_err(|e| ProviderError::Unreachable(e.0))?;
        let keys = document(&answer).and_then(|body| KeySet::parse(&body));
        let keys = Arc::new(keys.map_err(|why| ProviderError::Unreachable(format!("the provider's keys: {why}")))?);
        *lock(&self.keys) = Some((Instant::now(), keys.clone()));
        Ok(keys)
    }
}

/// The fields of the discovery document that the proxy uses.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: RemoteUrl,
    pub(super) token_endpoint: RemoteUrl,
    pub(super) userinfo_endpoint: Option<RemoteUrl>,
    pub(super) jwks_uri: Option<RemoteUrl>,
    /// RFC 9207: authorization responses contain `iss`.
    pub(super) has_iss: bool,
    /// The provider supports `client_secret_post`. The proxy tries it first, because the encoding of the secret in a
    /// form is not ambiguous.
    pub(super) secret_in_form: bool,
    /// The provider supports both `client_secret_post` and `client_secret_basic` (the Authorization header field).
    pub(super) has_both_ways: bool,
}

impl Metadata {
    fn parse(document: &[u8]) -> Result<Metadata, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            authorization_endpoint: String,
            token_endpoint: String,
            userinfo_endpoint: Option<String>,
            jwks_uri: Option<String>,
            #[serde(default)]
            authorization_response_iss_parameter_supported: bool,
            #[serde(default)]
            token_endpoint_auth_methods_supported: Vec<String>,
        }
        let d: Document = serde_json::from_slice(document).map_err(|e| format!("it is no discovery document: {e}"))?;
        let methods = &d.token_endpoint_auth_methods_supported;
        Ok(Metadata {
            issuer: d.issuer,
            authorization_endpoint: RemoteUrl::parse(&d.authorization_endpoint)?,
            token_endpoint: RemoteUrl::parse(&d.token_endpoint)?,
            userinfo_endpoint: d.userinfo_endpoint.as_deref().map(RemoteUrl::parse).transpose()?,
            jwks_uri: d.jwks_uri.as_deref().map(RemoteUrl::parse).transpose()?,
            has_iss: d.authorization_response_iss_parameter_supported,
            secret_in_form: methods.iter().any(|m| m == "client_secret_post"),
            has_both_ways: ["client_secret_post", "client_secret_basic"]
                .iter()
                .all(|way| methods.iter().any(|m| m == way)),
        })
    }
}

/// Suffix of the path of a discovery document (OpenID Connect Discovery 1.0 section 4).
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// OpenID Connect Discovery 1.0 section 4.3: the issuer must be the URL of the document without the well-known suffix,
/// or the configured issuer. The issuer of a multi-tenant provider has a placeholder where the URL has a tenant.
fn is_expected_issuer(config: &OidcConfig, issuer: &str) -> bool {
    if let Some(expected) = &config.issuer {
        return issuer == expected;
    }
    let url = config.configuration_url.to_string();
    let Some(found_by) = url.strip_suffix(WELL_KNOWN) else { return false };
    match issuer.split_once(TENANT) {
        None => issuer.trim_end_matches('/') == found_by.trim_end_matches('/'),
        Some((before, after)) => {
            let tenant = found_by.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            tenant.is_some_and(|tenant| !tenant.is_empty() && !tenant.contains('/'))
        }
    }
}

fn check(config: &OidcConfig, metadata: Metadata) -> Result<Metadata, String> {
    if !is_expected_issuer(config, &metadata.issuer) {
        let shown: String = metadata.issuer.chars().filter(char::is_ascii_graphic).take(200).collect();
        return Err(format!(
            "the discovery document at {} names another issuer, {shown}: give the URL at that issuer, or if it is the right one, name it with --oidc-issuer (OIDC_ISSUER)",
            config.configuration_url
        ));
    }
    if metadata.issuer.contains(TENANT) && config.tenants.is_empty() {
        return Err(
            "the provider serves many tenants: name those to let in with --oidc-allowed-tenants (OIDC_ALLOWED_TENANTS)"
                .into(),
        );
    }
    // Plain http is allowed for loopback hosts only, and a provider on the network must not name endpoints on this
    // machine.
    let is_plain = |url: &RemoteUrl| url.origin().starts_with("http://");
    let has_plain = is_plain(&metadata.authorization_endpoint)
        || is_plain(&metadata.token_endpoint)
        || metadata.userinfo_endpoint.as_ref().is_some_and(is_plain)
        || metadata.jwks_uri.as_ref().is_some_and(is_plain);
    if has_plain && !is_plain(&config.configuration_url) {
        return Err("the discovery document names an endpoint that is not https".into());
    }
    if config.wants_id_token() && metadata.jwks_uri.is_none() {
        return Err("the discovery document names no keys (jwks_uri)".into());
    }
    Ok(metadata)
}

/// The body of a response with status 200; other statuses are an error.
fn document(answer: &Answer) -> Result<Vec<u8>, &'static str> {
    if answer.status == StatusCode::OK { Ok(answer.body.clone()) } else { Err("the document is not there") }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unpoisoned()
}
