//! Which clients there may be, and what is told upstream about users.

use http::HeaderName;

use crate::flags::Settings;
use crate::oauth::clients::{ClientPolicy, Registration};
use crate::redirect_pattern::RedirectPattern;
use crate::upstream::can_be_mapped;

/// Which clients there may be.
pub fn policy(s: &Settings) -> Result<ClientPolicy, String> {
    let patterns = &s.registration_redirect_uris;
    let registration = match s.registration.as_str() {
        "off" => Registration::Off,
        "allowlist" if patterns.is_empty() => {
            return Err("--registration allowlist (REGISTRATION) needs --registration-redirect-uris (REGISTRATION_REDIRECT_URIS), such as https://claude.ai/api/mcp/auth_callback,http://localhost/*".into());
        }
        "allowlist" => {
            let pattern = |text: &String| {
                RedirectPattern::parse(text).map_err(|why| {
                    format!("--registration-redirect-uris (REGISTRATION_REDIRECT_URIS): '{text}': {why}")
                })
            };
            Registration::Allowlist(patterns.iter().map(pattern).collect::<Result<_, _>>()?)
        }
        _ => Registration::Open,
    };
    if !patterns.is_empty() && s.registration != "allowlist" {
        return Err("--registration-redirect-uris (REGISTRATION_REDIRECT_URIS) has an effect with --registration allowlist (REGISTRATION) only; set that, or remove the patterns".into());
    }
    let domain = |text: &String| {
        let domain = text.trim_start_matches("*.").to_ascii_lowercase();
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        match domain.contains('.') && domain.bytes().all(is_plain) {
            true => Ok(domain),
            false => Err(format!(
                "--cimd-allowed-domains (CIMD_ALLOWED_DOMAINS): '{text}' is not a domain; write it without scheme or path, such as claude.ai"
            )),
        }
    };
    let document_domains = s.cimd_allowed_domains.iter().map(domain).collect::<Result<Vec<_>, _>>()?;
    if s.no_cimd && !document_domains.is_empty() {
        return Err(
            "--cimd-allowed-domains (CIMD_ALLOWED_DOMAINS) has no effect with --no-cimd (NO_CIMD); remove one of them"
                .into(),
        );
    }
    Ok(ClientPolicy { registration, has_documents: !s.no_cimd, document_domains })
}

/// The field of the identity assertion, if there is one, and a field for each claim that is mapped.
pub struct IdentityFieldNames {
    /// The field of the assertion.
    pub assertion: Option<HeaderName>,
    /// JSON pointers and fields.
    pub mapping: Vec<(String, HeaderName)>,
}

impl IdentityFieldNames {
    /// All fields.
    pub fn all(&self) -> Vec<HeaderName> {
        self.assertion.iter().chain(self.mapping.iter().map(|(_, name)| name)).cloned().collect()
    }
}

/// What is told upstream about users.
pub fn identity_fields(s: &Settings) -> Result<IdentityFieldNames, String> {
    let field = |option: &str, text: &str| {
        let name: HeaderName =
            text.parse().map_err(|_| format!("{option}: '{text}' is not the name of a header field"))?;
        match can_be_mapped(&name) {
            true => Ok(name),
            false => Err(format!(
                "{option}: {name} belongs to the message, to MCP, or to the proxy's own sign-in upstream; choose another name"
            )),
        }
    };
    let option = "--header-mapping (HEADER_MAPPING)";
    let mapped = s.header_mapping.iter().map(|(claim, name)| Ok((claim.clone(), field(option, name)?)));
    let mapping = mapped.collect::<Result<Vec<_>, String>>()?;
    let assertion = match s.identity_assertion {
        true => Some(field("--identity-assertion-header (IDENTITY_ASSERTION_HEADER)", &s.identity_assertion_header)?),
        false => None,
    };
    let names = IdentityFieldNames { assertion, mapping };
    let all = names.all();
    if let Some(twice) = all.iter().enumerate().find(|(at, name)| all[..*at].contains(name)) {
        return Err(format!("{option}: {} is there twice, or is the field of the identity assertion", twice.1));
    }
    if let Some((name, _)) =
        s.proxy_headers.iter().find(|(name, _)| all.iter().any(|n| name.eq_ignore_ascii_case(n.as_str())))
    {
        return Err(format!("{option}: {name} is set by --proxy-headers (PROXY_HEADERS) too; remove one of them"));
    }
    Ok(names)
}
