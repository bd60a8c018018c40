//! Trusted issuers (`--trusted-issuers`): whoever may name users or workloads by a signed JWT, without a sign-in here.

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::encoding::digest;
use crate::http::client::{Fetcher, RemoteUrl};
use crate::identity::{CredentialId, UserId, UserProfile};
use crate::lock::Unpoisoned;
use crate::rules::{Rules, fits_glob, strings};
use crate::tokens::jwt::{KeySet, Unverified};

/// How long the keys of an issuer are used before they are fetched again.
const FRESH: Duration = Duration::from_secs(3_600);
/// An issuer is not asked for its keys again within this time, whatever tokens come.
const AGAIN: Duration = Duration::from_secs(10);

/// What the assertions of an issuer can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AssertionKind {
    /// An identity assertion (ID-JAG) about a person, for a client: enterprise-managed authorization.
    Enterprise,
    /// The token of a workload, such as a CI job or a pod.
    Workload,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysAt {
    /// In its discovery document: OpenID Connect Discovery, or RFC 8414.
    Discovery(Vec<RemoteUrl>),
    /// At this URL.
    Url(RemoteUrl),
}

/// Which claims say what, as JSON pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// The id that rules compare.
    pub id: String,
    /// Groups.
    pub groups: String,
    /// How the person is called.
    pub name: String,
}

/// A rule on claims: all of its patterns have to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRule {
    /// JSON pointers, each with patterns of which one has to fit.
    pub claims: Vec<(String, Vec<String>)>,
    /// The names of the servers that it opens; empty for all.
    pub servers: Vec<String>,
}

/// One trusted issuer, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// Its name in the file, which rules and the log use.
    pub name: String,
    /// Its issuer identifier, byte for byte the `iss` of its tokens.
    pub issuer: String,
    /// Where its keys are.
    pub keys: KeysAt,
    /// What its assertions can be.
    pub kinds: Vec<AssertionKind>,
    /// The audiences of workload tokens that are for this proxy; empty for the token endpoint and the issuer.
    pub audiences: Vec<String>,
    /// E-mail domains that it may vouch for.
    pub email_domains: Vec<String>,
    /// Which claims say what.
    pub claims: ClaimNames,
    /// Which of its users and workloads may use which servers.
    pub rules: Vec<ClaimRule>,
    /// Lifetime of access tokens, in seconds.
    pub token_lifetime: u64,
    /// The prefix of user ids, if a configured provider has the same issuer: `google:` or `oidc:ISSUER:`.
    pub same_as: Option<String>,
}

impl TrustedIssuer {
    /// The credential of its users.
    pub fn credential(&self) -> CredentialId {
        CredentialId::of_issuer(&self.name)
    }

    /// May whoever has these claims use the server, by the rules on claims?
    pub fn opens(&self, claims: &Value, server: &str) -> bool {
        let has = |pointer: &str, patterns: &[String]| {
            let values = strings(claims.pointer(pointer));
            patterns.iter().any(|pattern| values.iter().any(|value| fits_glob(pattern, value)))
        };
        self.rules.iter().any(|rule| {
            let is_opened = rule.servers.is_empty() || rule.servers.iter().any(|name| name == server);
            is_opened && rule.claims.iter().all(|(pointer, patterns)| has(pointer, patterns))
        })
    }

    /// The user whom an assertion is about: issuer, tenant and subject, or the same user as at the provider with this issuer.
    pub fn person(&self, claims: &Map<String, Value>) -> Option<UserId> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let subject = text("sub")?;
        Some(UserId(match (&self.same_as, text("tenant")) {
            (Some(prefix), None) => format!("{prefix}{subject}"),
            // No issuer has a fragment, so a tenant can't be taken for a part of it.
            (_, Some(tenant)) => format!("oidc:{}#{}:{subject}", self.issuer, digest(tenant.as_bytes())),
            (None, None) => format!("oidc:{}:{subject}", self.issuer),
        }))
    }

    /// The workload that has these claims. Its id is not that of any person.
    pub fn workload(&self, claims: &Map<String, Value>) -> Option<UserId> {
        let subject = claims.get("sub").and_then(Value::as_str).filter(|text| !text.is_empty())?;
        Some(UserId(format!("workload:{}:{subject}", self.name)))
    }

    /// What the claims say, as far as the proxy uses it.
    pub fn profile(&self, claims: &Map<String, Value>) -> UserProfile {
        let email = claims.get("email").and_then(Value::as_str).filter(|email| self.vouches_for(email, claims));
        let mut visible = claims.clone();
        if email.is_none() {
            // No JSON pointer of the configuration may read an address that does not count.
            visible.remove("email");
        }
        let visible = Value::Object(visible);
        let text = |pointer: &str| visible.pointer(pointer).and_then(Value::as_str).filter(|t| !t.is_empty());
        let mut groups = strings(visible.pointer(&self.claims.groups));
        groups.sort();
        groups.dedup();
        let mut profile = UserProfile {
            id: text(&self.claims.id).map(String::from),
            email: email.map(String::from),
            name: text(&self.claims.name).map(String::from),
            groups,
            ..UserProfile::default()
        };
        Rules::default().bound(&mut profile);
        profile
    }

    /// Does an address count: verified, and in a domain that the issuer may vouch for?
    fn vouches_for(&self, email: &str, claims: &Map<String, Value>) -> bool {
        let is_verified = match claims.get("email_verified") {
            Some(Value::Bool(is)) => *is,
            Some(Value::String(is)) => is == "true",
            _ => false,
        };
        let domain = email.rsplit_once('@').map(|(_, domain)| domain).unwrap_or_default();
        is_verified && self.email_domains.iter().any(|known| known.eq_ignore_ascii_case(domain))
    }
}

/// Why an assertion is not accepted.
pub enum Refusal {
    /// Its issuer's keys can't be had at the moment.
    NoKeys(String),
    /// None of the issuer's keys has signed it.
    UnknownKey,
}

/// An issuer with its keys.
pub struct Issuer {
    /// As configured.
    pub config: TrustedIssuer,
    /// A digest of its settings. A token that was issued under settings with another digest is refused.
    pub digest: String,
    keys: Mutex<Option<(Instant, Arc<KeySet>)>>,
    tried_at: Mutex<Option<Instant>>,
}

impl Issuer {
    fn new(config: TrustedIssuer) -> Issuer {
        let mut digest = digest(format!("{config:?}").as_bytes());
        digest.truncate(12);
        Issuer { config, digest, keys: Mutex::default(), tried_at: Mutex::default() }
    }

    /// Verifies the signature of a token whose `iss` is this issuer's.
    pub fn verify(&self, fetcher: &Fetcher, token: &Unverified<'_>) -> Result<(), Refusal> {
        let known = self.keys.lock().unpoisoned().clone();
        let has_signed = |keys: &KeySet| {
            token.verify(keys).is_some_and(|key| key.issuer.as_ref().is_none_or(|of| *of == self.config.issuer))
        };
        if let Some((at, keys)) = &known
            && at.elapsed() < FRESH
            && has_signed(keys)
        {
            return Ok(());
        }
        // The issuer may have rotated its keys. Nobody can make the proxy ask more often than every few seconds.
        let mut tried_at = self.tried_at.lock().unpoisoned();
        if tried_at.is_some_and(|at| at.elapsed() < AGAIN) {
            return match known {
                Some((_, keys)) if has_signed(&keys) => Ok(()),
                Some(_) => Err(Refusal::UnknownKey),
                None => Err(Refusal::NoKeys("they could not be fetched a moment ago".into())),
            };
        }
        *tried_at = Some(Instant::now());
        drop(tried_at);
        match (self.fetch(fetcher), known) {
            (Ok(keys), _) => {
                let keys = Arc::new(keys);
                *self.keys.lock().unpoisoned() = Some((Instant::now(), keys.clone()));
                if has_signed(&keys) { Ok(()) } else { Err(Refusal::UnknownKey) }
            }
            (Err(_), Some((_, keys))) if has_signed(&keys) => Ok(()),
            (Err(why), _) => Err(Refusal::NoKeys(why)),
        }
    }

    fn fetch(&self, fetcher: &Fetcher) -> Result<KeySet, String> {
        let url = match &self.config.keys {
            KeysAt::Url(url) => url.clone(),
            KeysAt::Discovery(documents) => self.discover(fetcher, documents)?,
        };
        let answer = fetcher.get(&url, &[]).map_err(|e| e.0)?;
        if answer.status != StatusCode::OK {
            return Err(format!("{}: it answers {}", url.host(), answer.status));
        }
        KeySet::parse(&answer.body).map_err(|why| format!("{}: {why}", url.host()))
    }

    fn discover(&self, fetcher: &Fetcher, documents: &[RemoteUrl]) -> Result<RemoteUrl, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let mut last = String::from("it has no discovery document");
        for url in documents {
            match fetcher.get(url, &[]) {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let document: Document = serde_json::from_slice(&answer.body)
                        .map_err(|_| format!("{url}: it is no discovery document with jwks_uri"))?;
                    if document.issuer != self.config.issuer {
                        return Err(format!("{url} names another issuer"));
                    }
                    let keys = RemoteUrl::parse(&document.jwks_uri)?;
                    let is_plain = |url: &RemoteUrl| url.origin().starts_with("http://");
                    return match is_plain(&keys) && !is_plain(url) {
                        true => Err(format!("{url} names keys at a URL that is not https")),
                        false => Ok(keys),
                    };
                }
                Ok(answer) => last = format!("{url}: it answers {}", answer.status),
                Err(e) => last = e.0,
            }
        }
        Err(last)
    }
}

/// All trusted issuers. A reload replaces them.
pub struct Issuers {
    all: RwLock<Arc<Vec<Arc<Issuer>>>>,
    /// Gets their keys.
    pub fetcher: Fetcher,
}

impl Issuers {
    /// No key is fetched yet.
    pub fn new(configs: Vec<TrustedIssuer>, fetcher: Fetcher) -> Issuers {
        let all = configs.into_iter().map(|config| Arc::new(Issuer::new(config))).collect();
        Issuers { all: RwLock::new(Arc::new(all)), fetcher }
    }

    /// Takes these instead of the current ones. One that has not changed keeps its keys.
    pub fn replace(&self, configs: Vec<TrustedIssuer>) {
        let before = self.all();
        let kept = |config: &TrustedIssuer| before.iter().find(|issuer| issuer.config == *config).cloned();
        let all = configs.into_iter().map(|config| kept(&config).unwrap_or_else(|| Arc::new(Issuer::new(config))));
        *self.all.write().unpoisoned() = Arc::new(all.collect());
    }

    /// All of them.
    pub fn all(&self) -> Arc<Vec<Arc<Issuer>>> {
        self.all.read().unpoisoned().clone()
    }

    /// Does one of them have assertions of this kind?
    pub fn has(&self, kind: AssertionKind) -> bool {
        self.all().iter().any(|issuer| issuer.config.kinds.contains(&kind))
    }

    /// The one with this issuer identifier that has assertions of this kind.
    pub fn find(&self, issuer: &str, kind: AssertionKind) -> Option<Arc<Issuer>> {
        let is_it = |known: &&Arc<Issuer>| known.config.issuer == issuer && known.config.kinds.contains(&kind);
        self.all().iter().find(is_it).cloned()
    }

    /// The one that a credential belongs to.
    pub fn of_credential(&self, credential: &CredentialId) -> Option<Arc<Issuer>> {
        let name = credential.as_str().strip_prefix("issuer:")?;
        self.all().iter().find(|issuer| issuer.config.name == name).cloned()
    }

    /// The one with this name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Issuer>> {
        self.all().iter().find(|issuer| issuer.config.name == name).cloned()
    }
}
