//! Reads and validates the options of identity providers.

use super::servers::Servers;
use crate::flags::Settings;
use crate::http::client::RemoteUrl;
use crate::identity::ProviderId;
use crate::login::providers::github::GitHubConfig;
use crate::login::providers::oidc_config::{EMAIL_FIELD, OidcConfig};
use crate::login::providers::{Dialect, ProviderConfig};
use crate::rules::{Rules, check_glob};

const PUBLIC_GITHUB: &str = "https://github.com";
const PUBLIC_GITHUB_API: &str = "https://api.github.com";

/// The configured providers with their allow rules, which may be empty: SIGHUP may reload lists without entries. The
/// error is one line.
pub fn configure_anew(s: &Settings) -> Result<Vec<ProviderConfig>, String> {
    Ok([google(s)?, github(s)?, oidc(s)?].into_iter().flatten().collect())
}

/// Like [`configure_anew`], but a provider without an allow rule is an error: nobody could sign in with it.
pub fn configure(s: &Settings) -> Result<Vec<ProviderConfig>, String> {
    let all = configure_anew(s)?.into_iter();
    all.map(|provider| {
        if provider.rules.is_empty() {
            return Err(format!(
                "nobody could sign in with {}: say who may, with {}; or let in whoever has an account there, with --allow-any-user (ALLOW_ANY_USER)",
                provider.label,
                match provider.id {
                    ProviderId::Google => "--google-allowed-users (GOOGLE_ALLOWED_USERS) or --google-allowed-workspaces (GOOGLE_ALLOWED_WORKSPACES)",
                    ProviderId::GitHub => "--github-allowed-users (GITHUB_ALLOWED_USERS) or --github-allowed-orgs (GITHUB_ALLOWED_ORGS)",
                    ProviderId::Oidc => "--oidc-allowed-users (OIDC_ALLOWED_USERS), --oidc-allowed-users-glob (OIDC_ALLOWED_USERS_GLOB) or --oidc-allowed-groups (OIDC_ALLOWED_GROUPS)",
                }
            ));
        }
        Ok(provider)
    })
    .collect()
}

/// Has the providers tell of the groups that the rules of single servers name, besides those of their own rules.
pub fn ask_for_groups(providers: &mut [ProviderConfig], servers: &Servers) {
    for provider in providers {
        let rules = servers.all.iter().filter_map(|server| server.rules.as_ref());
        let groups = rules.flat_map(|rules| rules.groups_of(provider.id.as_str())).map(String::from);
        provider.rules.asked_groups = groups.filter(|group| !provider.rules.groups.contains(group)).collect();
        provider.rules.asked_groups.sort();
        provider.rules.asked_groups.dedup();
    }
}

/// Client id and secret. `None` if neither is set; if only one is, the error names the missing one.
fn credentials(id: &Option<String>, secret: &Option<String>, prefix: &str) -> Result<Option<(String, String)>, String> {
    let name = |what: &str| {
        let flag = format!("{}-client-{what}", prefix.to_lowercase());
        format!("--{flag} ({prefix}_CLIENT_{})", what.to_uppercase())
    };
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Some((id.clone(), secret.clone()))),
        (Some(_), None) => Err(format!("{} is set, but {} is not; both are needed", name("id"), name("secret"))),
        (None, Some(_)) => Err(format!("{} is set, but {} is not; both are needed", name("secret"), name("id"))),
        (None, None) => Ok(None),
    }
}

/// True if the provider has an allow list. One from a file without entries counts.
fn has_list(s: &Settings, provider: &str, lists: &[&Vec<String>]) -> bool {
    lists.iter().any(|list| !list.is_empty()) || s.empty_lists.iter().any(|flag| flag.starts_with(provider))
}

/// Fails if one of the `given` options is set although its provider is not configured.
fn refuse_leftovers(given: &[(&str, bool)], what_lacks: &str) -> Result<(), String> {
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(format!("{name} is set, but {what_lacks}")),
        None => Ok(()),
    }
}

fn remote(name: &str, text: &str) -> Result<RemoteUrl, String> {
    RemoteUrl::parse(text).map_err(|e| format!("{name}: {e}"))
}

fn google(s: &Settings) -> Result<Option<ProviderConfig>, String> {
    let Some((client_id, client_secret)) = credentials(&s.google_client_id, &s.google_client_secret, "GOOGLE")? else {
        let given = [
            ("--google-allowed-users (GOOGLE_ALLOWED_USERS)", !s.google_allowed_users.is_empty()),
            ("--google-allowed-workspaces (GOOGLE_ALLOWED_WORKSPACES)", !s.google_allowed_workspaces.is_empty()),
        ];
        refuse_leftovers(&given, "--google-client-id (GOOGLE_CLIENT_ID) is not")?;
        return Ok(None);
    };
    Ok(Some(ProviderConfig {
        id: ProviderId::Google,
        label: "Google".into(),
        dialect: Dialect::Oidc(OidcConfig {
            mapped: s.header_mapping.iter().map(|(claim, _)| claim.clone()).collect(),
            configuration_url: remote(
                "--google-configuration-url (GOOGLE_CONFIGURATION_URL)",
                &s.google_configuration_url,
            )?,
            client_id,
            client_secret,
            scopes: ["openid", "profile", "email"].map(String::from).into(),
            id_field: EMAIL_FIELD.into(),
            groups_field: "/groups".into(),
            tenants: Vec::new(),
            issuer: None,
            assumes_verified_email: false,
            is_google: true,
        }),
        rules: Rules {
            anyone: s.allow_any_user
                && !has_list(s, "google", &[&s.google_allowed_users, &s.google_allowed_workspaces]),
            users: s.google_allowed_users.clone(),
            ids_ignore_case: true,
            workspaces: s.google_allowed_workspaces.clone(),
            ..Rules::default()
        },
    }))
}

fn github(s: &Settings) -> Result<Option<ProviderConfig>, String> {
    let Some((client_id, client_secret)) = credentials(&s.github_client_id, &s.github_client_secret, "GITHUB")? else {
        let given = [
            ("--github-allowed-users (GITHUB_ALLOWED_USERS)", !s.github_allowed_users.is_empty()),
            ("--github-allowed-orgs (GITHUB_ALLOWED_ORGS)", !s.github_allowed_orgs.is_empty()),
        ];
        refuse_leftovers(&given, "--github-client-id (GITHUB_CLIENT_ID) is not")?;
        return Ok(None);
    };
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    for org in &s.github_allowed_orgs {
        if !org.split(':').all(is_name) || org.matches(':').count() > 1 {
            return Err(format!(
                "--github-allowed-orgs (GITHUB_ALLOWED_ORGS): '{org}' is neither an organisation nor organisation:team-slug"
            ));
        }
    }
    let url = remote("--github-url (GITHUB_URL)", s.github_url.trim_end_matches('/'))?;
    let api = match (&s.github_api_url, s.github_url.trim_end_matches('/')) {
        (Some(api), _) => api.trim_end_matches('/').to_string(),
        (None, PUBLIC_GITHUB) => PUBLIC_GITHUB_API.into(),
        (None, other) => format!("{other}/api/v3"),
    };
    Ok(Some(ProviderConfig {
        id: ProviderId::GitHub,
        label: "GitHub".into(),
        dialect: Dialect::GitHub(GitHubConfig {
            url,
            api_url: remote("--github-api-url (GITHUB_API_URL)", &api)?,
            client_id,
            client_secret,
        }),
        rules: Rules {
            anyone: s.allow_any_user && !has_list(s, "github", &[&s.github_allowed_users, &s.github_allowed_orgs]),
            users: s.github_allowed_users.clone(),
            ids_ignore_case: true,
            groups: s.github_allowed_orgs.clone(),
            groups_ignore_case: true,
            ..Rules::default()
        },
    }))
}

fn oidc(s: &Settings) -> Result<Option<ProviderConfig>, String> {
    let lists = [
        ("--oidc-allowed-users (OIDC_ALLOWED_USERS)", !s.oidc_allowed_users.is_empty()),
        ("--oidc-allowed-users-glob (OIDC_ALLOWED_USERS_GLOB)", !s.oidc_allowed_users_glob.is_empty()),
        ("--oidc-allowed-groups (OIDC_ALLOWED_GROUPS)", !s.oidc_allowed_groups.is_empty()),
        ("--oidc-allowed-attributes (OIDC_ALLOWED_ATTRIBUTES)", !s.oidc_allowed_attributes.is_empty()),
    ];
    let credentials = credentials(&s.oidc_client_id, &s.oidc_client_secret, "OIDC")?;
    let (url, (client_id, client_secret)) = match (&s.oidc_configuration_url, credentials) {
        (Some(url), Some(credentials)) => (url, credentials),
        (Some(_), None) => {
            return Err("--oidc-configuration-url (OIDC_CONFIGURATION_URL) is set, but --oidc-client-id (OIDC_CLIENT_ID) and --oidc-client-secret (OIDC_CLIENT_SECRET) are not; all three are needed".into());
        }
        (None, Some(_)) => {
            return Err("--oidc-client-id (OIDC_CLIENT_ID) is set, but --oidc-configuration-url (OIDC_CONFIGURATION_URL) is not; all three of URL, id and secret are needed".into());
        }
        (None, None) => {
            refuse_leftovers(&lists, "--oidc-configuration-url (OIDC_CONFIGURATION_URL) is not")?;
            return Ok(None);
        }
    };
    check_oidc_rules(s)?;
    let config = OidcConfig {
        mapped: s.header_mapping.iter().map(|(claim, _)| claim.clone()).collect(),
        configuration_url: remote("--oidc-configuration-url (OIDC_CONFIGURATION_URL)", url)?,
        client_id,
        client_secret,
        scopes: if s.oidc_scopes.is_empty() { Settings::default().oidc_scopes } else { s.oidc_scopes.clone() },
        id_field: s.oidc_user_id_field.clone(),
        groups_field: s.oidc_groups_field.clone(),
        tenants: s.oidc_allowed_tenants.clone(),
        issuer: s.oidc_issuer.clone(),
        assumes_verified_email: s.oidc_assume_email_verified,
        is_google: false,
    };
    if config.serves_many_tenants() && config.tenants.is_empty() {
        return Err("--oidc-configuration-url (OIDC_CONFIGURATION_URL) is one for many tenants: name those to let in with --oidc-allowed-tenants (OIDC_ALLOWED_TENANTS), or give the URL of one tenant".into());
    }
    if config.assumes_verified_email {
        log::warn!(
            "--oidc-assume-email-verified (OIDC_ASSUME_EMAIL_VERIFIED): e-mail addresses are trusted although the provider does not say that they are verified; if users can set their own address there, they can set somebody else's"
        );
    }
    Ok(Some(ProviderConfig {
        id: ProviderId::Oidc,
        label: s.oidc_provider_name.clone(),
        dialect: Dialect::Oidc(config),
        rules: Rules {
            anyone: s.allow_any_user && !has_list(s, "oidc", &[]) && lists.iter().all(|(_, is_given)| !is_given),
            users: s.oidc_allowed_users.clone(),
            globs: s.oidc_allowed_users_glob.clone(),
            ids_ignore_case: s.oidc_user_id_field == EMAIL_FIELD,
            groups: s.oidc_allowed_groups.clone(),
            attributes: s.oidc_allowed_attributes.clone(),
            tenants: s.oidc_allowed_tenants.clone(),
            ..Rules::default()
        },
    }))
}

/// Validates the JSON pointers, the user patterns and the attributes.
fn check_oidc_rules(s: &Settings) -> Result<(), String> {
    let pointers = [
        ("--oidc-user-id-field (OIDC_USER_ID_FIELD)", &s.oidc_user_id_field),
        ("--oidc-groups-field (OIDC_GROUPS_FIELD)", &s.oidc_groups_field),
    ];
    for (name, pointer) in pointers {
        if !pointer.starts_with('/') {
            return Err(format!("{name}: '{pointer}' is not a JSON pointer such as /email or /groups"));
        }
    }
    for glob in &s.oidc_allowed_users_glob {
        check_glob(glob).map_err(|why| {
            format!("--oidc-allowed-users-glob (OIDC_ALLOWED_USERS_GLOB): the pattern '{glob}' {why}")
        })?;
    }
    for attribute in &s.oidc_allowed_attributes {
        if !attribute.starts_with('/') || attribute.split_once('=').is_none_or(|(_, value)| value.is_empty()) {
            return Err(format!(
                "--oidc-allowed-attributes (OIDC_ALLOWED_ATTRIBUTES): '{attribute}' is not a JSON pointer and a value, such as /roles=mcp-user"
            ));
        }
    }
    Ok(())
}
