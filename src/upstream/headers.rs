//! Which header fields are forwarded, in both directions.

use std::borrow::Cow;

use ::http::header::{AUTHORIZATION, LOCATION};
use ::http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::config::UpstreamConfig;
use super::forward::ForwardedIdentity;
use crate::http::h1::head::connection_tokens;
use crate::url::ExternalUrl;

const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Does the field belong to one connection and not to the message (RFC 9110 section 7.6.1)?
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            // CGI passes it on as HTTP_PROXY, which many programs use as their outbound proxy (httpoxy).
            | "proxy"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Can a server learn from this field who a request is from, or which host or path it is for? Clients must not set it.
fn is_identity(name: &str) -> bool {
    name.starts_with(FORWARDED_PREFIX)
        || name.starts_with("x-auth-request-")
        || matches!(
            name,
            "authorization"
                | "cf-connecting-ip"
                | "cookie"
                | "cookie2"
                | "forwarded"
                | "remote-user"
                | "true-client-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "x-original-host"
                | "x-original-url"
                | "x-real-ip"
                | "x-remote-user"
                | "x-rewrite-url"
        )
}

/// Fields of a client that stop at the proxy, because it writes them itself (framing, Host) or has answered them already
/// (Origin, CORS, Expect).
fn is_own(name: &str) -> bool {
    matches!(
        name,
        "access-control-request-headers"
            | "access-control-request-method"
            | "content-length"
            | "expect"
            | "host"
            | "origin"
    )
}

/// What is percent-encoded in an identity field, besides non-ASCII: control characters, space and the percent sign.
const VISIBLE: &AsciiSet = &CONTROLS.add(b' ').add(b'%');
/// The same for a list whose percent signs are already encoded.
const VISIBLE_LIST: &AsciiSet = &CONTROLS.add(b' ');

/// The field name with every character except letters and digits replaced by `-`. Servers that follow CGI or WSGI, and
/// PHP, read `X_Api.Key` as `X-Api-Key`.
fn folded(name: &str) -> Cow<'_, str> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    match name.bytes().all(is_plain) {
        true => name.into(),
        false => name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect::<String>().into(),
    }
}

/// Fields that `--proxy-headers` must not set, because the proxy writes them to the upstream request itself.
pub fn is_managed_field(name: &HeaderName) -> bool {
    let name = &*folded(name.as_str());
    is_hop_by_hop(name) || matches!(name, "content-length" | "expect" | "host") || name.starts_with(FORWARDED_PREFIX)
}

/// Could a server learn from this field who a request is from?
pub fn is_identity_field(name: &HeaderName) -> bool {
    is_identity(&folded(name.as_str()))
}

/// The fields that every request to the upstream server has.
pub struct Fixed {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// Their names, normalized by [`folded`].
    folded: Vec<String>,
}

impl Fixed {
    /// The fields of `config`, and X-Forwarded-Host, -Proto and -Port. These come from the configured external URL,
    /// whatever a request or a reverse proxy in front of this one says.
    pub fn new(external: &ExternalUrl, config: &UpstreamConfig) -> Fixed {
        let host = external.origin.split_once("://").map_or("", |(_, authority)| authority);
        let scheme = if external.secure { "https" } else { "http" };
        let port = external.port.to_string();
        let face = [("x-forwarded-host", host), ("x-forwarded-proto", scheme), ("x-forwarded-port", &port)]
            .map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?)));
        let token = config.bearer_token.iter().map(|token| (AUTHORIZATION, token.clone()));
        let fields: Vec<_> = face.into_iter().flatten().chain(token).chain(config.headers.iter().cloned()).collect();
        let own = fields.iter().map(|(name, _)| name).chain(&config.identity_fields);
        let folded = own.map(|name| folded(name.as_str()).into_owned()).collect();
        Fixed { fields, folded }
    }

    /// All of them.
    pub fn all(&self) -> HeaderMap {
        self.fields.iter().cloned().collect()
    }
}

/// The fields of the request to the upstream server.
pub fn request(from: &HeaderMap, origin: &ForwardedIdentity, fixed: &Fixed) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(from.len() + 8);
    let listed: Vec<&str> = connection_tokens(from).collect();
    for (name, value) in from {
        if passes(name.as_str(), fixed) && !listed.iter().any(|l| l.eq_ignore_ascii_case(name.as_str())) {
            out.append(name, value.clone());
        }
    }
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            out.insert(HeaderName::from_static(name), value);
        }
    };
    let chain: Vec<String> = origin.chain.iter().map(|a| a.to_string()).collect();
    set("x-forwarded-for", &chain.join(", "));
    let encode = |text| Cow::from(utf8_percent_encode(text, VISIBLE));
    set("x-forwarded-user", &encode(origin.principal.user.as_str()));
    set("x-forwarded-client", &encode(origin.principal.client.as_str()));
    if let Some(email) = &origin.principal.email {
        set("x-forwarded-email", &encode(email));
    }
    if let Some(person) = &origin.principal.person {
        set("x-forwarded-provider", person.name());
        if let Some(name) = &person.profile().name {
            set("x-forwarded-name", &encode(name));
        }
        let groups = person.profile().group_list();
        if !groups.is_empty() {
            set("x-forwarded-groups", &utf8_percent_encode(&groups, VISIBLE_LIST).to_string());
        }
    }
    for (name, value) in &fixed.fields {
        out.insert(name, value.clone());
    }
    for (name, value) in origin.fields.iter() {
        match value {
            Some(value) => drop(out.insert(name, value.clone())),
            None => drop(out.remove(name)),
        }
    }
    out
}

/// A value for an identity field: what is not a visible ASCII character, and the percent sign, is percent-encoded.
pub fn encode_identity(text: &str) -> String {
    utf8_percent_encode(text, VISIBLE).to_string()
}

/// May `--header-mapping` or `--identity-assertion-header` set this field? Not what frames the message, authenticates the
/// proxy, or belongs to MCP.
pub fn can_be_mapped(name: &HeaderName) -> bool {
    let name = &*folded(name.as_str());
    let is_taken = matches!(
        name,
        "accept"
            | "authorization"
            | "content-encoding"
            | "content-type"
            | "cookie"
            | "forwarded"
            | "last-event-id"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
    );
    !is_taken && !is_hop_by_hop(name) && !is_own(name) && !name.starts_with("mcp-")
}

/// May a client's field be forwarded? Checks all spellings of its name.
fn passes(name: &str, fixed: &Fixed) -> bool {
    // What the proxy itself has put there; another spelling of it is the client's.
    let is_spelled_as = |own: &str| name != own && folded(name) == own;
    if is_spelled_as("x-request-id") {
        return false;
    }
    let name = &*folded(name);
    !is_hop_by_hop(name) && !is_own(name) && !is_identity(name) && !fixed.folded.iter().any(|f| f == name)
}

/// The fields of the upstream server's answer that go on to the client.
pub fn response(mut from: HeaderMap) -> HeaderMap {
    let listed: Vec<String> = connection_tokens(&from).map(str::to_ascii_lowercase).collect();
    let stays = |name: &str| {
        !is_hop_by_hop(name)
            && !matches!(name, "content-length" | "set-cookie" | "www-authenticate")
            && !name.starts_with("access-control-")
            && !listed.iter().any(|l| l == name)
    };
    let dropped: Vec<HeaderName> = from.keys().filter(|name| !stays(name.as_str())).cloned().collect();
    for name in dropped {
        from.remove(name);
    }
    from
}

/// The path and query that a redirect of the upstream server leads to, if scheme, host and port stay the same.
pub fn location_on_host(headers: &HeaderMap, base: &::http::Uri) -> Option<String> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let location = location.split('#').next().unwrap_or_default();
    if location.contains('\\') || location.is_empty() {
        return None;
    }
    if let Some(relative) = location.strip_prefix('/') {
        return (!relative.starts_with('/')).then(|| location.to_string());
    }
    match location.parse::<::http::Uri>() {
        Ok(uri) if uri.scheme().is_some() => {
            let same = uri.scheme() == base.scheme()
                && uri.authority().map(|a| a.as_str()) == base.authority().map(|a| a.as_str());
            same.then(|| uri.path_and_query().map_or("/".into(), |p| p.as_str().to_string()))
        }
        // A path relative to the one that was asked for (RFC 3986 section 5.2).
        _ if !location.contains(':') => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            Some(format!("{folder}/{location}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ClientId, GrantId, Principal, UserId};

    fn origin() -> ForwardedIdentity {
        ForwardedIdentity {
            principal: Principal {
                user: UserId("oidc:jürgen 100%".into()),
                email: Some("j@example.com".into()),
                client: ClientId("c".into()),
                grant: GrantId("g".into()),
                expires_at: 0,
                person: None,
            },
            chain: vec!["192.0.2.7".parse().unwrap(), "10.0.0.1".parse().unwrap()],
            base: String::new(),
            fields: [].into(),
        }
    }

    fn config() -> UpstreamConfig {
        let mut settings = crate::flags::Settings { upstream: Some("http://h".into()), ..Default::default() };
        settings.proxy_bearer_token = Some("upstream-token".into());
        settings.proxy_headers = vec![("X-Api-Key".into(), "k".into())];
        crate::app::config::Config::build(settings).unwrap().servers.http().next().unwrap().clone()
    }

    #[test]
    fn what_a_client_could_pretend_with_is_dropped_and_the_truth_is_set() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer client-token"),
            ("cookie", "a=b"),
            ("host", "evil"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("x_real_ip", "1.1.1.1"),
            ("x-original-url", "/admin"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x-forwarded-user", "root"),
            ("x-forwarded_user", "root"),
            ("x_forwarded_email", "root"),
            ("x-forwarded-prefix", "/x"),
            ("connection", "close, x-secret, accept"),
            ("x-secret", "hop"),
            ("keep-alive", "timeout=1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("transfer_encoding", "chunked"),
            ("content_length", "5"),
            ("content-length", "5"),
            ("expect", "100-continue"),
            ("origin", "https://a"),
            ("proxy-authorization", "x"),
            ("x-api-key", "forged"),
            ("x_api_key", "forged"),
            ("x.api.key", "forged"),
            ("x-api~key", "forged"),
            ("x.forwarded.user", "root"),
            ("x-forwarded*email", "root"),
            ("remote.user", "root"),
            ("authorization.", "kept: no server takes it for another"),
            ("proxy", "http://evil"),
            ("pro.xy", "kept"),
            ("http_host", "kept"),
            ("mcp-session-id", "s"),
            ("x-custom", "1"),
            ("x-custom", "2"),
            ("accept", "dropped: it is in Connection"),
        ] {
            from.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let external = ExternalUrl::parse("https://mcp.example.com:8443").unwrap();
        let out = request(&from, &origin(), &Fixed::new(&external, &config()));
        let mut found: Vec<(&str, &str)> = out.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        found.sort();
        assert_eq!(
            found,
            [
                ("authorization", "Bearer upstream-token"),
                ("authorization.", "kept: no server takes it for another"),
                ("http_host", "kept"),
                ("mcp-session-id", "s"),
                ("pro.xy", "kept"),
                ("x-api-key", "k"),
                ("x-custom", "1"),
                ("x-custom", "2"),
                ("x-forwarded-client", "c"),
                ("x-forwarded-email", "j@example.com"),
                ("x-forwarded-for", "192.0.2.7, 10.0.0.1"),
                ("x-forwarded-host", "mcp.example.com:8443"),
                ("x-forwarded-port", "8443"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-user", "oidc:j%C3%BCrgen%20100%25"),
            ]
        );
    }

    #[test]
    fn an_answer_loses_what_would_confuse_the_client() {
        let mut from = HeaderMap::new();
        for name in [
            "set-cookie",
            "www-authenticate",
            "access-control-allow-origin",
            "connection",
            "transfer-encoding",
            "x-hop",
            "mcp-session-id",
        ] {
            from.append(HeaderName::from_static(name), "x-hop".parse().unwrap());
        }
        let out = response(from);
        assert_eq!(out.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["mcp-session-id"]);
    }

    #[test]
    fn redirects_are_followed_on_the_same_host_only() {
        let base = "http://h:1/a/b?x".parse().unwrap();
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            location_on_host(&headers, &base)
        };
        assert_eq!(to("/c?d").as_deref(), Some("/c?d"));
        assert_eq!(to("http://h:1/c/").as_deref(), Some("/c/"));
        assert_eq!(to("c/").as_deref(), Some("/a/c/"));
        for other in
            ["http://h/c", "https://h:1/c", "http://h:1@evil/c", "//evil/c", "/\\evil", "http://evil/", "mailto:x", ""]
        {
            assert_eq!(to(other), None, "{other}");
        }
    }

    #[test]
    fn configured_fields_are_not_those_that_are_written_here_in_any_spelling() {
        for name in ["x-forwarded-user", "x_forwarded_user", "x.forwarded.for", "content_length", "proxy", "te"] {
            assert!(is_managed_field(&HeaderName::from_static(name)), "{name}");
        }
        assert!(!is_managed_field(&HeaderName::from_static("x_api_key")));
    }
}
