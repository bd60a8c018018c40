//! The published MCP servers, each a protected resource (RFC 9728): which one a path or a URL names, and for which one a
//! token is.
//!
//! One server has the whole origin: a token is for whatever URL the client asked for. Of several servers, each has its own
//! path and exactly one URL, and a token is for the servers whose URLs are in its audience.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use crate::identity::{Asserted, UserId, UserProfile};
use crate::lock::Unpoisoned;
use crate::login::Login;
use crate::resource_url::{ResourceUrl, Resources};
use crate::rules::ServerRules;
use crate::store::StoreError;
use crate::store::rows::Grant;
use crate::upstream::Upstream;

/// The paths below a server's own at which it answers.
const ENDPOINTS: [&str; 2] = ["/mcp", "/sse"];

/// One published MCP server.
pub struct ProtectedResource {
    /// Its name in the servers file; empty for the one server of the command line.
    pub name: String,
    /// What stands before `/mcp` in its paths, such as `/files`; empty for a server that has the whole origin.
    pub base: String,
    /// The URLs that clients are given, and that their tokens are for: that of the endpoint, and that of HTTP+SSE.
    pub urls: [ResourceUrl; 2],
    /// What people call it.
    pub title: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// Who may use it, of those who may sign in; `None` for all of them.
    pub rules: Option<ServerRules>,
    /// It takes over from a server that had the whole origin: it also answers at `/mcp`, and to tokens for the origin.
    pub is_legacy: bool,
    /// Most requests of it in flight, if it has a limit of its own.
    pub max_requests: Option<usize>,
    /// The MCP server.
    pub upstream: Arc<dyn Upstream>,
}

impl ProtectedResource {
    /// The URLs of a server with this `base`, whose endpoint is usually `/mcp`.
    pub fn urls_of(origin: &str, base: &str, endpoint: &str) -> [ResourceUrl; 2] {
        [endpoint, ENDPOINTS[1]].map(|endpoint| ResourceUrl::of_path(origin, &format!("{base}{endpoint}")))
    }

    /// The URL that clients are given.
    pub fn url(&self) -> &ResourceUrl {
        &self.urls[0]
    }

    /// May this user use it? `profile` is what the provider says, `groups` are those of a user without a provider.
    pub fn admits(&self, user: &UserId, profile: Option<&UserProfile>, groups: &[String]) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.admit(user, profile, groups))
    }

    /// May this user use it, by what is known of the user now?
    pub fn is_open_to(&self, login: &Login, user: &UserId) -> Result<bool, StoreError> {
        if self.rules.is_none() {
            return Ok(true);
        }
        let record = login.user_records.get(user)?;
        Ok(self.admits(user, record.as_ref().map(|record| &record.profile), &login.groups_of(user)))
    }

    /// May whoever a trusted issuer has said this about use it? Only entries that name the issuer count.
    pub fn admits_asserted(&self, asserted: &Asserted) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.admit_asserted(&asserted.issuer, &asserted.profile))
    }

    /// May the user of this grant use it?
    pub fn is_open_to_grant(&self, login: &Login, grant: &Grant) -> Result<bool, StoreError> {
        match &grant.asserted {
            Some(asserted) => Ok(self.admits_asserted(asserted)),
            None => self.is_open_to(login, &grant.user.id),
        }
    }

    /// The digest of its rules; empty without rules.
    pub fn rules_digest(&self) -> String {
        self.rules.as_ref().map(ServerRules::digest).unwrap_or_default()
    }
}

/// All published servers at one time.
pub struct ProtectedResources {
    all: Vec<Arc<ProtectedResource>>,
    /// For several servers, the index of each by its `base`; `None` if one server has the whole origin.
    by_base: Option<HashMap<String, usize>>,
}

/// The server that a request is for.
pub struct Target {
    /// The server.
    pub resource: Arc<ProtectedResource>,
    /// The length of the part of the request's path that stands before the server's own `/mcp`.
    pub base: usize,
}

impl Target {
    /// The path of the endpoint at or below which `path` is.
    pub fn endpoint<'p>(&self, path: &'p str) -> &'p str {
        let after = path.get(self.base..).unwrap_or_default();
        let length =
            ENDPOINTS.iter().find(|endpoint| after.starts_with(*endpoint)).map_or(0, |endpoint| endpoint.len());
        &path[..self.base + length]
    }
}

impl ProtectedResources {
    /// One server that has the whole origin.
    pub fn one(resource: ProtectedResource) -> ProtectedResources {
        ProtectedResources { all: vec![Arc::new(resource)], by_base: None }
    }

    /// Several servers, whose `base` and `name` differ.
    pub fn several(all: Vec<Arc<ProtectedResource>>) -> ProtectedResources {
        let by_base = all.iter().enumerate().map(|(at, resource)| (resource.base.clone(), at)).collect();
        ProtectedResources { all, by_base: Some(by_base) }
    }

    /// All servers, in the order of the file.
    pub fn all(&self) -> &[Arc<ProtectedResource>] {
        &self.all
    }

    /// The servers that this user may use, by what is known of the user now.
    pub fn open_to(&self, login: &Login, user: &UserId) -> Result<Vec<Arc<ProtectedResource>>, StoreError> {
        let mut open = Vec::new();
        for resource in &self.all {
            if resource.is_open_to(login, user)? {
                open.push(resource.clone());
            }
        }
        Ok(open)
    }

    /// The server that has the whole origin, if there is one.
    pub fn whole(&self) -> Option<&Arc<ProtectedResource>> {
        if self.by_base.is_none() { self.all.first() } else { None }
    }

    fn legacy(&self) -> Option<&Arc<ProtectedResource>> {
        self.all.iter().find(|resource| resource.is_legacy)
    }

    /// The server that has `path`. Compares the bytes, at the boundaries of segments: another spelling is another path.
    pub fn at(&self, path: &str) -> Option<Target> {
        let is_endpoint = |rest: &str| {
            ENDPOINTS.iter().any(|e| rest.strip_prefix(e).is_some_and(|more| more.is_empty() || more.starts_with('/')))
        };
        let Some(by_base) = &self.by_base else {
            // A stdio server has just these paths; that of a server at a URL is its own.
            let is_there =
                |resource: &&Arc<ProtectedResource>| resource.upstream.endpoint().is_none() || is_endpoint(path);
            let resource = self.all.first().filter(is_there)?;
            return Some(Target { resource: resource.clone(), base: 0 });
        };
        if is_endpoint(path)
            && let Some(resource) = self.legacy()
        {
            return Some(Target { resource: resource.clone(), base: 0 });
        }
        let base = 1 + path.strip_prefix('/')?.find('/')?;
        let at = by_base.get(&path[..base]).filter(|_| is_endpoint(&path[base..]))?;
        Some(Target { resource: self.all[*at].clone(), base })
    }

    /// The server that a URL names which a client asks for now.
    pub fn named_by(&self, url: &ResourceUrl) -> Option<&Arc<ProtectedResource>> {
        self.named_for(url, self.by_base.is_some())
    }

    /// The server that a URL names in a grant or a token. `of_file` tells whether that was given for servers of a file, or for
    /// one server that had the whole origin: the same URL then means another server.
    pub fn named_for(&self, url: &ResourceUrl, of_file: bool) -> Option<&Arc<ProtectedResource>> {
        if let Some(whole) = self.whole() {
            return Some(whole).filter(|_| !of_file);
        }
        let exact = self.all.iter().find(|resource| of_file && resource.urls.contains(url));
        // The URLs of a server that takes over from one that had the whole origin.
        let is_of_legacy = || ENDPOINTS.iter().any(|endpoint| url.covers(endpoint));
        exact.or_else(|| self.legacy().filter(|_| is_of_legacy()))
    }

    /// May a client ask for this URL? With several servers only for theirs, and for `/mcp` and `/sse` if those have a server.
    pub fn can_be_requested(&self, url: &ResourceUrl) -> bool {
        self.whole().is_some()
            || self.named_by(url).is_some_and(|resource| resource.urls.contains(url) || !url.covers("/"))
    }

    /// Is a token with this audience good for a request for `path`, which `target` has? `of_file` as in
    /// [`Self::named_for`].
    pub fn is_audience(&self, audience: &Resources, of_file: bool, target: &Target, path: &str) -> bool {
        if self.by_base.is_none() {
            return !of_file && audience.cover(path);
        }
        // Without a look at all servers, since each request comes by here.
        let resource = &target.resource;
        let is_its = |url: &ResourceUrl| match of_file && resource.urls.contains(url) {
            true => true,
            false => {
                resource.is_legacy && self.named_for(url, of_file).is_some_and(|named| named.name == resource.name)
            }
        };
        audience.urls().iter().any(is_its)
    }

    /// Is a token with this audience for this server at all, whatever the path?
    pub fn concerns(&self, audience: &Resources, of_file: bool, resource: &ProtectedResource) -> bool {
        let is_its = |url| self.named_for(url, of_file).is_some_and(|named| named.name == resource.name);
        audience.urls().iter().any(is_its)
    }

    /// Does a grant for the resources `granted` include `requested`? `of_file` is that of the grant.
    pub fn include(&self, granted: &Resources, of_file: bool, requested: &ResourceUrl) -> bool {
        let Some(server) = self.named_by(requested) else { return false };
        let is_same = |url: &ResourceUrl| self.named_for(url, of_file).is_some_and(|named| named.name == server.name);
        granted.urls().iter().any(|url| is_same(url) && (url == requested || url.includes(requested)))
    }
}

/// The servers that are published now. A reload replaces them all at once.
#[derive(Clone)]
pub struct Published(Arc<RwLock<Arc<ProtectedResources>>>);

impl Published {
    /// Publishes `resources`.
    pub fn new(resources: ProtectedResources) -> Published {
        Published(Arc::new(RwLock::new(Arc::new(resources))))
    }

    /// The servers that are published now.
    pub fn now(&self) -> Arc<ProtectedResources> {
        self.0.read().unpoisoned().clone()
    }

    /// Publishes others, and returns those of before.
    pub fn replace(&self, resources: ProtectedResources) -> Arc<ProtectedResources> {
        std::mem::replace(&mut *self.0.write().unpoisoned(), Arc::new(resources))
    }
}

#[cfg(test)]
impl ProtectedResource {
    /// A server without anything behind it.
    pub(crate) fn sample(origin: &str, name: &str) -> ProtectedResource {
        struct Nothing;
        impl Upstream for Nothing {
            fn forward(
                &self,
                _: &mut crate::http::Request<'_>,
                _: &crate::upstream::ForwardedIdentity,
            ) -> crate::http::Response {
                crate::http::Response::new(http::StatusCode::OK)
            }

            fn endpoint(&self) -> Option<&str> {
                None
            }
        }
        let base = if name.is_empty() { String::new() } else { format!("/{name}") };
        ProtectedResource {
            name: name.into(),
            urls: ProtectedResource::urls_of(origin, &base, "/mcp"),
            base,
            title: name.into(),
            description: String::new(),
            rules: None,
            is_legacy: false,
            max_requests: None,
            upstream: Arc::new(Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "https://mcp.example.com";

    fn one() -> ProtectedResources {
        ProtectedResources::one(ProtectedResource::sample(ORIGIN, ""))
    }

    fn several(legacy: &str) -> ProtectedResources {
        let all = ["files", "wiki", "a.b_c-1"].map(|name| {
            Arc::new(ProtectedResource { is_legacy: name == legacy, ..ProtectedResource::sample(ORIGIN, name) })
        });
        ProtectedResources::several(all.into())
    }

    fn url(text: &str) -> ResourceUrl {
        ResourceUrl::parse(text, ORIGIN).unwrap()
    }

    #[test]
    fn a_path_leads_to_one_server_or_to_none() {
        let (several, legacy) = (several(""), several("wiki"));
        let at = |resources: &ProtectedResources, path: &str| {
            resources
                .at(path)
                .map(|t| (t.resource.name.clone(), path[..t.base].to_string(), t.endpoint(path).to_string()))
        };
        for (path, name, endpoint) in [
            ("/files/mcp", "files", "/files/mcp"),
            ("/files/mcp/", "files", "/files/mcp"),
            ("/files/mcp/x/../y", "files", "/files/mcp"),
            ("/files/sse", "files", "/files/sse"),
            ("/files/sse/messages", "files", "/files/sse"),
            ("/wiki/mcp", "wiki", "/wiki/mcp"),
            ("/a.b_c-1/mcp", "a.b_c-1", "/a.b_c-1/mcp"),
        ] {
            assert_eq!(at(&several, path), Some((name.into(), format!("/{name}"), endpoint.into())), "{path}");
        }
        for path in [
            "",
            "/",
            "/mcp",
            "/mcp/",
            "/sse",
            "/files",
            "/files/",
            "/files/mcpx",
            "/files/mc",
            "/filesx/mcp",
            "/FILES/mcp",
            "/files/MCP",
            "/files/%6dcp",
            "/%66iles/mcp",
            "/files%2fmcp",
            "//files/mcp",
            "/files//mcp",
            "/./files/mcp",
            "/x/../files/mcp",
            "/files/./mcp",
            "/files;x/mcp",
            "/files\\mcp",
            "/wiki/x/mcp",
            "files/mcp",
            "/files/mcp?x",
            "/files/sse%2f",
            "*",
        ] {
            // A query is not part of a path: a question mark in one belongs to no name.
            assert_eq!(at(&several, path), None, "{path}");
        }
        assert_eq!(at(&legacy, "/mcp"), Some(("wiki".into(), String::new(), "/mcp".into())));
        assert_eq!(at(&legacy, "/sse/messages"), Some(("wiki".into(), String::new(), "/sse".into())));
        assert_eq!(at(&legacy, "/"), None);
        assert_eq!(at(&legacy, "/wiki/mcp").unwrap().1, "/wiki");
        assert_eq!(at(&one(), "/any/thing"), Some((String::new(), String::new(), String::new())));
    }

    #[test]
    fn a_token_is_for_exactly_the_servers_of_its_audience() {
        let several = several("");
        let is_for = |resources: &ProtectedResources, audience: &[&str], path: &str| {
            let audience = Resources::new(audience.iter().map(|text| url(text)).collect(), ORIGIN);
            resources.is_audience(&audience, true, &resources.at(path).unwrap(), path)
        };
        for audience in ["https://mcp.example.com/files/mcp", "https://mcp.example.com/files/sse"] {
            assert!(
                is_for(&several, &[audience], "/files/mcp") && is_for(&several, &[audience], "/files/sse/messages")
            );
            assert!(!is_for(&several, &[audience], "/wiki/mcp"));
        }
        let two = ["https://mcp.example.com/files/mcp", "https://mcp.example.com/wiki/mcp"];
        assert!(is_for(&several, &two, "/files/mcp") && is_for(&several, &two, "/wiki/mcp"));
        assert!(!is_for(&several, &two, "/a.b_c-1/mcp"));
        for bad in [
            "https://mcp.example.com",
            "https://mcp.example.com/",
            "https://mcp.example.com/files",
            "https://mcp.example.com/files/",
            "https://mcp.example.com/files/mcp/",
            "https://mcp.example.com/files/mcp?x=1",
            "https://mcp.example.com/files/mcpx",
            "https://mcp.example.com/FILES/mcp",
            "https://mcp.example.com/%66iles/mcp",
            "https://MCP.example.com/files/mcp",
            "https://mcp.example.com:443/files/mcp",
            "https://mcp.example.com/mcp",
        ] {
            assert!(!is_for(&several, &[bad], "/files/mcp"), "{bad}");
            assert!(!several.can_be_requested(&url(bad)), "{bad}");
        }
        assert!(several.can_be_requested(&url("https://mcp.example.com/wiki/mcp")));
    }

    #[test]
    fn tokens_of_before_work_only_at_the_server_that_takes_over() {
        let (legacy, none) = (several("wiki"), several(""));
        for old in [
            "https://mcp.example.com",
            "https://mcp.example.com/",
            "https://mcp.example.com/mcp",
            "https://mcp.example.com/mcp/",
        ] {
            let audience = Resources::new(vec![url(old)], ORIGIN);
            for (path, is_good) in [("/mcp", true), ("/wiki/mcp", true), ("/files/mcp", false)] {
                assert_eq!(
                    legacy.is_audience(&audience, false, &legacy.at(path).unwrap(), path),
                    is_good,
                    "{old} {path}"
                );
            }
            assert!(!none.is_audience(&audience, false, &none.at("/wiki/mcp").unwrap(), "/wiki/mcp"), "{old}");
            assert_eq!(none.named_by(&url(old)).map(|r| r.name.as_str()), None);
        }
        assert!(legacy.can_be_requested(&url("https://mcp.example.com/mcp")));
        for bare in ["https://mcp.example.com", "https://mcp.example.com/", "https://mcp.example.com?x"] {
            assert!(!legacy.can_be_requested(&url(bare)), "{bare}");
        }
        let granted = Resources::new(Vec::new(), ORIGIN);
        assert!(legacy.include(&granted, false, &url("https://mcp.example.com/mcp")));
        assert!(legacy.include(&granted, false, &url("https://mcp.example.com/wiki/mcp")));
        assert!(
            !legacy.include(&granted, false, &url("https://mcp.example.com/files/mcp")),
            "it was for another server"
        );
        assert!(!none.include(&granted, false, &url("https://mcp.example.com/files/mcp")));
    }

    #[test]
    fn a_url_that_meant_the_one_server_does_not_mean_one_of_a_file_and_the_other_way_round() {
        let (several, legacy, one) = (several(""), several("wiki"), one());
        let files = url("https://mcp.example.com/files/mcp");
        let audience = Resources::new(vec![files.clone()], ORIGIN);
        for resources in [&several, &legacy] {
            let target = resources.at("/files/mcp").unwrap();
            assert!(resources.is_audience(&audience, true, &target, "/files/mcp"));
            assert!(!resources.is_audience(&audience, false, &target, "/files/mcp"), "it was for another server");
            assert!(!resources.include(&audience, false, &files) && resources.include(&audience, true, &files));
        }
        let target = one.at("/files/mcp").unwrap();
        assert!(one.is_audience(&audience, false, &target, "/files/mcp"));
        assert!(!one.is_audience(&audience, true, &target, "/files/mcp"), "it was for a server of a file");
        assert!(one.include(&audience, false, &files) && !one.include(&audience, true, &files));
    }

    /// Random paths, against a model that takes them apart at their slashes.
    #[test]
    fn paths_lead_where_a_model_says() {
        let (several, legacy) = (several(""), several("wiki"));
        let pieces = ["/files", "/wiki", "/mcp", "/sse", "/x", "/", "x", "%2f", "/..", "/Files", "mcp", ""];
        let mut seed = 3u64;
        let mut found = 0;
        for _ in 0..50_000 {
            let mut path = String::new();
            for _ in 0..5 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                path.push_str(pieces[usize::try_from(seed >> 33).unwrap() % pieces.len()]);
            }
            let segments: Vec<&str> = path.split('/').collect();
            let is_endpoint =
                |at: usize| segments[0].is_empty() && segments.get(at).is_some_and(|s| matches!(*s, "mcp" | "sse"));
            let named = segments.get(1).filter(|name| matches!(**name, "files" | "wiki") && is_endpoint(2));
            let old = is_endpoint(1).then_some("wiki");
            let at = |resources: &ProtectedResources| resources.at(&path).map(|target| target.resource.name.clone());
            assert_eq!(at(&several), named.map(|name| name.to_string()), "{path}");
            assert_eq!(at(&legacy), old.or(named.copied()).map(String::from), "{path}");
            found += usize::from(named.is_some());
        }
        assert!(found > 200, "{found}");
    }
}
