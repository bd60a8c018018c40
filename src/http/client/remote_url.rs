//! URLs of servers to which the proxy sends requests of its own.

use std::fmt;

use ::http::Uri;
use form_urlencoded::Serializer;

use crate::url::is_loopback_host;

/// A URL on another server: https, or http if the host is this machine (loopback).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUrl(Uri);

impl RemoteUrl {
    /// Reads a URL; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<RemoteUrl, String> {
        let refuse = |why: &str| Err(format!("'{text}' {why}"));
        if text.contains('#') {
            return refuse("has a fragment");
        }
        let Ok(uri) = text.parse::<Uri>() else { return refuse("is not a URL") };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return refuse("is not an https:// URL");
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return refuse("has a user name, or no host");
        }
        match scheme {
            "https" => Ok(RemoteUrl(uri)),
            "http" if is_loopback_host(authority.host()) => Ok(RemoteUrl(uri)),
            "http" => refuse("is not https, so that anyone on the way could pretend to be that server"),
            _ => refuse("is not an https:// URL"),
        }
    }

    /// This URL with `path`, which may include a query, appended.
    pub fn join(&self, path: &str) -> Result<RemoteUrl, String> {
        RemoteUrl::parse(&format!("{}{path}", self.to_string().trim_end_matches('/')))
    }

    /// This URL with parameters added to its query.
    pub fn with_query(&self, parameters: &[(&str, &str)]) -> String {
        let query = Serializer::new(String::new()).extend_pairs(parameters).finish();
        let separator = if self.0.query().is_some() { '&' } else { '?' };
        format!("{}{separator}{query}", self.0)
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        let authority = self.0.authority().map(|a| a.as_str()).unwrap_or_default();
        format!("{}://{}", self.0.scheme_str().unwrap_or_default(), authority.to_ascii_lowercase())
    }

    /// The host.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }

    pub(super) fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    pub(super) fn target(&self) -> &str {
        self.0.path_and_query().map_or("/", |p| p.as_str())
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_servers_are_spoken_to_by_https() {
        for good in ["https://idp.example.com/a?b=c", "http://127.0.0.1:1/", "http://localhost:8080/x"] {
            assert_eq!(RemoteUrl::parse(good).unwrap().to_string(), good);
        }
        for bad in
            ["", "idp.example.com", "ftp://a/", "http://idp.example.com/", "https://u@a/", "https://a/#f", "https:///a"]
        {
            assert!(RemoteUrl::parse(bad).is_err(), "{bad}");
        }
        let url = RemoteUrl::parse("https://A.example.com/auth?x=1").unwrap();
        assert_eq!(url.with_query(&[("a", "b c&")]), "https://A.example.com/auth?x=1&a=b+c%26");
        assert_eq!((url.origin().as_str(), url.host()), ("https://a.example.com", "A.example.com"));
    }
}
