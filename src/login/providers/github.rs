//! GitHub, with an OAuth App or a GitHub App. It has its own variant of OAuth, and an API instead of claims.

use http::header::{ACCEPT, AUTHORIZATION, LINK};
use http::{HeaderName, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::authorization::{AuthorizationParameters, ProviderTokens, Renewed};
use super::error::ProviderError;
use crate::http::client::{Answer, Fetcher, RemoteUrl};
use crate::identity::UserId;
use crate::identity::{ProviderUser, UserProfile};
use crate::rules::Rules;

const PUBLIC: &str = "https://github.com";
const API_VERSION: HeaderName = HeaderName::from_static("x-github-api-version");
const SSO: HeaderName = HeaderName::from_static("x-github-sso");
/// Maximum number of pages to fetch from the list of e-mail addresses.
const MAX_PAGES: usize = 20;

/// Configuration of GitHub as an identity provider.
#[derive(Clone)]
pub struct GitHubConfig {
    /// The web URL, where people sign in.
    pub url: RemoteUrl,
    /// The URL of the REST API.
    pub api_url: RemoteUrl,
    /// Client id.
    pub client_id: String,
    /// Client secret.
    pub client_secret: String,
}

/// Client for GitHub's OAuth endpoints and API.
pub struct GitHubClient {
    config: GitHubConfig,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    refresh_token: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Account {
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    email: String,
    primary: bool,
    verified: bool,
}

#[derive(Deserialize)]
struct Membership {
    state: String,
}

impl GitHubClient {
    /// Creates the client; sends no request yet.
    pub fn new(config: GitHubConfig) -> GitHubClient {
        GitHubClient { config }
    }

    /// Identifies this provider and client id; part of the credential id.
    pub fn mark(&self) -> String {
        format!("{}\0{}", self.config.url, self.config.client_id)
    }

    /// Checks the `iss` of an authorization response (RFC 9207), which GitHub has sent only recently: it may be
    /// missing.
    pub fn check_issuer(&self, iss: Option<&str>) -> Result<(), ProviderError> {
        let own = format!("{}/login/oauth", self.config.url.to_string().trim_end_matches('/'));
        match iss {
            Some(iss) if iss != own => Err(ProviderError::Invalid("the answer came from another issuer (iss)".into())),
            _ => Ok(()),
        }
    }

    /// The URL of the authorization request. A GitHub App ignores the scopes, because it has permissions instead.
    pub fn authorize_url(
        &self,
        rules: &Rules,
        parameters: &AuthorizationParameters<'_>,
    ) -> Result<String, ProviderError> {
        let scope =
            if rules.groups.is_empty() && rules.asked_groups.is_empty() { "user:email" } else { "user:email read:org" };
        let mut query = vec![
            ("client_id", self.config.client_id.as_str()),
            ("redirect_uri", parameters.redirect_uri),
            ("scope", scope),
            ("state", parameters.state),
            ("code_challenge", parameters.challenge),
            ("code_challenge_method", "S256"),
        ];
        if parameters.another_account {
            query.push(("prompt", "select_account"));
        }
        Ok(self.page("/login/oauth/authorize")?.with_query(&query))
    }

    /// Exchanges the code for tokens and reads the user's profile.
    pub fn redeem(
        &self,
        fetcher: &Fetcher,
        rules: &Rules,
        code: &str,
        parameters: &AuthorizationParameters<'_>,
        verifier: &str,
    ) -> Result<(ProviderUser, ProviderTokens), ProviderError> {
        let form = [("code", code), ("redirect_uri", parameters.redirect_uri), ("code_verifier", verifier)];
        let (access, refresh) = self.ask_token_endpoint(fetcher, &form)?;
        let person = self.identify(fetcher, rules, &access)?;
        Ok((person, ProviderTokens { refresh, access: Some(access) }))
    }

    /// Refreshes the tokens if there is a refresh token; else returns the existing access token. `None` if there is
    /// neither.
    pub fn renew(&self, fetcher: &Fetcher, tokens: &ProviderTokens) -> Result<Option<Renewed>, ProviderError> {
        let (access, tokens) = match (&tokens.refresh, &tokens.access) {
            (Some(refresh), _) => {
                let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
                let (access, refresh) = self.ask_token_endpoint(fetcher, &form)?;
                (access.clone(), ProviderTokens { refresh, access: Some(access) })
            }
            (None, Some(access)) => (access.clone(), tokens.clone()),
            (None, None) => return Ok(None),
        };
        Ok(Some(Renewed { tokens, access, id_token: None, lacks_claims: false }))
    }

    /// Reads the user of the access token, and which of the groups in the allow rules the user is a member of.
    pub fn identify(&self, fetcher: &Fetcher, rules: &Rules, access: &str) -> Result<ProviderUser, ProviderError> {
        let account: Account = match self.ask(fetcher, "/user", access)? {
            answer if answer.status == StatusCode::OK => parse(&answer)?,
            // For example, the account is suspended.
            answer if answer.status == StatusCode::FORBIDDEN && !tells_of_limit(&answer) => {
                return Err(ProviderError::Refused("GitHub's API answered 403 for the account".into()));
            }
            answer => return Err(trouble(&answer)),
        };
        let email = self.primary_address(fetcher, access)?;
        let mut groups = Vec::new();
        for group in rules.groups.iter().chain(&rules.asked_groups) {
            let (org, team) = group.split_once(':').map_or((group.as_str(), None), |(o, t)| (o, Some(t)));
            if self.is_member(fetcher, access, org, team, &account.login)? {
                groups.push(group.clone());
            }
        }
        let place = self.config.url.to_string();
        let user = match place.trim_end_matches('/') {
            PUBLIC => format!("github:{}", account.id),
            _ => format!("github:{}:{}", self.config.url.host(), account.id),
        };
        let profile =
            UserProfile { id: Some(account.login), email, name: account.name, groups, ..UserProfile::default() };
        Ok(ProviderUser { user: UserId(user), profile })
    }

    fn page(&self, path: &str) -> Result<RemoteUrl, ProviderError> {
        self.config.url.join(path).map_err(ProviderError::Invalid)
    }

    /// Sends a request to the token endpoint. GitHub also sends errors with status 200, so the body is checked for
    /// `error`.
    fn ask_token_endpoint(
        &self,
        fetcher: &Fetcher,
        form: &[(&str, &str)],
    ) -> Result<(String, Option<String>), ProviderError> {
        let mut form = form.to_vec();
        form.extend([
            ("client_id", self.config.client_id.as_str()),
            ("client_secret", self.config.client_secret.as_str()),
        ]);
        let url = self.page("/login/oauth/access_token")?;
        let answer = fetcher.post_form(&url, &[], &form).map_err(|e| ProviderError::Unreachable(e.0))?;
        let parsed = serde_json::from_slice::<TokenAnswer>(&answer.body).ok();
        match parsed.map(|a| (a.access_token, a.refresh_token, a.error)) {
            Some((Some(access), refresh, None)) if answer.status == StatusCode::OK => Ok((access, refresh)),
            Some((_, _, Some(error))) => match error.as_str() {
                "bad_verification_code" | "bad_refresh_token" | "unverified_user_email" => {
                    Err(ProviderError::Refused(error))
                }
                "incorrect_client_credentials" | "redirect_uri_mismatch" => Err(ProviderError::Unreachable(format!(
                    "GitHub does not accept this proxy as its client ({error}): check --github-client-id, --github-client-secret and the callback URL"
                ))),
                _ => Err(ProviderError::Invalid("GitHub's token endpoint answered with an error".into())),
            },
            _ => Err(ProviderError::Unreachable(format!("GitHub's token endpoint answered {}", answer.status))),
        }
    }

    fn ask(&self, fetcher: &Fetcher, path: &str, access: &str) -> Result<Answer, ProviderError> {
        let url = self.config.api_url.join(path).map_err(ProviderError::Invalid)?;
        self.ask_at(fetcher, &url, access)
    }

    fn ask_at(&self, fetcher: &Fetcher, url: &RemoteUrl, access: &str) -> Result<Answer, ProviderError> {
        let bearer = format!("Bearer {access}");
        let fields =
            [(AUTHORIZATION, bearer.as_str()), (ACCEPT, "application/vnd.github+json"), (API_VERSION, "2022-11-28")];
        let answer = fetcher.get(url, &fields).map_err(|e| ProviderError::Unreachable(e.0))?;
        if answer.status == StatusCode::UNAUTHORIZED || is_passing(&answer) {
            return Err(trouble(&answer));
        }
        Ok(answer)
    }

    /// The primary address, if it is verified. Without the right to read addresses there is none.
    fn primary_address(&self, fetcher: &Fetcher, access: &str) -> Result<Option<String>, ProviderError> {
        let mut next = Some(self.config.api_url.join("/user/emails?per_page=100").map_err(ProviderError::Invalid)?);
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { return Ok(None) };
            let answer = self.ask_at(fetcher, &url, access)?;
            if answer.status != StatusCode::OK {
                return Ok(None);
            }
            let page: Vec<Address> = parse(&answer)?;
            if let Some(primary) = page.into_iter().find(|a| a.primary) {
                return Ok(primary.verified.then_some(primary.email));
            }
            next = next_page(&answer).filter(|url| url.origin() == self.config.api_url.origin());
        }
        Ok(None)
    }

    /// Is the person an active member? Asks for each organisation or team by name: if it is missing from a list, the
    /// person may still be a member whose membership is hidden.
    fn is_member(
        &self,
        fetcher: &Fetcher,
        access: &str,
        org: &str,
        team: Option<&str>,
        login: &str,
    ) -> Result<bool, ProviderError> {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let path = match team {
            None => format!("/user/memberships/orgs/{}", encode(org)),
            Some(team) => format!("/orgs/{}/teams/{}/memberships/{}", encode(org), encode(team), encode(login)),
        };
        let answer = self.ask(fetcher, &path, access)?;
        if answer.fields.get(SSO).and_then(|v| v.to_str().ok()).is_some_and(|v| v.starts_with("required")) {
            log::warn!(organisation = org, login = login; "the organisation requires single sign-on: its members have to sign in there (https://github.com/orgs/ORGANISATION/sso) and then here again");
        }
        match answer.status {
            StatusCode::FORBIDDEN if tells_of_limit(&answer) => Err(trouble(&answer)),
            StatusCode::OK => Ok(parse::<Membership>(&answer)?.state == "active"),
            // Not a member, or the application may not see it.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(false),
            _ => Err(trouble(&answer)),
        }
    }
}

/// The next page of a list (RFC 8288).
fn next_page(answer: &Answer) -> Option<RemoteUrl> {
    let links = answer.fields.get(LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once('<')?;
    RemoteUrl::parse(rest.split_once('>')?.0).ok()
}

fn parse<T: DeserializeOwned>(answer: &Answer) -> Result<T, ProviderError> {
    serde_json::from_slice(&answer.body).map_err(|_| ProviderError::Invalid("GitHub's answer is malformed".into()))
}

/// GitHub reports some rate limits only in the text of the body.
fn tells_of_limit(answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body).to_ascii_lowercase();
    ["rate limit", "abuse"].iter().any(|words| text.contains(words))
}

/// Is this a temporary error, a rate limit or a 5xx status? It says nothing about the person.
fn is_passing(answer: &Answer) -> bool {
    let is_used_up = answer.fields.get("x-ratelimit-remaining").is_some_and(|v| v == "0");
    let is_limited =
        answer.status == StatusCode::FORBIDDEN && (is_used_up || answer.fields.contains_key("retry-after"));
    is_limited || answer.status == StatusCode::TOO_MANY_REQUESTS || answer.status.is_server_error()
}

fn trouble(answer: &Answer) -> ProviderError {
    match answer.status {
        StatusCode::UNAUTHORIZED => ProviderError::Refused("GitHub does not accept the access token any more".into()),
        status => ProviderError::Unreachable(format!("GitHub's API answered {status}")),
    }
}
