//! Redirect URIs: which ones may be registered, and which ones match a registered one (RFC 6749 section 3.1.2, RFC
//! 8252).

use std::net::IpAddr;

use crate::url::is_loopback_host;

/// Maximum length of a redirect URI, in bytes.
const MAX_LENGTH: usize = 2_048;

/// Schemes that may not be registered: the browser handles them itself, they wrap another URL, or they open a part of
/// the system that must not get an authorization response.
const REFUSED_SCHEMES: &[&str] = &[
    "about",
    "admin",
    "afp",
    "android-app",
    "applescript",
    "apt",
    "atom",
    "bitcoin",
    "blob",
    "brave",
    "caldav",
    "callto",
    "carddav",
    "chrome",
    "chrome-extension",
    "cid",
    "cifs",
    "data",
    "dav",
    "davs",
    "dict",
    "edge",
    "facetime",
    "fb",
    "feed",
    "file",
    "filesystem",
    "finger",
    "firefox",
    "ftp",
    "ftps",
    "geo",
    "git",
    "git+ssh",
    "googlechrome",
    "googlechromes",
    "gopher",
    "h323",
    "hcp",
    "help",
    "hg",
    "iax",
    "imap",
    "intent",
    "irc",
    "iris",
    "itms",
    "itms-apps",
    "itms-itunesu",
    "itms-services",
    "itpc",
    "jar",
    "javascript",
    "jnlp",
    "jnlps",
    "ldap",
    "ldaps",
    "livescript",
    "magnet",
    "mailto",
    "maps",
    "market",
    "message",
    "mhtml",
    "mid",
    "mk",
    "mms",
    "mmsh",
    "mmst",
    "mocha",
    "moz-extension",
    "mumble",
    "news",
    "nfs",
    "ni",
    "nntp",
    "notes",
    "opera",
    "pcast",
    "podcast",
    "pop",
    "prefs",
    "rdar",
    "rdp",
    "read",
    "reader",
    "res",
    "resource",
    "rlogin",
    "rss",
    "rsync",
    "rtmp",
    "rtmps",
    "rtsp",
    "rtsps",
    "rtspu",
    "scp",
    "sftp",
    "shell",
    "shortcuts",
    "sip",
    "sips",
    "skype",
    "smb",
    "sms",
    "spice",
    "ssh",
    "ssh+git",
    "steam",
    "svn",
    "svn+ssh",
    "teamviewer",
    "tel",
    "telnet",
    "terminal",
    "tftp",
    "tg",
    "tn3270",
    "ts3server",
    "udp",
    "urn",
    "vbscript",
    "view-source",
    "vivaldi",
    "vlc",
    "vnc",
    "wais",
    "webcal",
    "winrm",
    "ws",
    "wss",
    "wyciwyg",
    "x-apple",
    "x-man-page",
    "xmpp",
    "zoommtg",
    "zoomus",
];

/// Prefixes of such schemes: Windows handlers, `search:` and `search-ms:`, schemes of browsers, and `web+` schemes of
/// sites that registered as handlers.
const REFUSED_PREFIXES: &[&str] =
    &["ms-", "microsoft-", "search", "web+", "x-apple.", "x-apple-", "x-web-search", "x-safari-", "feed-", "opera-"];

/// Kind of target of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An https site.
    Web,
    /// A program on the user's machine that listens on a loopback address (RFC 8252 section 7.3).
    Loopback,
    /// A program on the user's machine that registered a private-use scheme (RFC 8252 section 7.1).
    PrivateUse,
}

/// A checked redirect URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUri {
    text: String,
    scheme: String,
    /// Host, lower case, IPv6 in brackets; may be empty with a private-use scheme.
    host: String,
    /// Colon and digits, or empty.
    port: String,
    /// Path and query as written.
    rest: String,
}

impl RedirectUri {
    /// Parses and checks a redirect URI; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<RedirectUri, &'static str> {
        if text.len() > MAX_LENGTH {
            return Err("it is too long");
        }
        if !text.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
            return Err("it has blanks, control or non-ASCII characters");
        }
        if text.contains(['\\', '"', '<', '>', '^', '`', '{', '|', '}']) {
            return Err("it has characters that must be percent-encoded");
        }
        if text.contains('#') {
            return Err("it has a fragment");
        }
        if text.contains('*') {
            return Err("it has a wildcard");
        }
        let (scheme, after) = text.split_once(':').ok_or("it is not an absolute URI")?;
        let scheme = scheme.to_ascii_lowercase();
        let valid = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !valid {
            return Err("it is not an absolute URI");
        }
        if REFUSED_SCHEMES.contains(&scheme.as_str()) || REFUSED_PREFIXES.iter().any(|p| scheme.starts_with(p)) {
            return Err("its scheme is not allowed");
        }
        let web = matches!(scheme.as_str(), "http" | "https");
        // `wrapper:https://elsewhere` could make the program that opens `wrapper:` go on to the inner URL.
        if !web && after.trim_start_matches('/').split('/').next().is_some_and(|first| first.ends_with(':')) {
            return Err("it has another URL in it");
        }
        let (authority, rest) = match after.strip_prefix("//") {
            Some(after) => after.split_at(after.find(['/', '?']).unwrap_or(after.len())),
            None if web => return Err("it has no host"),
            None => ("", after),
        };
        if authority.contains('@') {
            return Err("it has a user name");
        }
        let (host, port) = split_port(authority)?;
        let host = host.to_ascii_lowercase();
        if web && !is_host(&host) {
            return Err("its host is malformed");
        }
        let uri = RedirectUri { text: text.into(), scheme, host, port: port.into(), rest: rest.into() };
        if uri.scheme == "http" && !uri.has_loopback_host() {
            return Err("http is allowed on this computer only (127.0.0.1, [::1], localhost); use https");
        }
        Ok(uri)
    }

    /// As registered or requested, byte for byte.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its scheme, lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Its host, lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A colon and digits, or nothing.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Path and query, as written.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// The kind of its target.
    pub fn destination(&self) -> Destination {
        match self.scheme.as_str() {
            "http" => Destination::Loopback,
            "https" if self.is_on_this_machine() => Destination::Loopback,
            "https" => Destination::Web,
            _ => Destination::PrivateUse,
        }
    }

    /// Does the requested URI `self` match the registered one? It must be equal, except for http on loopback: there the
    /// port may differ, because programs use any free port (RFC 8252 section 7.3), and so may the host, because some
    /// programs send `localhost` after they registered `127.0.0.1`.
    pub fn matches(&self, registered: &RedirectUri) -> bool {
        self.text == registered.text
            || (self.scheme == "http"
                && registered.scheme == "http"
                && self.has_loopback_host()
                && registered.has_loopback_host()
                && self.rest == registered.rest)
    }

    /// Source expression for `form-action` in a content security policy: the origin, or only the scheme if the origin
    /// can't be expressed.
    pub fn policy_source(&self) -> String {
        match self.destination() {
            Destination::PrivateUse => format!("{}:", self.scheme),
            // A content security policy can't contain IPv6 addresses.
            _ if self.host.starts_with('[') => format!("{}:", self.scheme),
            _ => format!("{}://{}{}", self.scheme, self.host, self.port),
        }
    }

    /// The URI with parameters added to its query.
    pub fn with_parameters(&self, parameters: &[(&str, &str)]) -> String {
        let mut out = self.text.clone();
        out.push(if out.contains('?') { '&' } else { '?' });
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        out.push_str(&query.finish());
        out
    }

    /// Is the host any name or address that a browser resolves to this machine? Accepts more than `has_loopback_host`.
    fn is_on_this_machine(&self) -> bool {
        let host = self.host.trim_end_matches('.');
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().map(|a| a.to_canonical());
        match address {
            Ok(address) => address.is_loopback() || address.is_unspecified(),
            Err(_) => is_loopback_host(host),
        }
    }

    fn has_loopback_host(&self) -> bool {
        matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "[::1]")
    }
}

fn split_port(authority: &str) -> Result<(&str, &str), &'static str> {
    let end_of_host = if authority.starts_with('[') {
        authority.find(']').ok_or("its host is malformed")? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(end_of_host);
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((host, port)),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok() => Ok((host, port)),
        _ => Err("its port is malformed"),
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        // Browsers treat a host whose last label is a number as an IPv4 address (`2130706433` is 127.0.0.1): accept
        // only the dotted form.
        None if ends_in_number(host) => host.parse::<std::net::Ipv4Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
    }
}

fn ends_in_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    last.starts_with(|c: char| c.is_ascii_digit())
        && (last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_registered() {
        for good in [
            "https://claude.ai/api/mcp/auth_callback",
            "https://a.example:8443/cb?x=1",
            "http://localhost/callback",
            "http://127.0.0.1/",
            "http://127.0.0.1:33418",
            "http://[::1]:7777/cb",
            "http://localhost:3118/callback",
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "com.example.app:/oauth",
            "vscode://x/y",
            "https://vscode.dev/redirect",
        ] {
            assert!(RedirectUri::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x",
            "/cb",
            "//a/b",
            "https:",
            "https:/a",
            "https://",
            "https:///x",
            "https://a#f",
            "https://u@a/",
            "https://u:p@a/",
            "https://a\\@b/",
            "https://a/*",
            "https://*.a/",
            "http://a/",
            "http://127.0.0.2/",
            "http://localhost.evil/",
            "http://localhost@evil/",
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:x/",
            "http://[::1/",
            "http://[::2]/",
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "vbscript:x",
            "blob:https://a/",
            "about:blank",
            "1a:/x",
            "a b:/x",
            "https://a/\u{e9}",
            "https://a /",
            "https://a/\n",
            "x://u@h/",
            "https://a:/",
            "https://a/\"",
        ] {
            assert!(RedirectUri::parse(bad).is_err(), "{bad}");
        }
        assert!(RedirectUri::parse(&format!("https://a/{}", "x".repeat(3_000))).is_err());
        for odd in ["https://2130706433/", "https://127.1/", "https://0x7f.1/", "https://a.0x7f000001/"] {
            assert!(RedirectUri::parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn whatever_leads_to_this_machine_counts_as_loopback() {
        for here in [
            "https://127.0.0.2/",
            "https://x.localhost/",
            "https://localhost./",
            "https://0.0.0.0/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::]/",
        ] {
            assert_eq!(RedirectUri::parse(here).unwrap().destination(), Destination::Loopback, "{here}");
        }
        assert_eq!(RedirectUri::parse("https://127.0.0.1.example/").unwrap().destination(), Destination::Web);
    }

    #[test]
    fn everything_matches_exactly_but_loopback_ports() {
        let matches = |asked: &str, registered: &str| {
            RedirectUri::parse(asked).unwrap().matches(&RedirectUri::parse(registered).unwrap())
        };
        assert!(matches("http://localhost:54321/callback", "http://localhost/callback"));
        assert!(matches("http://127.0.0.1:1/", "http://127.0.0.1:2/"));
        assert!(matches("http://localhost:1/cb", "http://127.0.0.1:2/cb"));
        assert!(matches("http://[::1]:1/cb", "http://[::1]/cb"));
        assert!(!matches("http://127.0.0.1:1/other", "http://127.0.0.1:1/cb"));
        assert!(!matches("http://127.0.0.1:1/cb?x", "http://127.0.0.1:1/cb"));
        assert!(!matches("https://a/cb", "https://a/cb/"));
        assert!(!matches("https://a/CB", "https://a/cb"));
        assert!(!matches("https://a:444/cb", "https://a/cb"));
        assert!(!matches("https://localhost:1/cb", "https://localhost:2/cb"));
        assert!(!matches("cursor://x:1/cb", "cursor://x:2/cb"));
    }

    #[test]
    fn parameters_join_the_query_that_is_there() {
        let with = |u: &str| RedirectUri::parse(u).unwrap().with_parameters(&[("code", "a b"), ("state", "&=")]);
        assert_eq!(with("https://a/cb"), "https://a/cb?code=a+b&state=%26%3D");
        assert_eq!(with("https://a/cb?x=1"), "https://a/cb?x=1&code=a+b&state=%26%3D");
    }

    #[test]
    fn policy_sources_can_not_carry_directives() {
        let source = |u: &str| RedirectUri::parse(u).unwrap().policy_source();
        assert_eq!(source("https://A.example:8443/x;script-src"), "https://a.example:8443");
        assert_eq!(source("http://127.0.0.1:5/cb"), "http://127.0.0.1:5");
        assert_eq!(source("http://[::1]:5/cb"), "http:");
        assert_eq!(source("cursor://x;y/cb"), "cursor:");
    }
}
