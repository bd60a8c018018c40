//! The file of trusted issuers (`--trusted-issuers`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::flags::Settings;
use crate::flags::values::duration;
use crate::http::client::RemoteUrl;
use crate::identity::ProviderId;
use crate::login::issuers::{AssertionKind, ClaimNames, ClaimRule, KeysAt, TrustedIssuer};
use crate::login::providers::{Dialect, ProviderConfig};
use crate::rules::{MACHINES, check_glob};
use crate::servers_file::read_owned;
use crate::url::ExternalUrl;

/// Names that rules use for something else.
const TAKEN: [&str; 6] = ["password", "htpasswd", "google", "github", "oidc", "workload"];
/// Longest lifetime of an access token for an assertion, in seconds: nobody can refuse to refresh it.
const LONGEST: u64 = 3_600;
/// The usual one.
const USUAL: u64 = 600;
/// The issuer of Google's ID tokens.
const GOOGLE: &str = "https://accounts.google.com";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "$schema")]
    _schema: Option<String>,
    issuers: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    issuer: String,
    jwks_uri: Option<String>,
    kinds: Vec<AssertionKind>,
    #[serde(default)]
    audience: Vec<String>,
    #[serde(default)]
    email_domains: Vec<String>,
    #[serde(default)]
    claims: Claims,
    rules: Vec<RuleEntry>,
    token_lifetime: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    id: Option<String>,
    groups: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    #[serde(default)]
    claims: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    servers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Reads the file, if one is configured. The error is one line.
pub fn configure(s: &Settings, providers: &[ProviderConfig]) -> Result<Vec<TrustedIssuer>, String> {
    let Some(file) = &s.trusted_issuers else { return Ok(Vec::new()) };
    let refuse = |why: String| format!("--trusted-issuers (TRUSTED_ISSUERS): {why}");
    let text = read_owned(Path::new(file)).map_err(refuse)?;
    parse(&text, providers).map_err(|why| refuse(format!("{file}: {why}")))
}

/// An assertion that this server itself could have issued proves nothing.
pub fn check_own(issuers: &[TrustedIssuer], external: &ExternalUrl) -> Result<(), String> {
    match issuers.iter().find(|issuer| issuer.issuer.trim_end_matches('/') == external.origin) {
        None => Ok(()),
        Some(own) => Err(format!(
            "--trusted-issuers (TRUSTED_ISSUERS): issuer '{}' is this server itself (--external-url, EXTERNAL_URL)",
            own.name
        )),
    }
}

/// Reads the text of such a file.
pub fn parse(text: &str, providers: &[ProviderConfig]) -> Result<Vec<TrustedIssuer>, String> {
    let document: Document = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut all: Vec<TrustedIssuer> = Vec::new();
    for (name, entry) in document.issuers {
        let issuer = trusted(&name, entry, providers).map_err(|why| format!("issuer '{name}': {why}"))?;
        // The id of a user is issuer and subject, with a colon in between: one must not be able to name another's users.
        let begins = |a: &str, b: &str| b.starts_with(&format!("{a}:"));
        if let Some(other) =
            all.iter().find(|other| begins(&other.issuer, &issuer.issuer) || begins(&issuer.issuer, &other.issuer))
        {
            return Err(format!("the issuers '{}' and '{name}' differ only in a port; leave one out", other.name));
        }
        if providers
            .iter()
            .filter_map(provider_issuer)
            .any(|of| begins(&of, &issuer.issuer) || begins(&issuer.issuer, &of))
        {
            return Err(format!(
                "issuer '{name}' and the provider of --oidc-configuration-url (OIDC_CONFIGURATION_URL) differ only in a port, so their users can't be told apart; give one of them a name of its own"
            ));
        }
        if all.iter().any(|other| other.issuer == issuer.issuer && other.kinds.iter().any(|k| issuer.kinds.contains(k)))
        {
            return Err(format!("issuer '{name}': the same issuer is there twice with the same kind"));
        }
        all.push(issuer);
    }
    Ok(all)
}

fn trusted(name: &str, entry: Entry, providers: &[ProviderConfig]) -> Result<TrustedIssuer, String> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > 32 || !name.bytes().all(is_plain) {
        return Err("a name has small letters, digits and '-', at most 32".into());
    }
    if TAKEN.contains(&name) || MACHINES.contains(&name) {
        return Err("rules use this name for something else; choose another".into());
    }
    let url = RemoteUrl::parse(&entry.issuer).map_err(|why| format!("issuer: {why}"))?;
    if entry.issuer.contains('?') || !entry.issuer.starts_with(&url.origin()) {
        return Err("issuer: it has a query, or capital letters in scheme or host".into());
    }
    let keys = match &entry.jwks_uri {
        Some(uri) => KeysAt::Url(RemoteUrl::parse(uri).map_err(|why| format!("jwksUri: {why}"))?),
        None => KeysAt::Discovery(discovery(&entry.issuer, &url)?),
    };
    if entry.kinds.is_empty() {
        return Err("kinds: name enterprise, workload, or both".into());
    }
    if entry.rules.is_empty() {
        return Err(
            "rules: there is none, so nobody is admitted; a rule without claims admits everybody whom the issuer names"
                .into(),
        );
    }
    let has_workloads = entry.kinds.contains(&AssertionKind::Workload);
    let rules = entry.rules.into_iter().map(|rule| claim_rule(rule, has_workloads)).collect::<Result<Vec<_>, _>>()?;
    let lifetime = match &entry.token_lifetime {
        Some(text) => duration(text).map_err(|why| format!("tokenLifetime: {why}"))?.as_secs(),
        None => USUAL,
    };
    if lifetime > LONGEST {
        return Err("tokenLifetime: at most 1h, since nothing is asked again before the token ends".into());
    }
    let claims = ClaimNames {
        id: pointer(entry.claims.id, "/sub")?,
        groups: pointer(entry.claims.groups, "/groups")?,
        name: pointer(entry.claims.name, "/name")?,
    };
    Ok(TrustedIssuer {
        name: name.into(),
        same_as: same_as(&entry.issuer, providers),
        issuer: entry.issuer,
        keys,
        kinds: entry.kinds,
        audiences: entry.audience,
        email_domains: entry.email_domains,
        claims,
        rules,
        token_lifetime: lifetime,
    })
}

fn claim_rule(rule: RuleEntry, has_workloads: bool) -> Result<ClaimRule, String> {
    // Everybody can have a token of GitHub Actions; an enterprise's issuer names its own people only.
    if rule.claims.is_empty() && has_workloads {
        return Err("rules: a rule for workloads has claims, such as {\"sub\": \"repo:example/*\"}".into());
    }
    let mut claims = Vec::new();
    for (name, patterns) in rule.claims {
        let patterns = match patterns {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        };
        for pattern in &patterns {
            check_glob(pattern).map_err(|why| format!("rules: the pattern '{pattern}' {why}"))?;
        }
        claims.push((pointer(Some(name), "")?, patterns));
    }
    Ok(ClaimRule { claims, servers: rule.servers })
}

/// A JSON pointer; a name without a slash is that of a claim.
fn pointer(text: Option<String>, usual: &str) -> Result<String, String> {
    match text {
        None => Ok(usual.into()),
        Some(text) if text.is_empty() => Err("a claim has an empty name".into()),
        Some(text) if text.starts_with('/') => Ok(text),
        Some(name) => Ok(format!("/{}", name.replace('~', "~0").replace('/', "~1"))),
    }
}

/// The URLs of the discovery document: OpenID Connect Discovery section 4, RFC 8414 section 3.
fn discovery(issuer: &str, url: &RemoteUrl) -> Result<Vec<RemoteUrl>, String> {
    let bare = issuer.trim_end_matches('/');
    let path = &bare[url.origin().len().min(bare.len())..];
    let openid = format!("{bare}/.well-known/openid-configuration");
    let oauth = format!("{}/.well-known/oauth-authorization-server{path}", url.origin());
    [openid, oauth].iter().map(|url| RemoteUrl::parse(url)).collect()
}

/// The prefix of the ids of the same issuer's users at a configured provider.
fn same_as(issuer: &str, providers: &[ProviderConfig]) -> Option<String> {
    let of = |provider: &ProviderConfig| match (&provider.dialect, provider.id) {
        (Dialect::Oidc(_), ProviderId::Google) if issuer == GOOGLE => Some("google:".to_string()),
        _ => {
            let known = provider_issuer(provider)?;
            (known.trim_end_matches('/') == issuer.trim_end_matches('/')).then(|| format!("oidc:{issuer}:"))
        }
    };
    providers.iter().find_map(of)
}

/// The issuer of the provider whose users' ids have it in front; it is named, or follows from the configuration URL.
fn provider_issuer(provider: &ProviderConfig) -> Option<String> {
    let (Dialect::Oidc(oidc), ProviderId::Oidc) = (&provider.dialect, provider.id) else { return None };
    let of_document = oidc.configuration_url.to_string();
    let found = of_document.strip_suffix("/.well-known/openid-configuration").unwrap_or(&of_document);
    Some(oidc.issuer.clone().unwrap_or_else(|| found.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: &str) -> Result<Vec<TrustedIssuer>, String> {
        parse(&format!("{{\"issuers\": {{\"ci\": {body}}}}}"), &[])
    }

    #[test]
    fn an_entry_says_what_is_missing_or_wrong() {
        let good = r#"{"issuer": "https://token.example/x", "kinds": ["workload"], "rules": [{"claims": {"sub": "repo:a/*"}}]}"#;
        let parsed = entry(good).unwrap();
        let KeysAt::Discovery(urls) = &parsed[0].keys else { panic!() };
        let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(
            urls,
            [
                "https://token.example/x/.well-known/openid-configuration",
                "https://token.example/.well-known/oauth-authorization-server/x"
            ]
        );
        assert_eq!(parsed[0].rules[0].claims, [("/sub".to_string(), vec!["repo:a/*".to_string()])]);
        for (change, with, reason) in [
            ("\"workload\"", "\"robot\"", "robot"),
            ("[\"workload\"]", "[]", "kinds"),
            ("https://token", "http://token", "not https"),
            ("{\"claims\": {\"sub\": \"repo:a/*\"}}", "", "nobody is admitted"),
            ("{\"sub\": \"repo:a/*\"}", "{}", "has claims"),
            ("repo:a/*", "repo:[a/*", "bracket"),
            ("\"rules\"", "\"rule\"", "rule"),
            ("\"kinds\"", "\"tokenLifetime\": \"2h\", \"kinds\"", "at most 1h"),
        ] {
            let refused = entry(&good.replace(change, with)).unwrap_err();
            assert!(refused.contains(reason), "{change} -> {with}: {refused}");
        }
        let taken = parse(&format!("{{\"issuers\": {{\"client\": {good}}}}}"), &[]).unwrap_err();
        assert!(taken.contains("something else"), "{taken}");
        let twice = parse(&format!("{{\"issuers\": {{\"a\": {good}, \"b\": {good}}}}}"), &[]).unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
        let port = good.replace("token.example/x", "token.example:8443");
        let port =
            parse(&format!("{{\"issuers\": {{\"a\": {}, \"b\": {port}}}}}", good.replace("/x", "")), &[]).unwrap_err();
        assert!(port.contains("only in a port"), "{port}");
        let both =
            good.replace("[\"workload\"]", "[\"workload\", \"enterprise\"]").replace("{\"sub\": \"repo:a/*\"}", "{}");
        assert!(entry(&both).unwrap_err().contains("has claims"), "any JWT of the issuer would do");
    }

    #[test]
    fn rules_on_claims_need_all_of_their_claims() {
        let ci = entry(
            r#"{"issuer": "https://token.example", "kinds": ["workload"],
                "rules": [{"claims": {"sub": ["repo:a/*", "repo:b/*"], "/k8s/ns": "prod"}, "servers": ["files"]}]}"#,
        );
        let ci = &ci.unwrap()[0];
        let claims = |sub: &str, ns: &str| serde_json::json!({"sub": sub, "k8s": {"ns": ns}});
        assert!(ci.opens(&claims("repo:b/x", "prod"), "files"));
        assert!(!ci.opens(&claims("repo:b/x", "prod"), "wiki"));
        assert!(!ci.opens(&claims("repo:b/x", "test"), "files"));
        assert!(!ci.opens(&claims("repo:c/x", "prod"), "files"));
        assert!(!ci.opens(&serde_json::json!({"sub": "repo:a/x"}), "files"));
    }
}
