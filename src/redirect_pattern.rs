//! Patterns for redirect URIs that may register (`--registration-redirect-uris`).

use crate::redirect_uri::{Destination, RedirectUri};

/// A pattern: scheme, host and path. A host that begins with `*.` stands for all names below it, a path that ends in `*`
/// for all that begin so. The port of a loopback host is not compared (RFC 8252 section 7.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectPattern {
    scheme: String,
    host: String,
    port: String,
    rest: String,
}

impl RedirectPattern {
    /// Reads a pattern such as `https://app.example/callback`, `https://*.example.com/*` or `http://localhost/*`. The error
    /// says what is wrong with it.
    pub fn parse(text: &str) -> Result<RedirectPattern, String> {
        let (scheme, after) = text.split_once("://").ok_or("it has no scheme and host, as in https://app.example/*")?;
        let (authority, rest) = after.split_at(after.find(['/', '?']).unwrap_or(after.len()));
        let (bare_host, any_below) = match authority.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (authority, false),
        };
        let (bare_rest, is_prefix) = rest.strip_suffix('*').map_or((rest, false), |rest| (rest, true));
        if is_prefix && bare_rest.is_empty() {
            return Err("a path begins with a slash, as in https://app.example/*".into());
        }
        // What is left has to be a redirect URI.
        let uri = RedirectUri::parse(&format!("{scheme}://{bare_host}{bare_rest}"))?;
        if any_below && (!bare_host.contains('.') || uri.destination() != Destination::Web) {
            return Err("*. stands before the name of a host, as in https://*.example.com/*".into());
        }
        let dot = if any_below { "." } else { "" };
        Ok(RedirectPattern {
            scheme: uri.scheme().into(),
            host: format!("{dot}{}", uri.host()),
            port: uri.port().into(),
            rest: rest.into(),
        })
    }

    /// Does the URI fit?
    pub fn fits(&self, uri: &RedirectUri) -> bool {
        let is_host = match self.host.starts_with('.') {
            true => uri.host().strip_suffix(&self.host).is_some_and(|below| !below.is_empty() && !below.ends_with('.')),
            false => uri.host() == self.host,
        };
        let is_port = uri.port() == self.port || uri.destination() == Destination::Loopback;
        let is_rest = match self.rest.strip_suffix('*') {
            Some(start) => uri.rest().starts_with(start) && !has_dot_segments(uri.rest()),
            None => uri.rest() == self.rest,
        };
        uri.scheme() == self.scheme && is_host && is_port && is_rest
    }
}

/// A browser resolves these, and some servers also those with an encoded slash: the URI could leave what a pattern allows.
fn has_dot_segments(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default().to_ascii_lowercase();
    let path = path.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    path.split(['/', '\\']).any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_hosts_and_paths_and_nothing_that_looks_like_them() {
        let fits =
            |pattern: &str, uri: &str| RedirectPattern::parse(pattern).unwrap().fits(&RedirectUri::parse(uri).unwrap());
        let good = [
            ("https://claude.ai/api/mcp/auth_callback", "https://claude.ai/api/mcp/auth_callback"),
            ("https://chatgpt.com/connector/oauth/*", "https://chatgpt.com/connector/oauth/abc"),
            ("https://*.example.com/*", "https://a.b.example.com/x?y"),
            ("http://localhost/*", "http://localhost:1234/callback"),
            ("http://127.0.0.1/callback", "http://127.0.0.1:9/callback"),
            ("cursor://anysphere.cursor-mcp/oauth/callback", "cursor://anysphere.cursor-mcp/oauth/callback"),
        ];
        for (pattern, uri) in good {
            assert!(fits(pattern, uri), "{pattern} {uri}");
        }
        let bad = [
            ("https://claude.ai/api/mcp/auth_callback", "https://claude.ai/api/mcp/auth_callback2"),
            ("https://claude.ai/*", "https://claude.ai.evil.example/x"),
            ("https://claude.ai/*", "https://evil.example/claude.ai/"),
            ("https://claude.ai/*", "https://claude.ai:8443/x"),
            ("https://claude.ai/ok/*", "https://claude.ai/ok/../other"),
            ("https://claude.ai/ok/*", "https://claude.ai/ok/%2E%2e/other"),
            ("https://claude.ai/ok/*", "https://claude.ai/ok/..%2fother"),
            ("https://claude.ai/ok/*", "https://claude.ai/ok/%2e%2E%5Cother"),
            ("https://*.example.com/*", "https://example.com/x"),
            ("https://*.example.com/*", "https://.example.com/x"),
            ("https://*.example.com/*", "https://evilexample.com/x"),
            ("http://localhost/*", "http://127.0.0.1/x"),
            ("https://claude.ai/*", "http://localhost/x"),
        ];
        for (pattern, uri) in bad {
            assert!(!fits(pattern, uri), "{pattern} {uri}");
        }
        for wrong in [
            "claude.ai",
            "https://*/x",
            "https://*.com/x",
            "http://example.com/*",
            "https://a.example*",
            "javascript://x/*",
        ] {
            assert!(RedirectPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
