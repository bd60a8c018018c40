//! URLs and addresses of the configuration: the external URL, the upstream URL, and the listen addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::Uri;

/// The URL under which clients reach the proxy: an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalUrl {
    /// `scheme://host[:port]`, lower case, no default port, no slash at the end. The `iss` and `aud` of every token.
    pub origin: String,
    /// True for https.
    pub secure: bool,
    /// Host name or address, IPv6 in brackets.
    pub host: String,
    /// Port, also when it is the scheme's default.
    pub port: u16,
}

impl ExternalUrl {
    /// Reads an origin; a path, query, fragment or user name is refused.
    pub fn parse(text: &str) -> Result<ExternalUrl, String> {
        let refuse = |why: &str| Err(format!("'{text}' {why}; it must look like https://mcp.example.com"));
        if text.contains(['#', '?']) {
            return refuse("has a query or fragment");
        }
        if !text.is_ascii() {
            return refuse("has a non-ASCII host name (write it in its xn-- form)");
        }
        let Ok(uri) = text.parse::<Uri>() else { return refuse("is not a URL") };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return refuse("is not an http:// or https:// URL");
        };
        let secure = match scheme {
            "https" => true,
            "http" => false,
            _ => return refuse("is not an http:// or https:// URL"),
        };
        if authority.as_str().contains('@') {
            return refuse("has a user name");
        }
        if !matches!(uri.path(), "" | "/") {
            return refuse("has a path; the proxy publishes a whole origin");
        }
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return refuse("has no host");
        }
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|a| a.is_unspecified()) {
            return refuse("stands for all addresses, which nobody can connect to; name the one that clients use");
        }
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none_or(|p| p == 0) {
            return refuse("has a bad port");
        }
        let default_port = if secure { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default_port);
        let suffix = if port == default_port { String::new() } else { format!(":{port}") };
        Ok(ExternalUrl { origin: format!("{scheme}://{host}{suffix}"), secure, host, port })
    }

    /// True when the host is an address.
    pub fn is_address(&self) -> bool {
        is_address(&self.host)
    }

    /// True when only this machine can reach the URL.
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(&self.host)
    }
}

/// Is `host`, as written in a URL, an IP address and not a name?
pub fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// `localhost`, `*.localhost`, `127.0.0.0/8` or `[::1]`.
pub fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

/// The parsed URL of the upstream server: `http://host:port/prefix` or `unix:/socket:/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// `http` or `https`.
    pub scheme: http::uri::Scheme,
    /// The Unix socket that it listens on, if it is not on the network.
    pub socket: Option<PathBuf>,
    /// Host and port as typed; `localhost` behind a Unix socket.
    pub authority: http::uri::Authority,
    /// Path without a slash at its end; empty for the root.
    pub prefix: String,
}

impl UpstreamUrl {
    pub(crate) fn parse(text: &str) -> Result<UpstreamUrl, String> {
        let refuse =
            |why: &str| Err(format!("the upstream URL '{text}' {why}; it must look like http://127.0.0.1:3001"));
        if let Some(rest) = text.strip_prefix("unix:") {
            return UpstreamUrl::parse_unix(rest);
        }
        if text.contains(['#', '?']) {
            return refuse("has a query or fragment");
        }
        let Ok(uri) = text.parse::<Uri>() else { return refuse("is not a URL") };
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return refuse("is not an http:// or https:// URL");
        };
        if !matches!(scheme.as_str(), "http" | "https") {
            return refuse("is not an http:// or https:// URL");
        }
        if authority.as_str().contains('@') {
            return refuse("has a user name; use --proxy-headers (PROXY_HEADERS) for its Authorization field");
        }
        if authority.host().is_empty() {
            return refuse("has no host");
        }
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none_or(|p| p == 0) {
            return refuse("has a bad port");
        }
        Ok(UpstreamUrl {
            scheme: scheme.clone(),
            socket: None,
            authority: authority.clone(),
            prefix: uri.path().trim_end_matches('/').to_string(),
        })
    }

    /// Parses the part after `unix:`, which is `/path/of/socket`, optionally followed by `:` and a path on the server.
    fn parse_unix(text: &str) -> Result<UpstreamUrl, String> {
        let (socket, prefix) = text.split_once(':').unwrap_or((text, ""));
        let good = |path: &str| path.starts_with('/') && path.len() > 1;
        if !good(socket)
            || !(prefix.is_empty()
                || prefix
                    .parse::<http::uri::PathAndQuery>()
                    .is_ok_and(|p| p.query().is_none() && prefix.starts_with('/')))
        {
            return Err(format!(
                "the upstream URL 'unix:{text}' is malformed; it must look like unix:/run/mcp.sock or unix:/run/mcp.sock:/mcp"
            ));
        }
        // `sun_path` of unix(7) has 108 bytes, including the terminating zero.
        if socket.len() > 107 {
            return Err(format!(
                "the upstream URL 'unix:{text}' has a path that is too long for a socket: at most 107 bytes"
            ));
        }
        Ok(UpstreamUrl {
            scheme: http::uri::Scheme::HTTP,
            socket: Some(socket.into()),
            authority: http::uri::Authority::from_static("localhost"),
            prefix: prefix.trim_end_matches('/').to_string(),
        })
    }
}

impl std::fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.socket {
            Some(socket) if self.prefix.is_empty() => write!(f, "unix:{}", socket.display()),
            Some(socket) => write!(f, "unix:{}:{}", socket.display(), self.prefix),
            None => write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix),
        }
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `None` means every address, IPv6 and IPv4.
    pub address: Option<IpAddr>,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl Listen {
    /// Parses `:80`, `localhost:8080`, `127.0.0.1:8080` or `[::1]:8080`; the error names `option`.
    pub fn parse(option: &str, text: &str) -> Result<Listen, String> {
        let error = || format!("{option}: '{text}' is not an address with a port, such as :8080 or 127.0.0.1:8080");
        if let Some(port) = text.strip_prefix(':') {
            return Ok(Listen { address: None, port: port.parse().map_err(|_| error())? });
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return Ok(Listen { address: Some(Ipv4Addr::LOCALHOST.into()), port: port.parse().map_err(|_| error())? });
        }
        let address: SocketAddr = text.parse().map_err(|_| error())?;
        Ok(Listen { address: Some(address.ip()), port: address.port() })
    }

    /// Where to listen for the operator: the value of `--metrics-listen`. A port without an address is for this machine.
    pub fn local(text: &str) -> Result<Listen, String> {
        let listen = Listen::parse("--metrics-listen (METRICS_LISTEN)", text)?;
        Ok(Listen { address: listen.address.or(Some(Ipv4Addr::LOCALHOST.into())), ..listen })
    }

    /// Where to listen without TLS: the value of `--listen`, else a default that fits the external URL.
    pub fn plain(text: Option<&str>, external: &ExternalUrl) -> Result<Listen, String> {
        let port = if external.secure { 80 } else { external.port };
        match text {
            Some(text) => Listen::parse("--listen (LISTEN)", text),
            None => Ok(Listen::fitting(external, port, 80)),
        }
    }

    /// Where to listen with TLS: the value of `--tls-listen`, else a default that fits the external URL.
    pub fn tls(text: Option<&str>, external: &ExternalUrl) -> Result<Listen, String> {
        match text {
            Some(text) => Listen::parse("--tls-listen (TLS_LISTEN)", text),
            None => Ok(Listen::fitting(external, external.port, 443)),
        }
    }

    /// The default listen address. With a loopback external URL it is that loopback address and `port`, so that other
    /// machines can't connect; else all addresses and the port `usual`.
    fn fitting(external: &ExternalUrl, port: u16, usual: u16) -> Listen {
        if !external.is_loopback() {
            return Listen { address: None, port: usual };
        }
        let named = external.host.trim_matches(['[', ']']).parse().ok();
        Listen { address: Some(named.unwrap_or(Ipv4Addr::LOCALHOST.into())), port }
    }

    /// The addresses to try, in order. The IPv4 address is the fallback for a machine without IPv6.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        match self.address {
            Some(address) => vec![SocketAddr::new(address, self.port)],
            None => vec![
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_url_is_an_origin_in_one_spelling() {
        for (text, origin) in [
            ("http://localhost", "http://localhost"),
            ("HTTPS://MCP.Example.com/", "https://mcp.example.com"),
            ("https://a:443", "https://a"),
            ("http://a:80", "http://a"),
            ("http://a:8080/", "http://a:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(ExternalUrl::parse(text).unwrap().origin, origin);
        }
        for text in [
            "",
            "a",
            "a.b",
            "ftp://a",
            "https://",
            "https://a/mcp",
            "https://a?x",
            "https://a#x",
            "https://u@a",
            "https://u:p@a",
            "https://a:0",
            "http://0.0.0.0:8080",
            "http://[::]",
            "https://a:99999",
            "https://a:",
            "https://bücher.example",
            "//a",
            "https:///x",
        ] {
            assert!(ExternalUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_listen_address_means_both_families() {
        assert_eq!(Listen::parse("", ":80").unwrap().candidates().len(), 2);
        assert_eq!(Listen::parse("", "[::1]:8080").unwrap().candidates(), ["[::1]:8080".parse().unwrap()]);
        assert_eq!(Listen::parse("", "localhost:1").unwrap().candidates(), ["127.0.0.1:1".parse().unwrap()]);
    }

    #[test]
    fn the_upstream_path_is_a_prefix_without_a_slash_at_its_end() {
        assert_eq!(UpstreamUrl::parse("http://h:1/").unwrap().prefix, "");
        assert_eq!(UpstreamUrl::parse("https://h/a/b/").unwrap().prefix, "/a/b");
    }
}
