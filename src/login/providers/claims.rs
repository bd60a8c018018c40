//! Builds a user's profile from the claims of an OpenID Connect provider.

use serde_json::{Map, Value};

use super::discovery::Metadata;
use super::oidc_config::{EMAIL_FIELD, OidcConfig, TENANT};
use crate::identity::UserId;
use crate::identity::{ProviderUser, UserProfile};
use crate::rules::{Rules, strings};

/// Longest value of a claim that is sent upstream, as JSON, in bytes.
const MAX_MAPPED: usize = 2 << 10;

/// Merges the claims of the ID token and of the userinfo response into a profile. An error if `sub` is missing, or if
/// the two disagree about `sub` or `email`.
pub(super) fn person(
    config: &OidcConfig,
    rules: &Rules,
    metadata: &Metadata,
    token: Option<Map<String, Value>>,
    userinfo: Option<Map<String, Value>>,
) -> Result<ProviderUser, String> {
    let text = |claims: &Map<String, Value>, name: &str| {
        claims.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(String::from)
    };
    let sources: Vec<&Map<String, Value>> = token.iter().chain(&userinfo).collect();
    let agree = |name: &str| {
        let mut said = sources.iter().filter_map(|s| text(s, name));
        let first = said.next();
        let is_same = said.all(|other| first.as_ref().is_some_and(|f| f.eq_ignore_ascii_case(&other)));
        if is_same { Ok(first) } else { Err(format!("ID token and userinfo disagree about {name}")) }
    };
    let subject = agree("sub")?.ok_or("the provider sent no subject claim (sub)")?;
    if sources.len() == 2 && text(sources[0], "sub") != text(sources[1], "sub") {
        return Err("ID token and userinfo are of different people".into());
    }
    let email = agree("email")?.filter(|_| is_email_verified(config, metadata, &sources));
    let issuer = token.as_ref().and_then(|t| text(t, "iss")).unwrap_or_else(|| metadata.issuer.clone());
    let workspace = token.as_ref().filter(|_| config.is_google).and_then(|t| text(t, "hd"));

    let mut all = userinfo.clone().unwrap_or_default();
    all.extend(token.clone().unwrap_or_default());
    if email.is_none() {
        // No JSON pointer of the configuration may read an unverified address.
        all.remove("email");
    }
    let all = Value::Object(all);
    let id = match config.id_field.as_str() {
        EMAIL_FIELD => email.clone(),
        pointer => all.pointer(pointer).and_then(Value::as_str).filter(|t| !t.is_empty()).map(String::from),
    };
    let mut groups = strings(all.pointer(&config.groups_field));
    groups.sort();
    groups.dedup();
    if groups.is_empty() && all.get("_claim_names").and_then(|c| c.get("groups")).is_some() {
        log::warn!(subject = subject.as_str(); "the provider left out the groups because the user is in too many (Entra ID: over 200); use app roles with --oidc-groups-field /roles (OIDC_GROUPS_FIELD), or assign only the groups that matter to the application");
    }
    let has = |attribute: &&String| {
        let (pointer, value) = attribute.split_once('=').unwrap_or_default();
        strings(all.pointer(pointer)).iter().any(|v| v == value)
    };
    let attributes = rules.attributes.iter().filter(has).cloned().collect();
    let user = match config.is_google {
        true => format!("google:{subject}"),
        false => format!("oidc:{issuer}:{subject}"),
    };
    let name = ["name", "preferred_username"].iter().find_map(|n| all.get(*n)?.as_str().map(String::from));
    let serves_many = metadata.issuer.contains(TENANT);
    let tenant = token.as_ref().filter(|_| serves_many).and_then(|t| text(t, "tid"));
    let mapped = config.mapped.iter().filter_map(|pointer| Some((pointer.clone(), all.pointer(pointer)?.clone())));
    let mapped = mapped.filter(|(_, value)| value.to_string().len() <= MAX_MAPPED).collect();
    let mut profile = UserProfile { id, email, name, groups, workspace, tenant, attributes, mapped };
    rules.bound(&mut profile);
    Ok(ProviderUser { user: UserId(user), profile })
}

/// Is the e-mail address verified? The provider has to say so in a claim, unless the provider serves a single
/// organisation and the operator configured that its addresses are always verified.
fn is_email_verified(config: &OidcConfig, metadata: &Metadata, sources: &[&Map<String, Value>]) -> bool {
    // Uses only sources that contain `email`: in a source without it, `email_verified` is about another address.
    let naming = || sources.iter().filter(|s| s.get("email").is_some_and(Value::is_string));
    let said = |name: &str| -> Vec<bool> {
        let values = naming().filter_map(|s| s.get(name));
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
    // Entra ID sends `xms_edov` instead: the domain of the address belongs to the tenant.
    let of_domain = said("xms_edov");
    let serves_many = config.is_google || config.serves_many_tenants() || metadata.issuer.contains(TENANT);
    let is_assumed = config.assumes_verified_email && !serves_many;
    if of_domain.is_empty() { is_assumed } else { of_domain.iter().all(|v| *v) }
}
