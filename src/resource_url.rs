//! URLs of protected resources: what a client asks for with the parameter `resource` (RFC 8707), and what a token is for
//! (`aud`, RFC 9068).
//!
//! Requested, stored and signed URLs are kept exactly as the client wrote them, because clients compare the strings.

use serde::{Deserialize, Serialize};

use crate::url::ExternalUrl;

/// Longest accepted URL, in bytes. URLs are in tokens, and so in each request.
const MAX_LENGTH: usize = 512;

/// The URL of a resource on the external origin. It stands for itself and all URLs below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceUrl(String);

impl ResourceUrl {
    /// The whole origin.
    pub fn of_origin(origin: &str) -> ResourceUrl {
        ResourceUrl(origin.to_string())
    }

    /// A path on the origin, from the configuration and not from a client.
    pub fn of_path(origin: &str, path: &str) -> ResourceUrl {
        ResourceUrl(format!("{origin}{path}"))
    }

    /// Reads an absolute URL on `origin`, which is an external URL's. `None` if it is on another origin, has a fragment
    /// (RFC 8707 section 2), a user name, a dot segment or a stray percent sign, is longer than 512 bytes, or is not a URL.
    pub fn parse(text: &str, origin: &str) -> Option<ResourceUrl> {
        let is_plain = |b: u8| b.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&b);
        let url = ResourceUrl(text.to_string());
        let is_good = text.len() <= MAX_LENGTH && text.bytes().all(is_plain) && url.is_on(origin);
        (is_good && url.parts().is_some_and(|(_, _, path)| has_one_meaning(path))).then_some(url)
    }

    /// Is it on this origin? Scheme and host are compared without case, and a default port may be there.
    pub fn is_on(&self, origin: &str) -> bool {
        if self.0.strip_prefix(origin).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return true;
        }
        let Some((scheme, authority, _)) = self.parts() else { return false };
        ExternalUrl::parse(&format!("{}://{authority}", scheme.to_ascii_lowercase()))
            .is_ok_and(|url| url.origin == origin)
    }

    /// Is a request for `path` at this URL or below it? Compares the bytes, so another spelling of a path is another
    /// path. A query, and a slash at the end of this URL, make no difference.
    pub fn covers(&self, path: &str) -> bool {
        let Some((_, _, own)) = self.parts() else { return false };
        path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Is `other`, on the same origin, this URL or below it?
    pub fn includes(&self, other: &ResourceUrl) -> bool {
        other.parts().is_some_and(|(_, _, path)| self.covers(path))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Scheme, authority, and path without a slash at its end.
    fn parts(&self) -> Option<(&str, &str, &str)> {
        let (scheme, after) = self.0.split_once("://")?;
        let (authority, path) = after.split_at(after.find(['/', '?']).unwrap_or(after.len()));
        let path = &path[..path.find('?').unwrap_or(path.len())];
        Some((scheme, authority, path.strip_suffix('/').unwrap_or(path)))
    }
}

/// Has `path` neither a dot segment, in any spelling, nor a percent sign that encodes nothing? Whoever resolves these reads
/// another path.
fn has_one_meaning(path: &str) -> bool {
    let digits = |escape: &str| escape.get(..2).is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    let mut segments = decoded.split(|b| matches!(b, b'/' | b'\\'));
    path.split('%').skip(1).all(digits) && !segments.any(|segment| matches!(segment, b"." | b".."))
}

/// One or more resources. In JSON a single one is a string, as in `aud` (RFC 7519 section 4.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany", into = "OneOrMany")]
pub struct Resources(Vec<ResourceUrl>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(ResourceUrl),
    Many(Vec<ResourceUrl>),
}

impl From<OneOrMany> for Resources {
    fn from(urls: OneOrMany) -> Resources {
        match urls {
            OneOrMany::One(url) => Resources(vec![url]),
            OneOrMany::Many(urls) => Resources(urls),
        }
    }
}

impl From<Resources> for OneOrMany {
    fn from(resources: Resources) -> OneOrMany {
        match <[ResourceUrl; 1]>::try_from(resources.0) {
            Ok([url]) => OneOrMany::One(url),
            Err(urls) => OneOrMany::Many(urls),
        }
    }
}

impl Resources {
    /// These, without duplicates. The whole origin if there are none.
    pub fn new(mut urls: Vec<ResourceUrl>, origin: &str) -> Resources {
        if urls.is_empty() {
            urls.push(ResourceUrl::of_origin(origin));
        }
        urls.sort();
        urls.dedup();
        Resources(urls)
    }

    /// Are all of them on this origin?
    pub fn are_on(&self, origin: &str) -> bool {
        !self.0.is_empty() && self.0.iter().all(|url| url.is_on(origin))
    }

    /// Is a request for `path` at or below one of them?
    pub fn cover(&self, path: &str) -> bool {
        self.0.iter().any(|url| url.covers(path))
    }

    /// Is each of `others` at or below one of them?
    pub fn include(&self, others: &Resources) -> bool {
        others.0.iter().all(|other| self.0.iter().any(|url| url.includes(other)))
    }

    /// Those that `keep` keeps; `None` if there are none.
    pub fn filter(&self, keep: impl Fn(&ResourceUrl) -> bool) -> Option<Resources> {
        let kept: Vec<ResourceUrl> = self.0.iter().filter(|url| keep(url)).cloned().collect();
        (!kept.is_empty()).then_some(Resources(kept))
    }

    /// The URLs, sorted.
    pub fn urls(&self) -> &[ResourceUrl] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "https://mcp.example.com";

    #[test]
    fn any_url_on_the_origin_and_none_elsewhere() {
        for good in [
            "https://mcp.example.com",
            "https://mcp.example.com/",
            "https://MCP.example.com:443/mcp?x=1",
            "HTTPS://mcp.example.com?x",
        ] {
            assert!(ResourceUrl::parse(good, ORIGIN).is_some(), "{good}");
        }
        let long = format!("https://mcp.example.com/{}", "x".repeat(MAX_LENGTH));
        for bad in [
            "",
            "http://mcp.example.com",
            "https://mcp.example.com.evil",
            "https://mcp.example.com@evil",
            "https://evil/mcp.example.com",
            "https://u@mcp.example.com",
            "https://mcp.example.com:8443",
            "https://mcp.example.com#f",
            "https://mcp.example.com/#f",
            "/mcp",
            "mcp.example.com",
            "https://mcp.example.com\\@evil",
            "https://mcp.example.com/a b",
            "https://mcp.example.com/a/../b",
            "https://mcp.example.com/./",
            "https://mcp.example.com/a/%2E%2e/b",
            "https://mcp.example.com/a%2f..%2fb",
            "https://mcp.example.com/a/%zz",
            "https://mcp.example.com/%",
            "https://mcp.example.com/\u{e4}",
            long.as_str(),
        ] {
            assert!(ResourceUrl::parse(bad, ORIGIN).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_url_covers_itself_and_what_is_below_it() {
        let covers =
            |url: &str, path: &str| ResourceUrl::parse(&format!("{ORIGIN}{url}"), ORIGIN).unwrap().covers(path);
        for (url, path) in [
            ("", "/"),
            ("", "/mcp"),
            ("/", "/mcp"),
            ("?x", "/mcp"),
            ("/mcp", "/mcp"),
            ("/mcp", "/mcp/"),
            ("/mcp/", "/mcp"),
            ("/mcp?x=/", "/mcp/messages"),
            ("/files/mcp", "/files/mcp/a/b"),
        ] {
            assert!(covers(url, path), "{url} covers {path}");
        }
        for (url, path) in [
            ("/mcp", "/"),
            ("/mcp", "/mcpx"),
            ("/mcp", "/MCP"),
            ("/mcp", "/%6dcp"),
            ("/mcp", "//mcp"),
            ("/mcp", "/x/../mcp"),
            ("/files/mcp", "/files"),
            ("/files/mcp", "/wiki/mcp"),
            ("/mcp?x", "/mcp?x"),
        ] {
            assert!(!covers(url, path), "{url} covers {path}");
        }
    }

    #[test]
    fn resources_include_what_is_below_each_of_them() {
        let resources = |paths: &[&str]| {
            let urls = paths.iter().map(|p| ResourceUrl::parse(&format!("{ORIGIN}{p}"), ORIGIN).unwrap());
            Resources::new(urls.collect(), ORIGIN)
        };
        let all = resources(&[]);
        assert!(all.include(&resources(&["/mcp", "/x"])) && all.include(&all));
        assert!(!resources(&["/mcp"]).include(&all), "nothing becomes wider");
        let two = resources(&["/mcp", "/x"]);
        assert!(two.include(&resources(&["/x/", "/mcp/a"])) && two.include(&two));
        assert!(!two.include(&resources(&["/x", "/y"])));
    }

    #[test]
    fn one_is_a_string_and_several_are_a_list() {
        let url = |path: &str| ResourceUrl::parse(&format!("{ORIGIN}{path}"), ORIGIN).unwrap();
        let one = Resources::new(vec![url("/a"), url("/a")], ORIGIN);
        assert_eq!(serde_json::to_string(&one).unwrap(), format!("\"{ORIGIN}/a\""));
        let two = Resources::new(vec![url("/b"), url("/a")], ORIGIN);
        let text = serde_json::to_string(&two).unwrap();
        assert_eq!(text, format!("[\"{ORIGIN}/a\",\"{ORIGIN}/b\"]"));
        assert_eq!(serde_json::from_str::<Resources>(&text).unwrap(), two);
        assert!(!serde_json::from_str::<Resources>("[]").unwrap().are_on(ORIGIN));
    }
}
