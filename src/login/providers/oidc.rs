//! OpenID Connect providers, Google among them: the authorization code flow as a client (OpenID Connect Core 1.0).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::byte_serialize;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderName, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::authorization::{AuthorizationParameters, ProviderTokens, Renewed};
use super::claims;
use super::discovery::{Discovery, FRESH, Metadata};
use super::error::ProviderError;
use super::id_token::{self, Expected};
use super::oidc_config::{OidcConfig, TENANT};
use crate::clock::Timestamp;
use crate::http::client::{Fetcher, RemoteUrl};
use crate::identity::ProviderUser;
use crate::rules::Rules;

/// If no cached key verifies an ID token, the keys are fetched again, unless they are younger than this.
const KEYS_AGAIN: Duration = Duration::from_secs(1);

/// Client for one OpenID Connect provider.
pub struct OidcClient {
    config: OidcConfig,
    discovery: Discovery,
    /// The provider accepted the client secret by the method that the proxy does not try first.
    other_way: AtomicBool,
}

/// Why the token endpoint gave no tokens.
enum NoTokens {
    /// It does not accept the proxy as its client; the OAuth error code.
    Client(String),
    Other(ProviderError),
}

impl From<ProviderError> for NoTokens {
    fn from(trouble: ProviderError) -> NoTokens {
        NoTokens::Other(trouble)
    }
}

impl NoTokens {
    fn into_trouble(self) -> ProviderError {
        match self {
            NoTokens::Other(trouble) => trouble,
            NoTokens::Client(error) => ProviderError::Unreachable(format!(
                "the provider does not accept this proxy as its client ({error}): check its client id and secret"
            )),
        }
    }
}

/// The answer of the token endpoint.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    id_token: Option<String>,
    refresh_token: Option<String>,
}

impl OidcClient {
    /// Creates the client; sends no request yet.
    pub fn new(config: OidcConfig) -> OidcClient {
        OidcClient { config, discovery: Discovery::default(), other_way: AtomicBool::new(false) }
    }

    /// Identifies this provider and client id; part of the credential id.
    pub fn mark(&self) -> String {
        format!("{}\0{}", self.config.configuration_url, self.config.client_id)
    }

    /// Fetches the discovery document.
    pub fn look(&self, fetcher: &Fetcher) -> Result<(), ProviderError> {
        self.discovery.read(&self.config, fetcher).map(drop).map_err(ProviderError::Unreachable)
    }

    /// Does a refresh token last beyond the session that the person has at the provider?
    pub fn lasts(&self) -> bool {
        self.config.is_google || self.config.scopes.iter().any(|s| s == "offline_access")
    }

    /// Google gives a refresh token at the first consent only, unless the person is asked for consent again.
    pub fn gives_more_with_consent(&self) -> bool {
        self.config.is_google
    }

    /// Checks the `iss` of an authorization response (RFC 9207).
    pub fn check_issuer(&self, fetcher: &Fetcher, iss: Option<&str>) -> Result<(), ProviderError> {
        let metadata = self.discovery.metadata(&self.config, fetcher)?;
        match iss {
            Some(iss) if iss == metadata.issuer || self.is_google_in_short(&metadata, iss) => Ok(()),
            // The provider is multi-tenant: `iss` names a tenant, so the issuer is checked in the ID token instead.
            Some(_) if metadata.issuer.contains(TENANT) => Ok(()),
            Some(_) => Err(ProviderError::Invalid("the answer came from another issuer (iss)".into())),
            None if metadata.has_iss => Err(ProviderError::Invalid(
                "the answer does not name its issuer (iss), though the provider says that its answers do; with Keycloak, \
                 switch off 'Exclude Issuer From Authentication Response' for this client"
                    .into(),
            )),
            None => Ok(()),
        }
    }

    /// Where the browser goes (OpenID Connect Core section 3.1.2.1).
    pub fn authorize_url(
        &self,
        fetcher: &Fetcher,
        parameters: &AuthorizationParameters<'_>,
    ) -> Result<String, ProviderError> {
        let metadata = self.discovery.metadata(&self.config, fetcher)?;
        let scopes = self.config.scopes.join(" ");
        let mut query = vec![
            ("response_type", "code"),
            ("client_id", self.config.client_id.as_str()),
            ("redirect_uri", parameters.redirect_uri),
            ("scope", scopes.as_str()),
            ("state", parameters.state),
            ("code_challenge", parameters.challenge),
            ("code_challenge_method", "S256"),
        ];
        if self.config.wants_id_token() {
            query.push(("nonce", parameters.nonce));
        }
        if self.config.is_google {
            query.push(("access_type", "offline"));
        }
        let prompt = match (parameters.another_account, self.config.is_google) {
            _ if parameters.consent => Some("consent"),
            (true, true) => Some("select_account"),
            (true, false) => Some("login"),
            (false, _) => None,
        };
        query.extend(prompt.map(|prompt| ("prompt", prompt)));
        Ok(metadata.authorization_endpoint.with_query(&query))
    }

    /// Exchanges the code for tokens and reads the user's profile.
    pub fn redeem(
        &self,
        fetcher: &Fetcher,
        rules: &Rules,
        code: &str,
        parameters: &AuthorizationParameters<'_>,
        verifier: &str,
        now: Timestamp,
    ) -> Result<(ProviderUser, ProviderTokens), ProviderError> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", parameters.redirect_uri),
            ("code_verifier", verifier),
        ];
        let answer = self.ask_token_endpoint(fetcher, &form)?;
        let person = self.identify(fetcher, rules, &answer, Some(parameters.nonce), now)?;
        Ok((person, ProviderTokens { refresh: answer.refresh_token, access: None }))
    }

    /// Refreshes the tokens; `None` if there is no refresh token.
    pub fn renew(&self, fetcher: &Fetcher, tokens: &ProviderTokens) -> Result<Option<Renewed>, ProviderError> {
        let Some(refresh) = &tokens.refresh else { return Ok(None) };
        let scopes = self.config.scopes.join(" ");
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str()), ("scope", scopes.as_str())];
        let answer = self.ask_token_endpoint(fetcher, &form)?;
        let kept = answer.refresh_token.clone().unwrap_or_else(|| refresh.clone());
        let lacks_claims = self.config.wants_id_token() && answer.id_token.is_none();
        Ok(Some(Renewed {
            tokens: ProviderTokens { refresh: Some(kept), access: None },
            access: answer.access_token,
            id_token: answer.id_token,
            lacks_claims,
        }))
    }

    /// The user that the refreshed tokens belong to, with a new profile.
    pub fn whose(
        &self,
        fetcher: &Fetcher,
        rules: &Rules,
        renewed: &Renewed,
        now: Timestamp,
    ) -> Result<ProviderUser, ProviderError> {
        let answer = TokenAnswer {
            access_token: renewed.access.clone(),
            id_token: renewed.id_token.clone(),
            refresh_token: None,
        };
        self.identify(fetcher, rules, &answer, None, now)
    }

    /// Sends a request to the token endpoint with client authentication. If the provider supports both
    /// `client_secret_post` and `client_secret_basic` and rejects the client, tries the other method: the metadata does
    /// not say which of them this client must use.
    fn ask_token_endpoint(&self, fetcher: &Fetcher, form: &[(&str, &str)]) -> Result<TokenAnswer, ProviderError> {
        let metadata = self.discovery.metadata(&self.config, fetcher)?;
        let first = metadata.secret_in_form != self.other_way.load(Ordering::Relaxed);
        let outcome = self.ask_token_endpoint_so(fetcher, &metadata, form, first);
        if !matches!(outcome, Err(NoTokens::Client(_))) || !metadata.has_both_ways {
            return outcome.map_err(NoTokens::into_trouble);
        }
        let again = self.ask_token_endpoint_so(fetcher, &metadata, form, !first);
        if again.is_ok() {
            self.other_way.store(metadata.secret_in_form == first, Ordering::Relaxed);
        }
        again.map_err(NoTokens::into_trouble)
    }

    fn ask_token_endpoint_so(
        &self,
        fetcher: &Fetcher,
        metadata: &Metadata,
        form: &[(&str, &str)],
        secret_in_form: bool,
    ) -> Result<TokenAnswer, NoTokens> {
        let (id, secret) = (self.config.client_id.as_str(), self.config.client_secret.as_str());
        let mut form = form.to_vec();
        let mut fields: Vec<(HeaderName, &str)> = Vec::new();
        // RFC 6749 section 2.3.1.
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(id), encode(secret))));
        match secret_in_form {
            true => form.extend([("client_id", id), ("client_secret", secret)]),
            false => fields.push((AUTHORIZATION, &basic)),
        }
        let answer =
            fetcher.post_form(&metadata.token_endpoint, &fields, &form).map_err(|e| ProviderError::Unreachable(e.0))?;
        if answer.status == StatusCode::OK {
            let tokens = serde_json::from_slice(&answer.body);
            return Ok(tokens.map_err(|_| ProviderError::Invalid("the token endpoint's answer is malformed".into()))?);
        }
        #[derive(Deserialize)]
        struct ErrorAnswer {
            error: String,
        }
        let error = serde_json::from_slice::<ErrorAnswer>(&answer.body).map(|e| shorten(&e.error)).unwrap_or_default();
        match error.as_str() {
            "invalid_grant" | "interaction_required" | "consent_required" | "login_required" => {
                Err(ProviderError::Refused(error))?
            }
            "invalid_client" | "unauthorized_client" => Err(NoTokens::Client(error)),
            _ if answer.status.is_client_error() && answer.status != StatusCode::TOO_MANY_REQUESTS => {
                Err(ProviderError::Invalid(format!("the token endpoint answered {} {error}", answer.status)))?
            }
            _ => Err(ProviderError::Unreachable(format!("the token endpoint answered {} {error}", answer.status)))?,
        }
    }

    fn identify(
        &self,
        fetcher: &Fetcher,
        rules: &Rules,
        answer: &TokenAnswer,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<ProviderUser, ProviderError> {
        let metadata = self.discovery.metadata(&self.config, fetcher)?;
        let token = match &answer.id_token {
            Some(token) if self.config.wants_id_token() => Some(self.verify(fetcher, &metadata, token, nonce, now)?),
            None if self.config.wants_id_token() && nonce.is_some() => {
                return Err(ProviderError::Invalid("the provider gave no ID token".into()));
            }
            _ => None,
        };
        let userinfo = match &metadata.userinfo_endpoint {
            // Google's ID token has all the claims that are needed.
            Some(_) if self.config.is_google && token.is_some() => None,
            Some(url) => Some(self.userinfo(fetcher, url, &answer.access_token)?),
            None => None,
        };
        claims::person(&self.config, rules, &metadata, token, userinfo).map_err(ProviderError::Invalid)
    }

    fn verify(
        &self,
        fetcher: &Fetcher,
        metadata: &Metadata,
        token: &str,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<Map<String, Value>, ProviderError> {
        let issuer = |iss: &str, claims: &Map<String, Value>| self.is_issuer(metadata, iss, claims);
        let expected = Expected { issuer: &issuer, audience: &self.config.client_id, nonce, now };
        let mut outcome = id_token::verify(token, &*self.discovery.keys(fetcher, metadata, FRESH)?, &expected);
        if outcome == Err(id_token::Refusal::UnknownKey) {
            // The provider may have rotated its keys: fetch them again.
            outcome = id_token::verify(token, &*self.discovery.keys(fetcher, metadata, KEYS_AGAIN)?, &expected);
        }
        outcome.map_err(|refusal| {
            ProviderError::Invalid(match refusal {
                id_token::Refusal::UnknownKey => "the ID token: none of the provider's keys signed it".into(),
                id_token::Refusal::Invalid(why) => format!("the ID token: {why}"),
            })
        })
    }

    fn is_google_in_short(&self, metadata: &Metadata, iss: &str) -> bool {
        self.config.is_google && metadata.issuer.strip_prefix("https://") == Some(iss)
    }

    fn is_issuer(&self, metadata: &Metadata, iss: &str, claims: &Map<String, Value>) -> bool {
        if !metadata.issuer.contains(TENANT) {
            return iss == metadata.issuer || self.is_google_in_short(metadata, iss);
        }
        let Some(tenant) = claims.get("tid").and_then(Value::as_str) else { return false };
        let is_let_in = self.config.tenants.iter().any(|t| t.eq_ignore_ascii_case(tenant));
        is_let_in && metadata.issuer.replace(TENANT, tenant) == iss
    }

    fn userinfo(&self, fetcher: &Fetcher, url: &RemoteUrl, access: &str) -> Result<Map<String, Value>, ProviderError> {
        let bearer = format!("Bearer {access}");
        let answer = fetcher.get(url, &[(AUTHORIZATION, &bearer)]).map_err(|e| ProviderError::Unreachable(e.0))?;
        match answer.status.as_u16() {
            200 => serde_json::from_slice(&answer.body)
                .map_err(|_| ProviderError::Invalid("the userinfo endpoint's answer is no JSON object".into())),
            // A 403 counts as the provider's refusal only with WWW-Authenticate: other 403s may come from a firewall.
            401 => Err(ProviderError::Refused(format!("the userinfo endpoint answered {}", answer.status))),
            403 if answer.fields.contains_key(WWW_AUTHENTICATE) => {
                Err(ProviderError::Refused(format!("the userinfo endpoint answered {}", answer.status)))
            }
            _ => Err(ProviderError::Unreachable(format!("the userinfo endpoint answered {}", answer.status))),
        }
    }
}

/// Shortens and cleans a provider's error code; the result goes to the log only.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(40).collect()
}
