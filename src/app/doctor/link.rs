//! A URL that a client is given, by its user or by a document.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

use crate::url::is_loopback_host;

/// An absolute http or https URL without user name and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    uri: Uri,
    text: String,
}

impl Link {
    /// Reads a URL. The error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Link, String> {
        let refuse = |why: &str| Err(format!("'{text}' {why}"));
        if text.contains('#') {
            return refuse("has a fragment");
        }
        let Ok(uri) = text.parse::<Uri>() else { return refuse("is not a URL") };
        let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return refuse("is not an https:// URL");
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return refuse("has a user name, or no host");
        }
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none_or(|port| port == 0) {
            return refuse("has a bad port");
        }
        Ok(Link { uri, text: text.to_string() })
    }

    pub(super) fn is_secure(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Host name or address, IPv6 in brackets, in lower case.
    pub(super) fn host(&self) -> String {
        self.uri.host().unwrap_or_default().to_ascii_lowercase()
    }

    pub(super) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// Scheme, host and port, without a default port.
    pub(super) fn origin(&self) -> String {
        let is_default = self.port() == if self.is_secure() { 443 } else { 80 };
        let port = if is_default { String::new() } else { format!(":{}", self.port()) };
        format!("{}://{}{port}", self.uri.scheme_str().unwrap_or_default(), self.host())
    }

    /// The path, without the slash that stands for none.
    pub(super) fn path(&self) -> &str {
        match self.uri.path() {
            "/" => "",
            path => path,
        }
    }

    /// Path and query.
    pub(super) fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", |target| target.as_str())
    }

    /// The URL of `target`, a path with perhaps a query, at the same origin.
    pub(super) fn at(&self, target: &str) -> Link {
        let text = format!("{}{target}", self.origin());
        Link::parse(&text).unwrap_or_else(|_| self.clone())
    }

    /// The address, if the host is one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host().trim_matches(['[', ']']).parse().ok()
    }

    pub(super) fn is_loopback(&self) -> bool {
        is_loopback_host(&self.host())
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_as_clients_do() {
        let link = Link::parse("https://MCP.example.com/a/mcp?x=1").unwrap();
        assert_eq!((link.origin().as_str(), link.path()), ("https://mcp.example.com", "/a/mcp"));
        assert_eq!((link.target(), link.port()), ("/a/mcp?x=1", 443));
        assert_eq!(link.at("/.well-known/x").to_string(), "https://mcp.example.com/.well-known/x");
        let link = Link::parse("http://[::1]:8080").unwrap();
        assert_eq!((link.origin().as_str(), link.path(), link.is_loopback()), ("http://[::1]:8080", "", true));
        for bad in ["", "mcp.example.com", "ftp://a/", "https://u@a/", "https://a/#x", "https:///x", "https://a:0/"] {
            assert!(Link::parse(bad).is_err(), "{bad}");
        }
    }
}
