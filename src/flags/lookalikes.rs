//! Finds environment variables that look like options of this program but are not, so that the user is warned about a
//! misspelt one.

use strsim::{damerau_levenshtein, jaro_winkler};

use super::list::FLAGS;

/// Options of sigbit/mcp-auth-proxy that have another name here, or none, and what to do instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("HEADER_MAPPING_BASE", "it has no counterpart: the pointers of HEADER_MAPPING start at the claims themselves"),
    ("FORWARD_AUTHORIZATION_HEADER", NO_FORWARDING),
    ("PROXY_FORWARD_AUTHORIZATION", NO_FORWARDING),
    ("REPOSITORY_DSN", "there is no database here: the state is one file in DATA_PATH"),
    ("JWT_PRIVATE_KEY", "there is no counterpart: tokens are signed with keys that are derived from AUTH_HMAC_SECRET"),
    ("OIDC_ALLOWED_ATTRIBUTES_GLOB", "its counterpart is OIDC_ALLOWED_ATTRIBUTES, which compares values as they are"),
];
const NO_FORWARDING: &str = "a client's token is for this proxy alone; IDENTITY_ASSERTION gives the MCP server a signed token that says who the user is, and PROXY_BEARER_TOKEN or PROXY_HEADERS give it a credential of its own";
const ENTRA: &str = "Entra ID is an OpenID Connect provider here: set OIDC_CONFIGURATION_URL, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET (docs/providers.md)";
/// Prefixes of variables that are meant for this program, or for a similar one.
const FAMILIES: [&str; 5] = ["OIDC_", "GOOGLE_ALLOWED_", "GITHUB_ALLOWED_", "AUTH_HMAC_", "ACME_EAB_"];

/// Common flags of other programs, and what this program has instead.
const USUAL: &[(&[&str], &str)] = &[
    (&["-p", "-l", "--port", "--addr", "--address", "--bind", "--host"], "the address and port are --listen :8080"),
    (&["--url", "--base-url", "--public-url", "--issuer"], "the URL that clients are given is --external-url"),
    (&["--upstream", "--target", "--backend"], "the URL of the MCP server stands alone, without a flag"),
    (&["-v", "--verbose", "--debug"], "set LOG_LEVEL=debug in the environment"),
];

/// What to use instead of the unknown `flag`, if that is known.
pub(super) fn advice_for_flag(flag: &str) -> Option<String> {
    if let Some((_, advice)) = USUAL.iter().find(|(flags, _)| flags.contains(&flag)) {
        return Some((*advice).into());
    }
    let variable = flag.strip_prefix("--")?.to_uppercase().replace('-', "_");
    if let Some(found) = FLAGS.iter().find(|f| f.env == variable && f.long.is_none()) {
        return Some(format!("it is set in the environment only, as {}", found.env));
    }
    if let Some(base) = variable.strip_suffix("_FILE")
        && FLAGS.iter().any(|f| f.env == base && (f.secret || f.from_file))
    {
        return Some(format!("files are named in the environment, as {variable}"));
    }
    elsewhere(&variable)
}

fn elsewhere(variable: &str) -> Option<String> {
    if variable.starts_with("ENTRAID_") || variable.starts_with("ENTRA_ID_") {
        return Some(ENTRA.into());
    }
    ELSEWHERE.iter().find(|(other, _)| *other == variable).map(|(_, advice)| (*advice).into())
}

/// Those of `names` that look like options of this program but are not read, each with advice.
pub fn lookalikes(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let mut found: Vec<_> = names.filter_map(|name| advice(&name).map(|advice| (name, advice))).collect();
    found.sort();
    found
}

fn advice(name: &str) -> Option<String> {
    let is_known = |name: &str| FLAGS.iter().any(|f| f.env == name);
    if is_known(name) {
        return None;
    }
    if let Some(base) = name.strip_suffix("_FILE")
        && let Some(flag) = FLAGS.iter().find(|f| f.env == base)
    {
        let is_read = flag.secret || flag.from_file;
        return (!is_read).then(|| format!("only secrets and lists are read from files; set {base} itself"));
    }
    if let Some(advice) = elsewhere(name) {
        return Some(advice);
    }
    let (base, file) = name.strip_suffix("_FILE").map_or((name, ""), |base| (base, "_FILE"));
    // A short name is within a small edit distance of many others.
    let is_near = |known: &str| match damerau_levenshtein(base, known) {
        1 => known.len() > 6,
        2 => known.len() > 12,
        _ => false,
    };
    let known = FLAGS.iter().map(|f| f.env);
    if let Some(near) = known.clone().find(|known| is_near(known)) {
        return Some(format!("did you mean {near}{file}?"));
    }
    if !FAMILIES.iter().any(|family| base.starts_with(family)) {
        return None;
    }
    let near = known.max_by(|a, b| jaro_winkler(base, a).total_cmp(&jaro_winkler(base, b)))?;
    Some(format!("no option has this name; the nearest is {near}, and --help lists them all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_other_programs_names_are_found_and_no_others() {
        for (name, part) in [
            ("PASWORD", "PASSWORD?"),
            ("PASWORD_FILE", "PASSWORD_FILE?"),
            ("EXTERNAL_ULR", "EXTERNAL_URL?"),
            ("GOOGLE_ALLOWED_USER", "GOOGLE_ALLOWED_USERS?"),
            ("GITHUB_ALLOWED_TEAMS", "nearest is GITHUB_ALLOWED_"),
            ("OIDC_SCOPE", "OIDC_SCOPES?"),
            ("EXTERNAL_URL_FILE", "set EXTERNAL_URL itself"),
            ("HEADER_MAPPING_BASE", "start at the claims"),
            ("FORWARD_AUTHORIZATION_HEADER", "IDENTITY_ASSERTION"),
            ("ENTRAID_TENANT_ID", "OIDC_CONFIGURATION_URL"),
            ("REPOSITORY_DSN", "DATA_PATH"),
        ] {
            assert!(advice(name).is_some_and(|a| a.contains(part)), "{name}: {:?}", advice(name));
        }
        for name in [
            "PATH",
            "HOME",
            "LANG",
            "LISTEN_FDS",
            "LISTEN_PID",
            "GITHUB_TOKEN",
            "GITHUB_ACTIONS",
            "GOOGLE_API_KEY",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "SSL_CERT_FILE",
            "RUST_LOG",
            "MODEL",
            "USER",
            "LOGNAME",
            "DEBUG_COLORS",
            "PORT",
            "HOST",
            "NODE_ENV",
            "PASSWORD_FILE",
            "DATA_PATH",
            "OIDC_ALLOWED_USERS_FILE",
            "LOG_LEVEL",
            "PGPASSWORD",
            "DB_PASSWORD",
            "LISTEN",
        ] {
            assert_eq!(advice(name), None, "{name}");
        }
        for flag in FLAGS {
            assert_eq!(advice(flag.env), None);
        }
    }

    #[test]
    fn the_counterparts_exist() {
        let is_name = |word: &&str| word.len() > 4 && word.contains('_');
        for (_, advice) in ELSEWHERE.iter().chain(&[("", ENTRA)]) {
            let words = advice.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
            for word in words.filter(is_name) {
                assert!(FLAGS.iter().any(|f| f.env == word), "{word}");
            }
        }
    }
}
