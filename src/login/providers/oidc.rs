//! OpenID Connect providers, Google among them: discovery, the authorization code flow as a client, and what their
//! claims say (OpenID Connect Core 1.0, Discovery 1.0).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::byte_serialize;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderName, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::id_token::{self, Expected, KeySet};
use super::rules::{Identity, Person, Rules, strings};
use super::{Hop, ProviderTokens, Renewed, Trouble};
use crate::clock::Timestamp;
use crate::identity::UserId;
use crate::net::fetch::{Answer, Fetcher, RemoteUrl};

/// How long a discovery document and keys are used without a look at newer ones.
const FRESH: Duration = Duration::from_secs(3_600);
/// How soon after a look at the document that was in vain another is worth it.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// How soon after a look at the keys another is worth it.
const KEYS_AGAIN: Duration = Duration::from_secs(1);
/// What stands for the tenant in the issuer of a provider that serves many.
const TENANT: &str = "{tenantid}";
/// The user id field that allow rules compare without case, and only when it is verified.
pub const EMAIL_FIELD: &str = "/email";

/// How to speak to the provider.
#[derive(Clone)]
pub struct OidcConfig {
    /// The discovery document.
    pub configuration_url: RemoteUrl,
    /// Client id.
    pub client_id: String,
    /// Client secret.
    pub client_secret: String,
    /// Scopes.
    pub scopes: Vec<String>,
    /// JSON pointer to what allow rules compare.
    pub id_field: String,
    /// JSON pointer to the groups.
    pub groups_field: String,
    /// Tenants that are let in.
    pub tenants: Vec<String>,
    /// It is Google, whose habits differ a little.
    pub is_google: bool,
}

impl OidcConfig {
    /// Does the URL of the discovery document stand for many tenants?
    pub fn serves_many_tenants(&self) -> bool {
        let url = self.configuration_url.to_string();
        ["/common/", "/organizations/", "/consumers/"].iter().any(|p| url.contains(p)) || url.contains(TENANT)
    }
}

/// The provider.
pub struct OidcClient {
    config: OidcConfig,
    metadata: Mutex<Option<(Instant, Arc<Metadata>)>>,
    reading: Mutex<()>,
    read_in_vain: Mutex<Option<(Instant, String)>>,
    keys: Mutex<Option<(Instant, Arc<KeySet>)>>,
    /// The secret has proved to go where it was not tried first.
    other_way: AtomicBool,
}

/// The discovery document, as far as it is used.
#[derive(Debug)]
struct Metadata {
    issuer: String,
    authorization_endpoint: RemoteUrl,
    token_endpoint: RemoteUrl,
    userinfo_endpoint: Option<RemoteUrl>,
    jwks_uri: Option<RemoteUrl>,
    /// RFC 9207: the answer names the issuer.
    has_iss: bool,
    /// The secret goes into the form (`client_secret_post`), where nothing has to be agreed on about its encoding.
    secret_in_form: bool,
    /// It may go into a field as well (`client_secret_basic`).
    has_both_ways: bool,
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

/// Why the token endpoint gave no tokens.
enum NoTokens {
    /// It does not know who asks: its word for it.
    Client(String),
    Other(Trouble),
}

impl From<Trouble> for NoTokens {
    fn from(trouble: Trouble) -> NoTokens {
        NoTokens::Other(trouble)
    }
}

impl NoTokens {
    fn into_trouble(self) -> Trouble {
        match self {
            NoTokens::Other(trouble) => trouble,
            NoTokens::Client(error) => Trouble::Unreachable(format!(
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
    /// Nothing is asked yet.
    pub fn new(config: OidcConfig) -> OidcClient {
        OidcClient {
            config,
            metadata: Mutex::default(),
            reading: Mutex::default(),
            read_in_vain: Mutex::default(),
            keys: Mutex::default(),
            other_way: AtomicBool::new(false),
        }
    }

    /// Tells this provider from others, in credentials.
    pub fn mark(&self) -> String {
        format!("{}\0{}", self.config.configuration_url, self.config.client_id)
    }

    /// Looks at the discovery document.
    pub fn look(&self, fetcher: &Fetcher) -> Result<(), Trouble> {
        self.read_metadata(fetcher).map(drop).map_err(Trouble::Unreachable)
    }

    /// Does a refresh token last beyond the session that the person has at the provider?
    pub fn lasts(&self) -> bool {
        self.config.is_google || self.config.scopes.iter().any(|s| s == "offline_access")
    }

    /// Google gives a refresh token at the first consent only, unless the person is asked for consent again.
    pub fn gives_more_with_consent(&self) -> bool {
        self.config.is_google
    }

    /// Checks what came back besides the code (RFC 9207).
    pub fn check_issuer(&self, fetcher: &Fetcher, iss: Option<&str>) -> Result<(), Trouble> {
        let metadata = self.metadata(fetcher)?;
        match iss {
            Some(iss) if iss == metadata.issuer || self.is_google_in_short(&metadata, iss) => Ok(()),
            // Which tenant's it is, the token says.
            Some(_) if metadata.issuer.contains(TENANT) => Ok(()),
            Some(_) => Err(Trouble::Invalid("the answer came from another issuer (iss)".into())),
            None if metadata.has_iss => Err(Trouble::Invalid(
                "the answer does not name its issuer (iss), though the provider says that its answers do; with Keycloak, \
                 switch off 'Exclude Issuer From Authentication Response' for this client"
                    .into(),
            )),
            None => Ok(()),
        }
    }

    /// Where the browser goes (OpenID Connect Core section 3.1.2.1).
    pub fn authorize_url(&self, fetcher: &Fetcher, hop: &Hop<'_>) -> Result<String, Trouble> {
        let metadata = self.metadata(fetcher)?;
        let scopes = self.config.scopes.join(" ");
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", self.config.client_id.as_str()),
            ("redirect_uri", hop.redirect_uri),
            ("scope", scopes.as_str()),
            ("state", hop.state),
            ("code_challenge", hop.challenge),
            ("code_challenge_method", "S256"),
        ];
        if self.wants_id_token() {
            parameters.push(("nonce", hop.nonce));
        }
        if self.config.is_google {
            parameters.push(("access_type", "offline"));
        }
        let prompt = match (hop.another_account, self.config.is_google) {
            _ if hop.consent => Some("consent"),
            (true, true) => Some("select_account"),
            (true, false) => Some("login"),
            (false, _) => None,
        };
        parameters.extend(prompt.map(|prompt| ("prompt", prompt)));
        Ok(metadata.authorization_endpoint.with_query(&parameters))
    }

    /// Redeems a code and learns who it is.
    pub fn redeem(
        &self,
        fetcher: &Fetcher,
        rules: &Rules,
        code: &str,
        hop: &Hop<'_>,
        verifier: &str,
        now: Timestamp,
    ) -> Result<(Person, ProviderTokens), Trouble> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", hop.redirect_uri),
            ("code_verifier", verifier),
        ];
        let answer = self.ask_token_endpoint(fetcher, &form)?;
        let person = self.identify(fetcher, rules, &answer, Some(hop.nonce), now)?;
        Ok((person, ProviderTokens { refresh: answer.refresh_token, access: None }))
    }

    /// Gets new tokens for the refresh token.
    pub fn renew(&self, fetcher: &Fetcher, tokens: &ProviderTokens) -> Result<Option<Renewed>, Trouble> {
        let Some(refresh) = &tokens.refresh else { return Ok(None) };
        let scopes = self.config.scopes.join(" ");
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str()), ("scope", scopes.as_str())];
        let answer = self.ask_token_endpoint(fetcher, &form)?;
        let kept = answer.refresh_token.clone().unwrap_or_else(|| refresh.clone());
        let lacks_claims = self.wants_id_token() && answer.id_token.is_none();
        Ok(Some(Renewed {
            tokens: ProviderTokens { refresh: Some(kept), access: None },
            access: answer.access_token,
            id_token: answer.id_token,
            lacks_claims,
        }))
    }

    /// Who the new tokens belong to.
    pub fn whose(
        &self,
        fetcher: &Fetcher,
        rules: &Rules,
        renewed: &Renewed,
        now: Timestamp,
    ) -> Result<Person, Trouble> {
        let answer = TokenAnswer {
            access_token: renewed.access.clone(),
            id_token: renewed.id_token.clone(),
            refresh_token: None,
        };
        self.identify(fetcher, rules, &answer, None, now)
    }

    fn wants_id_token(&self) -> bool {
        self.config.scopes.iter().any(|s| s == "openid")
    }

    fn metadata(&self, fetcher: &Fetcher) -> Result<Arc<Metadata>, Trouble> {
        let known = lock(&self.metadata).clone();
        if let Some((at, metadata)) = &known
            && at.elapsed() < FRESH
        {
            return Ok(metadata.clone());
        }
        if let Some((at, why)) = &*lock(&self.read_in_vain)
            && at.elapsed() < READ_AGAIN
        {
            return known.map(|(_, metadata)| metadata).ok_or_else(|| Trouble::Unreachable(why.clone()));
        }
        // One thread reads; others go by what is known.
        let Ok(_reading) = self.reading.try_lock() else {
            return known.map(|(_, m)| m).ok_or(Trouble::Unreachable("its discovery document is not there yet".into()));
        };
        match (self.read_metadata(fetcher), known) {
            (Ok(metadata), _) => Ok(metadata),
            // What was true an hour ago is better than nothing.
            (Err(why), Some((_, metadata))) => {
                log::debug!(reason = why.as_str(); "a discovery document could not be read again");
                Ok(metadata)
            }
            (Err(why), None) => Err(Trouble::Unreachable(why)),
        }
    }

    fn read_metadata(&self, fetcher: &Fetcher) -> Result<Arc<Metadata>, String> {
        let url = &self.config.configuration_url;
        let found = fetcher
            .get(url, &[])
            .map_err(|e| e.0)
            .and_then(|answer| document(&answer).map_err(String::from))
            .and_then(|body| Metadata::parse(&body).map_err(|e| format!("{}: {e}", url.host())))
            .and_then(|metadata| self.check_metadata(metadata))
            .map(Arc::new);
        *lock(&self.read_in_vain) = found.as_ref().err().map(|why| (Instant::now(), why.clone()));
        if let Ok(metadata) = &found {
            *lock(&self.metadata) = Some((Instant::now(), metadata.clone()));
        }
        found
    }

    fn check_metadata(&self, metadata: Metadata) -> Result<Metadata, String> {
        if metadata.issuer.contains(TENANT) && self.config.tenants.is_empty() {
            return Err("the provider serves many tenants: name those to let in with --oidc-allowed-tenants (OIDC_ALLOWED_TENANTS)".into());
        }
        // One that is reached over the network has nothing to do on this machine.
        let is_plain = |url: &RemoteUrl| url.origin().starts_with("http://");
        let has_plain = is_plain(&metadata.authorization_endpoint)
            || is_plain(&metadata.token_endpoint)
            || metadata.userinfo_endpoint.as_ref().is_some_and(is_plain)
            || metadata.jwks_uri.as_ref().is_some_and(is_plain);
        if has_plain && !is_plain(&self.config.configuration_url) {
            return Err("the discovery document names an endpoint that is not https".into());
        }
        if self.wants_id_token() && metadata.jwks_uri.is_none() {
            return Err("the discovery document names no keys (jwks_uri)".into());
        }
        Ok(metadata)
    }

    fn keys(&self, fetcher: &Fetcher, metadata: &Metadata, max_age: Duration) -> Result<Arc<KeySet>, Trouble> {
        let known = lock(&self.keys).clone();
        if let Some((at, keys)) = &known
            && at.elapsed() < max_age
        {
            return Ok(keys.clone());
        }
        let url = metadata.jwks_uri.as_ref().ok_or(Trouble::Invalid("the provider names no keys".into()))?;
        let answer = fetcher.get(url, &[]).map_err(|e| Trouble::Unreachable(e.0))?;
        let keys = document(&answer).and_then(|body| KeySet::parse(&body));
        let keys = Arc::new(keys.map_err(|why| Trouble::Unreachable(format!("the provider's keys: {why}")))?);
        *lock(&self.keys) = Some((Instant::now(), keys.clone()));
        Ok(keys)
    }

    /// Proves who asks in the way that the provider knows; which of two it knows for this client, only trying shows.
    fn ask_token_endpoint(&self, fetcher: &Fetcher, form: &[(&str, &str)]) -> Result<TokenAnswer, Trouble> {
        let metadata = self.metadata(fetcher)?;
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
            fetcher.post_form(&metadata.token_endpoint, &fields, &form).map_err(|e| Trouble::Unreachable(e.0))?;
        if answer.status == StatusCode::OK {
            let tokens = serde_json::from_slice(&answer.body);
            return Ok(tokens.map_err(|_| Trouble::Invalid("the token endpoint's answer is malformed".into()))?);
        }
        #[derive(Deserialize)]
        struct ErrorAnswer {
            error: String,
        }
        let error = serde_json::from_slice::<ErrorAnswer>(&answer.body).map(|e| shorten(&e.error)).unwrap_or_default();
        match error.as_str() {
            "invalid_grant" | "interaction_required" | "consent_required" | "login_required" => {
                Err(Trouble::Refused(error))?
            }
            "invalid_client" | "unauthorized_client" => Err(NoTokens::Client(error)),
            _ if answer.status.is_client_error() && answer.status != StatusCode::TOO_MANY_REQUESTS => {
                Err(Trouble::Invalid(format!("the token endpoint answered {} {error}", answer.status)))?
            }
            _ => Err(Trouble::Unreachable(format!("the token endpoint answered {} {error}", answer.status)))?,
        }
    }

    fn identify(
        &self,
        fetcher: &Fetcher,
        rules: &Rules,
        answer: &TokenAnswer,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<Person, Trouble> {
        let metadata = self.metadata(fetcher)?;
        let token = match &answer.id_token {
            Some(token) if self.wants_id_token() => Some(self.verify(fetcher, &metadata, token, nonce, now)?),
            None if self.wants_id_token() && nonce.is_some() => {
                return Err(Trouble::Invalid("the provider gave no ID token".into()));
            }
            _ => None,
        };
        let userinfo = match &metadata.userinfo_endpoint {
            // Google's ID token says it all.
            Some(_) if self.config.is_google && token.is_some() => None,
            Some(url) => Some(self.userinfo(fetcher, url, &answer.access_token)?),
            None => None,
        };
        self.person(rules, &metadata, token, userinfo).map_err(Trouble::Invalid)
    }

    fn verify(
        &self,
        fetcher: &Fetcher,
        metadata: &Metadata,
        token: &str,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<Map<String, Value>, Trouble> {
        let issuer = |iss: &str, claims: &Map<String, Value>| self.is_issuer(metadata, iss, claims);
        let expected = Expected { issuer: &issuer, audience: &self.config.client_id, nonce, now };
        let mut outcome = id_token::verify(token, &*self.keys(fetcher, metadata, FRESH)?, &expected);
        if outcome == Err(id_token::Refusal::UnknownKey) {
            // They may have been replaced since.
            outcome = id_token::verify(token, &*self.keys(fetcher, metadata, KEYS_AGAIN)?, &expected);
        }
        outcome.map_err(|refusal| {
            Trouble::Invalid(match refusal {
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

    fn userinfo(&self, fetcher: &Fetcher, url: &RemoteUrl, access: &str) -> Result<Map<String, Value>, Trouble> {
        let bearer = format!("Bearer {access}");
        let answer = fetcher.get(url, &[(AUTHORIZATION, &bearer)]).map_err(|e| Trouble::Unreachable(e.0))?;
        match answer.status.as_u16() {
            200 => serde_json::from_slice(&answer.body)
                .map_err(|_| Trouble::Invalid("the userinfo endpoint's answer is no JSON object".into())),
            // Some 403 are of a firewall on the way.
            401 => Err(Trouble::Refused(format!("the userinfo endpoint answered {}", answer.status))),
            403 if answer.fields.contains_key(WWW_AUTHENTICATE) => {
                Err(Trouble::Refused(format!("the userinfo endpoint answered {}", answer.status)))
            }
            _ => Err(Trouble::Unreachable(format!("the userinfo endpoint answered {}", answer.status))),
        }
    }

    /// What the claims of the ID token and of the userinfo endpoint say together.
    fn person(
        &self,
        rules: &Rules,
        metadata: &Metadata,
        token: Option<Map<String, Value>>,
        userinfo: Option<Map<String, Value>>,
    ) -> Result<Person, String> {
        let text = |claims: &Map<String, Value>, name: &str| {
            claims.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(String::from)
        };
        let sources: Vec<&Map<String, Value>> = token.iter().chain(&userinfo).collect();
        let agree = |name: &str| {
            let mut said = sources.iter().filter_map(|s| text(s, name));
            let first = said.next();
            let is_same = said.all(|other| Some(other.to_lowercase()) == first.as_ref().map(|f| f.to_lowercase()));
            if is_same { Ok(first) } else { Err(format!("ID token and userinfo disagree about {name}")) }
        };
        let subject = agree("sub")?.ok_or("the provider does not say who it is (sub)")?;
        if sources.len() == 2 && text(sources[0], "sub") != text(sources[1], "sub") {
            return Err("ID token and userinfo are of different people".into());
        }
        let email = agree("email")?.filter(|_| self.is_email_verified(metadata, &sources));
        let issuer = token.as_ref().and_then(|t| text(t, "iss")).unwrap_or_else(|| metadata.issuer.clone());
        let workspace = token.as_ref().filter(|_| self.config.is_google).and_then(|t| text(t, "hd"));

        let mut all = userinfo.clone().unwrap_or_default();
        all.extend(token.clone().unwrap_or_default());
        if email.is_none() {
            // Nor by a pointer to it.
            all.remove("email");
        }
        let all = Value::Object(all);
        let id = match self.config.id_field.as_str() {
            EMAIL_FIELD => email.clone(),
            pointer => all.pointer(pointer).and_then(Value::as_str).filter(|t| !t.is_empty()).map(String::from),
        };
        let mut groups = strings(all.pointer(&self.config.groups_field));
        groups.sort();
        groups.dedup();
        if groups.is_empty() && all.get("_claim_names").and_then(|c| c.get("groups")).is_some() {
            log::warn!(subject = subject.as_str(); "the provider names no groups of a person who is in too many (Entra ID: over 200); use app roles with --oidc-groups-field /roles (OIDC_GROUPS_FIELD), or assign only the groups that matter to the application");
        }
        let has = |attribute: &&String| {
            let (pointer, value) = attribute.split_once('=').unwrap_or_default();
            strings(all.pointer(pointer)).iter().any(|v| v == value)
        };
        let attributes = rules.attributes.iter().filter(has).cloned().collect();
        let user = match self.config.is_google {
            true => format!("google:{subject}"),
            false => format!("oidc:{issuer}:{subject}"),
        };
        let name = ["name", "preferred_username"].iter().find_map(|n| all.get(*n)?.as_str().map(String::from));
        let mut identity = Identity { id, email, name, groups, workspace, attributes };
        identity.bound(rules);
        Ok(Person { user: UserId(user), identity })
    }

    /// Does the provider vouch for the address? One that serves a single organisation does unless it says no; one that
    /// serves many has to say so.
    fn is_email_verified(&self, metadata: &Metadata, sources: &[&Map<String, Value>]) -> bool {
        let said = |name: &str| -> Vec<bool> {
            let values = sources.iter().filter_map(|s| s.get(name));
            values
                .map(|v| match v {
                    Value::Bool(b) => *b,
                    Value::String(s) => s.eq_ignore_ascii_case("true") || s == "1",
                    Value::Number(n) => n.as_u64() == Some(1),
                    _ => false,
                })
                .collect()
        };
        let verified = said("email_verified");
        if !verified.is_empty() {
            return verified.iter().all(|v| *v);
        }
        // Entra ID: the domain of the address belongs to the tenant.
        let of_domain = said("xms_edov");
        let serves_many =
            self.config.is_google || self.config.serves_many_tenants() || metadata.issuer.contains(TENANT);
        if serves_many { of_domain.contains(&true) } else { !of_domain.contains(&false) }
    }
}

/// The body of an answer that is the document asked for.
fn document(answer: &Answer) -> Result<Vec<u8>, &'static str> {
    if answer.status == StatusCode::OK { Ok(answer.body.clone()) } else { Err("the document is not there") }
}

/// A provider's word, for the log only.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(40).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
