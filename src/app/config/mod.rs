//! The typed, validated configuration. Each error names the flag and its environment variable, and says what to do.

pub mod clients;
pub mod issuers;
pub mod limits;
pub mod monitoring;
pub mod passwords;
pub mod providers;
pub mod servers;
pub mod tls;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::ClientConfig;

use self::clients::IdentityFieldNames;
use self::servers::Servers;
use self::tls::TlsNotice;
use super::routes::Surface;
use crate::core::Lifetimes;
use crate::flags::Settings;
use crate::http::client::Proxies;
use crate::login::htpasswd::Groups;
use crate::login::issuers::TrustedIssuer;
use crate::login::password::Password;
use crate::login::providers::ProviderConfig;
use crate::net::tls as net_tls;
use crate::oauth::clients::ClientPolicy;
use crate::pages::{Logo, MAX_LOGO, Site};
use crate::resource::admission::Bounds;
use crate::resource::rate_limits::RateLimitConfig;
use crate::servers_file::Note;
use crate::tls::config::{Source, TlsConfig};
use crate::tokens::Secret;
use crate::url::{ExternalUrl, Listen};

/// All settings, validated.
pub struct Config {
    /// Where to listen without TLS.
    pub listen: Listen,
    /// The TLS server; `None` if this proxy serves plain HTTP only.
    pub tls: Option<TlsConfig>,
    /// Why this proxy serves no TLS although the external URL is https.
    pub tls_notice: TlsNotice,
    /// The issuer and audience of every token.
    pub external: ExternalUrl,
    /// What all pages have in common.
    pub site: Site,
    /// The data directory, which holds the secret and the state.
    pub data_path: PathBuf,
    /// The passwords that users can sign in with; empty if there is no sign-in by password.
    pub passwords: Vec<Password>,
    /// Groups of the users of the htpasswd file.
    pub groups: Groups,
    /// Sign-ins that may wait for a password check.
    pub password_queue: usize,
    /// External identity providers.
    pub providers: Vec<ProviderConfig>,
    /// Which clients there may be.
    pub clients: ClientPolicy,
    /// Whoever may name users or workloads without a sign-in.
    pub issuers: Vec<TrustedIssuer>,
    /// Accept API keys.
    pub has_api_keys: bool,
    /// What is told upstream about users.
    pub identity_fields: IdentityFieldNames,
    /// Is anything kept in the data directory? Not by the demo.
    pub is_kept: bool,
    /// With one provider and no password, skip the sign-in page.
    pub auto_select: bool,
    /// TLS settings (trust anchors) of the proxy's own requests to identity providers.
    pub outbound_tls: Arc<ClientConfig>,
    /// HTTP proxies for the requests to identity providers and to the certificate authority.
    pub outbound_proxies: Proxies,
    /// `AUTH_HMAC_SECRET`; without it, the secret in the data directory is used.
    pub secret: Option<Secret>,
    /// Earlier secrets that still verify.
    pub previous_secrets: Vec<Secret>,
    /// What the operator can see.
    pub monitoring: monitoring::MonitoringConfig,
    /// The MCP servers to publish.
    pub servers: Servers,
    /// What the operator should know about the servers file, for the log.
    pub notes: Vec<Note>,
    /// Ask at the start whether the servers answer.
    pub is_checked: bool,
    /// Trusted reverse proxies, and the web origins and host names that are accepted.
    pub surface: Surface,
    /// Lifetimes of tokens, sessions, consents and identities.
    pub lifetimes: Lifetimes,
    /// Limits of the HTTP layer.
    pub http: crate::http::Limits,
    /// Limits on upstream requests in flight and on open streams.
    pub admission: Bounds,
    /// Limits on requests in a time.
    pub rate_limits: RateLimitConfig,
    /// How long requests may take to finish after SIGTERM or SIGINT.
    pub drain_timeout: Duration,
    /// What was given for each variable.
    pub given: BTreeMap<&'static str, String>,
    /// Where more variables come from.
    pub env_file: Option<String>,
}

impl Config {
    /// Validates `settings` for serving, which needs an upstream server and a way to sign in. The error is one line.
    pub fn for_serving(settings: Settings) -> Result<Config, String> {
        if settings.upstream.is_none() && settings.command.is_empty() && settings.servers.is_none() {
            return Err(
                "no upstream server: give the URL of the MCP server to publish, such as http://127.0.0.1:3001, \
                        or -- and the command of one that speaks over stdio, such as: -- npx -y server, \
                        or --servers (SERVERS) and a file with several; to see the program at work first, run: mcp-auth-proxy demo"
                    .into(),
            );
        }
        let config = Config::build(settings)?;
        if config.passwords.is_empty() && config.providers.is_empty() {
            return Err(
                "no way to sign in: set --password (PASSWORD, PASSWORD_FILE) or --password-hash (PASSWORD_HASH), for which \
                        'mcp-auth-proxy hash-password' makes a hash, --htpasswd-file (HTPASSWD_FILE) with several users, or a provider (--google-client-id, --github-client-id or --oidc-configuration-url; see docs/providers.md)"
                    .into(),
            );
        }
        Ok(config)
    }

    /// Validates `settings`, but does not require an upstream server or a way to sign in.
    pub fn build(settings: Settings) -> Result<Config, String> {
        let s = settings;
        let external =
            ExternalUrl::parse(&s.external_url).map_err(|e| format!("--external-url (EXTERNAL_URL): {e}"))?;
        if s.refresh_token_idle_lifetime > s.refresh_token_lifetime {
            return Err("--refresh-token-idle-lifetime (REFRESH_TOKEN_IDLE_LIFETIME) is longer than \
                        --refresh-token-lifetime (REFRESH_TOKEN_LIFETIME); shorten one or lengthen the other"
                .into());
        }
        if s.max_head_size < 1_024 {
            return Err("--max-head-size (MAX_HEAD_SIZE): less than 1KiB leaves no room for a token".into());
        }
        let mut providers = providers::configure(&s)?;
        let tls = tls::configure(&s, &external)?;
        let issuers = issuers::configure(&s, &providers)?;
        issuers::check_own(&issuers, &external)?;
        let speaks_to_others = !providers.is_empty()
            || !issuers.is_empty()
            || matches!(&tls, Some(TlsConfig { source: Source::Acme(_), .. }));
        let outbound_tls = net_tls::client_config("--ca-file (CA_FILE)", s.ca_file.as_deref().map(Path::new))?;
        let (servers, mut notes) = servers::configure(&s, &methods(&s, &providers, &issuers))?;
        servers::check_names(&servers, &issuers)?;
        providers::ask_for_groups(&mut providers, &servers);
        Ok(Config {
            listen: Listen::plain(s.listen.as_deref(), &external)?,
            tls_notice: TlsNotice::of(&s, &external, tls.as_ref()),
            site: site(&s, &external)?,
            external,
            data_path: PathBuf::from(&s.data_path),
            passwords: passwords::configure(&s)?,
            groups: passwords::groups(&s)?,
            password_queue: s.password_queue,
            outbound_proxies: outbound_proxies(speaks_to_others, &mut notes)?,
            clients: clients::policy(&s)?,
            has_api_keys: s.api_keys,
            identity_fields: clients::identity_fields(&s)?,
            is_kept: true,
            issuers,
            tls,
            providers,
            auto_select: !s.no_provider_auto_select,
            outbound_tls,
            secret: s.auth_hmac_secret.as_ref().map(|t| secret("AUTH_HMAC_SECRET", t)).transpose()?,
            previous_secrets: previous_secrets(&s)?,
            monitoring: monitoring::configure(&s)?,
            servers,
            notes,
            is_checked: !s.no_upstream_check,
            surface: surface(&s)?,
            lifetimes: lifetimes(&s),
            http: http_limits(&s),
            rate_limits: limits::configure(&s)?,
            admission: admission(&s),
            given: s.given,
            env_file: s.env_file,
            drain_timeout: s.drain_timeout,
        })
    }
}

/// The ways to sign in that there are, and the trusted issuers, as rules name them.
pub fn methods(s: &Settings, providers: &[ProviderConfig], issuers: &[TrustedIssuer]) -> Vec<String> {
    let password = (s.password.is_some() || s.password_hash.is_some()).then_some("password");
    let htpasswd = s.htpasswd_file.is_some().then_some("htpasswd");
    let providers = providers.iter().map(|provider| provider.id.as_str());
    let issuers = issuers.iter().map(|issuer| issuer.name.as_str());
    password.into_iter().chain(htpasswd).chain(providers).chain(issuers).map(String::from).collect()
}

fn site(s: &Settings, external: &ExternalUrl) -> Result<Site, String> {
    let refuse = |why: String| format!("--branding-logo (BRANDING_LOGO): {why}");
    let logo = match &s.branding_logo {
        None => None,
        Some(file) => {
            let bytes = std::fs::read(file).map_err(|e| refuse(format!("{file} can't be read: {e}")))?;
            if bytes.len() > MAX_LOGO {
                return Err(refuse(format!("{file} is larger than 64 KiB; take a smaller picture")));
            }
            Some(Logo::of(bytes).ok_or_else(|| refuse(format!("{file} is neither SVG nor PNG")))?)
        }
    };
    let site = Site::plain(external.clone(), s.refresh_token_idle_lifetime.as_secs());
    Ok(Site { name: s.branding_name.clone(), logo, ..site })
}

fn surface(s: &Settings) -> Result<Surface, String> {
    Ok(Surface {
        trusted_proxies: s.trusted_proxies.iter().map(|t| network(t)).collect::<Result<_, _>>()?,
        allowed_origins: s.allowed_origins.iter().map(|t| origin(t)).collect::<Result<_, _>>()?,
        allowed_hosts: s.allowed_hosts.iter().map(|h| host(h)).collect::<Result<_, _>>()?,
    })
}

fn previous_secrets(s: &Settings) -> Result<Vec<Secret>, String> {
    s.auth_hmac_previous_secrets.iter().map(|t| secret("AUTH_HMAC_PREVIOUS_SECRETS", t)).collect()
}

/// The environment's HTTP proxies. Requests to providers, trusted issuers and a certificate authority need them; without
/// these, a malformed variable is only worth a warning.
fn outbound_proxies(speaks_to_others: bool, notes: &mut Vec<Note>) -> Result<Proxies, String> {
    let proxies = Proxies::from_env(|name| std::env::var(name).ok());
    if let (Err(why), false) = (&proxies, speaks_to_others) {
        let text = format!("{why}; it is not used for client metadata documents");
        notes.push(Note { level: log::Level::Warn, text });
        return Ok(Proxies::default());
    }
    proxies
}

/// Limits on what is in flight at one time.
pub fn admission(s: &Settings) -> Bounds {
    Bounds {
        requests: s.max_requests,
        requests_per_user: s.max_requests_per_user,
        streams: s.max_streams,
        streams_per_user: s.max_streams_per_user,
    }
}

fn lifetimes(s: &Settings) -> Lifetimes {
    Lifetimes {
        access_token: s.access_token_lifetime.as_secs(),
        refresh_idle: s.refresh_token_idle_lifetime.as_secs(),
        refresh_total: s.refresh_token_lifetime.as_secs(),
        session: s.session_lifetime.as_secs(),
        consent: s.consent_lifetime.as_secs(),
        identity: s.identity_lifetime.as_secs(),
    }
}

fn http_limits(s: &Settings) -> crate::http::Limits {
    crate::http::Limits {
        connections: s.max_connections,
        connections_per_address: s.max_connections_per_address,
        head_size: usize::try_from(s.max_head_size).unwrap_or(usize::MAX).min(1 << 20),
        head_fields: s.max_head_fields,
        head_timeout: s.head_timeout,
        handshake_timeout: s.handshake_timeout,
        idle_timeout: s.idle_timeout,
        body_size: s.max_body_size,
        body_timeout: s.body_timeout,
        // For upstream requests, for sign-ins that wait for a password check, and for requests answered at once.
        workers: s.max_requests + s.password_queue + 64,
    }
}

fn secret(variable: &str, text: &str) -> Result<Secret, String> {
    Secret::from_base64(text)
        .ok_or_else(|| format!("{variable} is not 32 bytes in base64; make one with: head -c 32 /dev/urandom | base64"))
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        format!("--trusted-proxies (TRUSTED_PROXIES): '{text}' is neither an address nor a network such as 10.0.0.0/8")
    })
}

fn origin(text: &str) -> Result<String, String> {
    ExternalUrl::parse(text).map(|u| u.origin).map_err(|e| format!("--allowed-origins (ALLOWED_ORIGINS): {e}"))
}

fn host(text: &str) -> Result<String, String> {
    match ExternalUrl::parse(&format!("http://{text}")) {
        Ok(url) if !text.contains('/') => Ok(url.host),
        _ => Err(format!(
            "--allowed-hosts (ALLOWED_HOSTS): '{text}' is not a host name; write it without scheme or path"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { upstream: Some("http://127.0.0.1:3001".into()), password: Some("x".into()), ..Settings::default() }
    }

    fn error(change: impl FnOnce(&mut Settings)) -> String {
        let mut s = settings();
        change(&mut s);
        Config::for_serving(s).err().expect("should be refused")
    }

    #[test]
    fn each_refusal_names_flag_variable_and_way_out() {
        for (message, parts) in [
            (error(|s| s.upstream = None), ["http://127.0.0.1:3001", "demo"]),
            (error(|s| s.password = None), ["--password", "PASSWORD_HASH"]),
            (error(|s| s.password = Some("x".repeat(73))), ["--password (PASSWORD)", "72"]),
            (
                error(|s| s.password_hash = Some("$2b$nonsense".into())),
                ["--password-hash (PASSWORD_HASH)", "hash-password"],
            ),
            (
                error(|s| s.external_url = "https://a/mcp".into()),
                ["--external-url (EXTERNAL_URL)", "https://mcp.example.com"],
            ),
            (error(|s| s.upstream = Some("npx:server".into())), ["npx:server", "http://127.0.0.1:3001"]),
            (error(|s| s.upstream = Some("http://u:p@h/".into())), ["user name", "--proxy-headers"]),
            (error(|s| s.listen = Some("80".into())), ["--listen (LISTEN)", ":8080"]),
            (
                error(|s| s.trusted_proxies = vec!["10.0.0.0/99".into()]),
                ["--trusted-proxies (TRUSTED_PROXIES)", "10.0.0.0/8"],
            ),
            (
                error(|s| s.allowed_hosts = vec!["http://a".into()]),
                ["--allowed-hosts (ALLOWED_HOSTS)", "without scheme"],
            ),
            (error(|s| s.allowed_origins = vec!["a".into()]), ["--allowed-origins (ALLOWED_ORIGINS)", "https://"]),
            (
                error(|s| s.proxy_headers = vec![("Host".into(), "x".into())]),
                ["--proxy-headers (PROXY_HEADERS)", "host"],
            ),
            (error(|s| s.auth_hmac_secret = Some("c2hvcnQ=".into())), ["AUTH_HMAC_SECRET", "32 bytes"]),
        ] {
            assert!(parts.iter().all(|p| message.contains(p)), "{message}");
            assert_eq!(message.lines().count(), 1);
        }
    }
}
