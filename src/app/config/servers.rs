//! The MCP servers to publish: the one of the command line, or those of the servers file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue};
use rustix::process::{Resource, geteuid, getrlimit};

use crate::flags::{FLAGS, Settings};
use crate::login::issuers::TrustedIssuer;
use crate::pages::{display_name, display_text};
use crate::rules::ServerRules;
use crate::servers_file::{self, Entry, Note, Proxied, Transport};
use crate::upstream::UpstreamConfig;
use crate::upstream::stdio::{RunAs, StdioConfig};
use crate::url::UpstreamUrl;

/// The MCP servers to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Servers {
    /// The servers.
    pub all: Vec<ServerConfig>,
    /// True if they are those of a servers file, each with a path of its own; false for one that has the whole origin.
    pub is_file: bool,
}

/// One MCP server to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Its name in the servers file; empty for the one server of the command line.
    pub name: String,
    /// What stands before `/mcp` in its paths, such as `/files`; empty for one that has the whole origin.
    pub base: String,
    /// The path of its endpoint.
    pub endpoint: String,
    /// What people call it.
    pub title: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// Who may use it, of those who may sign in; `None` for all of them.
    pub rules: Option<ServerRules>,
    /// It takes over from a server that had the whole origin.
    pub is_legacy: bool,
    /// Most requests of it in flight.
    pub max_requests: Option<usize>,
    /// How to reach it.
    pub backend: Backend,
}

/// How to reach a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// At a URL.
    Http(UpstreamConfig),
    /// A command that speaks over stdio.
    Stdio(StdioConfig),
}

impl Servers {
    /// The stdio servers.
    pub fn stdio(&self) -> impl Iterator<Item = &StdioConfig> {
        self.all.iter().filter_map(|server| match &server.backend {
            Backend::Stdio(stdio) => Some(stdio),
            Backend::Http(_) => None,
        })
    }

    /// The servers at a URL.
    pub fn http(&self) -> impl Iterator<Item = &UpstreamConfig> {
        self.all.iter().filter_map(|server| match &server.backend {
            Backend::Http(http) => Some(http),
            Backend::Stdio(_) => None,
        })
    }
}

impl Servers {
    /// Makes homes for users without one: ids without an entry in /etc/passwd, as in `--stdio-user 1000:1000`.
    pub fn make_homes(&mut self) {
        for user in self.all.iter_mut().filter_map(ServerConfig::user_mut) {
            user.make_home(&std::env::temp_dir()).unwrap_or_else(|e| {
                log::warn!(error:% = e; "no home could be made for the user of --stdio-user (STDIO_USER): the MCP server runs without one");
            });
        }
    }
}

impl Backend {
    /// Are they equal, apart from the number of processes, which changes with the number of servers?
    pub fn is_same_but_for_share(&self, other: &Backend) -> bool {
        match (self, other) {
            (Backend::Stdio(one), Backend::Stdio(two)) => {
                *one == StdioConfig { max_children: one.max_children, ..two.clone() }
            }
            _ => self == other,
        }
    }

    /// Is a server that is reached in this way the same as one that is reached in the `other`? The number of processes that
    /// it may have, and how long, make no difference.
    pub fn is_same(&self, other: &Backend) -> bool {
        match (self, other) {
            (Backend::Stdio(one), Backend::Stdio(two)) => {
                let limits = one.limits();
                let two = StdioConfig { max_children: limits.children, spare: limits.spare, ..two.clone() };
                *one == StdioConfig { idle_timeout: limits.idle, ..two }
            }
            _ => self == other,
        }
    }
}

impl ServerConfig {
    /// The system user that it runs as, if it has one of its own.
    pub fn user_mut(&mut self) -> Option<&mut RunAs> {
        match &mut self.backend {
            Backend::Stdio(stdio) => stdio.user.as_mut(),
            Backend::Http(_) => None,
        }
    }

    /// The URL or the program, for the log. Omits arguments, since they may be secrets.
    pub fn shown(&self) -> String {
        match &self.backend {
            Backend::Http(http) => http.url.to_string(),
            Backend::Stdio(stdio) => {
                stdio.command.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
            }
        }
    }
}

/// The servers that `s` names; none if it names none. `methods` are the ways to sign in that there are.
pub fn configure(s: &Settings, methods: &[String]) -> Result<(Servers, Vec<Note>), String> {
    if let Some(file) = &s.servers {
        return of_file(s, Path::new(file), methods);
    }
    let backend = match &s.upstream {
        _ if !s.command.is_empty() => Some(Backend::Stdio(stdio_config(s)?)),
        Some(url) => Some(Backend::Http(http_config(s, url)?)),
        None => None,
    };
    Ok((Servers { all: backend.map(one).into_iter().collect(), is_file: false }, Vec::new()))
}

fn of_file(s: &Settings, file: &Path, methods: &[String]) -> Result<(Servers, Vec<Note>), String> {
    if s.upstream.is_some() || !s.command.is_empty() {
        return Err("--servers (SERVERS) and a server on the command line are two answers to the same question; add the server to the file, or leave the file out".into());
    }
    if s.proxy_bearer_token.is_some() || !s.proxy_headers.is_empty() {
        return Err("--proxy-bearer-token (PROXY_BEARER_TOKEN) and --proxy-headers (PROXY_HEADERS) would go to every server of --servers (SERVERS); write proxy.bearerToken or headers at the server that needs them".into());
    }
    let refuse = |why: String| format!("--servers (SERVERS): {why}");
    let text = servers_file::read_owned(file).map_err(refuse)?;
    let env = |name: &str| std::env::var(name).ok();
    let secrets: Vec<&str> = FLAGS.iter().filter(|flag| flag.secret).map(|flag| flag.env).collect();
    let content = servers_file::read(file, &text, &env, &secrets, &servers_file::read_owned).map_err(refuse)?;
    let commands = content.entries.iter().filter(|entry| matches!(entry.transport, Transport::Stdio { .. })).count();
    let share = (s.stdio_max_children / commands.max(1)).max(1);
    let server = |entry: &Entry| {
        let place = format!("{}:{}: server '{}'", file.display(), entry.line, entry.name);
        of_entry(s, entry, share, methods).map_err(|why| refuse(format!("{place}, {why}")))
    };
    let all = content.entries.iter().map(server).collect::<Result<Vec<_>, String>>()?;
    let mut notes = content.notes;
    if all.is_empty() {
        let text =
            format!("{}: there is no server in it that is not disabled, so nothing is published", file.display());
        notes.push(Note { level: log::Level::Warn, text });
    }
    Ok((Servers { all, is_file: true }, notes))
}

/// Do the rules of trusted issuers name servers that there are?
pub fn check_names(servers: &Servers, issuers: &[TrustedIssuer]) -> Result<(), String> {
    for issuer in issuers {
        let mut named = issuer.rules.iter().flat_map(|rule| &rule.servers);
        if let Some(name) = named.find(|name| !servers.all.iter().any(|server| server.name == **name)) {
            return Err(format!(
                "--trusted-issuers (TRUSTED_ISSUERS): issuer '{}': there is no server '{name}' in the servers file; with one server on the command line, leave servers out",
                issuer.name
            ));
        }
    }
    Ok(())
}

/// The error begins with the key.
fn of_entry(s: &Settings, entry: &Entry, share: usize, methods: &[String]) -> Result<ServerConfig, String> {
    let proxy = &entry.proxy;
    let rules = proxy.allow.as_ref().map(|lists| ServerRules::parse(lists, methods)).transpose();
    let backend = match &entry.transport {
        Transport::Stdio { command, env, cwd } => {
            let keys = &proxy.stdio;
            let settings = Settings {
                command: command.iter().map(OsString::from).collect(),
                stdio_shared: keys.is_shared.unwrap_or(s.stdio_shared),
                stdio_spare: keys.spare.unwrap_or(s.stdio_spare),
                stdio_max_children: keys.max_children.unwrap_or(share),
                stdio_idle_timeout: keys.idle_timeout.unwrap_or(s.stdio_idle_timeout),
                stdio_memory: keys.memory.or(s.stdio_memory),
                stdio_user: keys.user.clone().or(s.stdio_user.clone()),
                ..s.clone()
            };
            Backend::Stdio(StdioConfig {
                server: entry.path.clone(),
                is_legacy: proxy.is_legacy,
                env: env.iter().map(|(name, value)| (name.into(), value.as_ref().map(OsString::from))).collect(),
                cwd: cwd.clone(),
                ..stdio_config(&settings).map_err(|why| format!("proxy.stdio: {why}"))?
            })
        }
        Transport::Http { url, headers } => {
            Backend::Http(UpstreamConfig { server: entry.path.clone(), ..http_entry(s, url, headers, proxy)? })
        }
    };
    Ok(ServerConfig {
        name: entry.name.clone(),
        base: format!("/{}", entry.path),
        endpoint: "/mcp".into(),
        title: display_name(proxy.title.as_ref().unwrap_or(&entry.name)),
        description: display_text(proxy.description.as_deref().unwrap_or_default()),
        rules: rules.map_err(|why| format!("proxy.allow: {why}"))?,
        is_legacy: proxy.is_legacy,
        max_requests: proxy.max_requests,
        backend,
    })
}

fn http_entry(
    s: &Settings,
    url: &str,
    headers: &[(String, String)],
    proxy: &Proxied,
) -> Result<UpstreamConfig, String> {
    // The text may have a secret in it, so no message repeats it.
    let (location, query) = url.split_once('?').map_or((url, None), |(location, query)| (location, Some(query)));
    let parsed = UpstreamUrl::parse(location)
        .map_err(|_| "url: it must look like http://127.0.0.1:3001/mcp or unix:/run/server.sock:/mcp".to_string())?;
    let settings = Settings { proxy_bearer_token: proxy.bearer_token.clone(), ..s.clone() };
    let mut config = http_config(&settings, location)
        .map_err(|_| "proxy.bearerToken: it has a character that no header field can carry")?;
    for (name, value) in headers {
        let name: HeaderName = name.parse().map_err(|_| format!("headers: '{name}' is not a field name"))?;
        let is_authorization = name == http::header::AUTHORIZATION;
        if crate::upstream::is_managed_field(&name) || (crate::upstream::is_identity_field(&name) && !is_authorization)
        {
            return Err(format!(
                "headers: {name} belongs to the connection, or tells who a request is from, and can't be set"
            ));
        }
        if is_authorization && config.bearer_token.is_some() {
            return Err("headers: Authorization and proxy.bearerToken are both set; remove one".into());
        }
        if config.headers.iter().any(|(known, _)| *known == name) {
            return Err(format!("headers: {name} is there twice; the case of letters makes no difference"));
        }
        let mut value =
            HeaderValue::from_str(value).map_err(|_| format!("headers: the value of {name} can't be sent"))?;
        value.set_sensitive(true);
        config.headers.push((name, value));
    }
    if let Some(query) = query
        && (query.contains('#') || !query.bytes().all(|b| b.is_ascii_graphic()))
    {
        return Err("url: it has a fragment, or a character that has to be percent-encoded".into());
    }
    config.url = parsed;
    config.query = query.map(String::from);
    config.is_endpoint = true;
    config.connect_timeout = proxy.connect_timeout.unwrap_or(config.connect_timeout);
    config.response_timeout = proxy.response_timeout.unwrap_or(config.response_timeout);
    Ok(config)
}

/// The one server of the command line. Its endpoint is `/mcp`, or `/` if its URL has a path that does not end in `/mcp`.
fn one(backend: Backend) -> ServerConfig {
    let prefix = match &backend {
        Backend::Http(http) => http.url.prefix.as_str(),
        Backend::Stdio(_) => "",
    };
    let is_usual = prefix.is_empty() || prefix.ends_with("/mcp");
    ServerConfig {
        name: String::new(),
        base: String::new(),
        endpoint: if is_usual { "/mcp".into() } else { "/".into() },
        title: String::new(),
        description: String::new(),
        rules: None,
        is_legacy: false,
        max_requests: None,
        backend,
    }
}

fn http_config(s: &Settings, url: &str) -> Result<UpstreamConfig, String> {
    Ok(UpstreamConfig {
        server: String::new(),
        url: UpstreamUrl::parse(url)?,
        query: None,
        is_endpoint: false,
        bearer_token: s.proxy_bearer_token.clone().map(bearer).transpose()?,
        headers: s.proxy_headers.iter().cloned().map(header).collect::<Result<_, _>>()?,
        identity_fields: super::clients::identity_fields(s)?.all(),
        is_checked: !s.no_upstream_check,
        streaming_only: s.http_streaming_only,
        ca_file: s.ca_file.as_ref().map(PathBuf::from),
        insecure_skip_verify: s.upstream_insecure_skip_verify,
        connect_timeout: s.upstream_connect_timeout,
        response_timeout: s.upstream_response_timeout,
    })
}

fn stdio_config(s: &Settings) -> Result<StdioConfig, String> {
    let users = || std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |text: &String| {
        let refuse = |why: String| format!("--stdio-user (STDIO_USER): {why}");
        if !geteuid().is_root() {
            return Err(refuse(
                "only root can run processes under another user; start the proxy as root, or leave it out".into(),
            ));
        }
        RunAs::parse(text, &users()).map_err(refuse)
    };
    if s.stdio_buffer < 64 << 10 {
        return Err(
            "--stdio-buffer (STDIO_BUFFER): less than 64KiB is too little for the messages of many servers".into()
        );
    }
    Ok(StdioConfig {
        server: String::new(),
        is_legacy: false,
        command: s.command.clone(),
        env: Vec::new(),
        cwd: None,
        is_shared: s.stdio_shared,
        own_variables: FLAGS.iter().map(|flag| flag.env).collect(),
        spare: s.stdio_spare,
        is_checked: !s.no_upstream_check,
        max_children: s.stdio_max_children,
        idle_timeout: s.stdio_idle_timeout,
        max_sessions_per_user: s.stdio_max_sessions_per_user,
        session_lifetime: s.stdio_session_lifetime.as_secs(),
        user: match &s.stdio_user {
            Some(same) if same == "root" && geteuid().is_root() => None,
            Some(text) => Some(user(text)?),
            None if geteuid().is_root() => RunAs::parse(RunAs::USUAL, &users()).ok(),
            None => None,
        },
        memory: s.stdio_memory,
        nice: s.stdio_nice,
        buffer: usize::try_from(s.stdio_buffer).unwrap_or(usize::MAX / 4),
        open_files: getrlimit(Resource::Nofile).current,
    })
}

fn bearer(token: String) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        "--proxy-bearer-token (PROXY_BEARER_TOKEN) has a character that no header field can carry".to_string()
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn header((name, value): (String, String)) -> Result<(HeaderName, HeaderValue), String> {
    let refuse = |what: &str| format!("--proxy-headers (PROXY_HEADERS): {what}");
    let name: HeaderName = name.parse().map_err(|_| refuse(&format!("'{name}' is not a field name")))?;
    if crate::upstream::is_managed_field(&name) {
        return Err(refuse(&format!("{name} belongs to the connection and can't be set")));
    }
    let mut value = HeaderValue::from_str(&value).map_err(|_| refuse(&format!("the value of {name} can't be sent")))?;
    value.set_sensitive(true);
    Ok((name, value))
}
