//! The keys of the servers file: one table, from which come the checks, the JSON Schema and the reference.

/// An object of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// A server.
    Server,
    /// What concerns this proxy.
    Proxy,
    /// Who may use the server.
    Allow,
    /// How a stdio server is run.
    Stdio,
    /// Time limits of a server at a URL.
    Timeouts,
}

impl Object {
    pub(super) const ALL: [Object; 5] = [Object::Server, Object::Proxy, Object::Allow, Object::Stdio, Object::Timeouts];

    /// Its path within a server's object.
    pub(super) fn path(self) -> &'static str {
        match self {
            Object::Server => "",
            Object::Proxy => "proxy",
            Object::Allow => "proxy.allow",
            Object::Stdio => "proxy.stdio",
            Object::Timeouts => "proxy.timeouts",
        }
    }
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Switch,
    Texts,
    /// An object of texts.
    Map,
    /// A whole number above zero.
    Count,
    /// Like [`Kind::Count`], but 0 is allowed.
    CountOrNone,
    /// `30s`, `5m`, `1h`.
    Duration,
    /// `512MiB`.
    Size,
    Choice(&'static [&'static str]),
    Object(Object),
}

/// A key that has an effect.
pub(super) struct Key {
    pub(super) object: Object,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// One or two sentences.
    pub(super) help: &'static str,
}

const fn key(object: Object, name: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { object, name, kind, help }
}

/// The types of a server, in all spellings.
pub(super) const TYPES: &[&str] =
    &["stdio", "local", "http", "streamable-http", "streamableHttp", "streamable_http", "remote", "sse"];

/// The keys, in the order of the reference.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key(Object::Server, "command", Kind::Text, "The program of a server that speaks over stdio."),
    key(Object::Server, "args", Kind::Texts, "Its arguments. Everybody on the machine can read them with `ps`, so a secret belongs into `env`."),
    key(Object::Server, "env", Kind::Map, "Environment variables for it, besides those of the proxy. `null` removes one."),
    key(Object::Server, "envFile", Kind::Text, "A file with further variables, `NAME=value` in each line; `env` wins. A relative path starts at the servers file. Nobody but root and the user of the proxy may be able to write the file."),
    key(Object::Server, "cwd", Kind::Text, "The directory that it is started in. A relative path starts at the servers file."),
    key(Object::Server, "url", Kind::Text, "The URL of the MCP endpoint of a server that speaks HTTP: Streamable HTTP, or HTTP+SSE. `serverUrl` and `httpUrl` are the same."),
    key(Object::Server, "headers", Kind::Map, "Header fields to send to it. `Authorization` may be one of them."),
    key(Object::Server, "type", Kind::Choice(TYPES), "How the server is reached. It follows from `command` or `url`, and is only checked."),
    key(Object::Server, "disabled", Kind::Switch, "`true` leaves the server out."),
    key(Object::Server, "enabled", Kind::Switch, "`false` leaves the server out."),
    key(Object::Server, "proxy", Kind::Object(Object::Proxy), "What concerns this proxy only."),
    key(Object::Proxy, "path", Kind::Text, "The segment of the URL before `/mcp`; else the server's name. Lower-case letters, digits, `.`, `_` and `-`, at most 64."),
    key(Object::Proxy, "title", Kind::Text, "What people read on pages; else the server's name."),
    key(Object::Proxy, "description", Kind::Text, "A sentence about the server, for pages."),
    key(Object::Proxy, "allow", Kind::Object(Object::Allow), "Who may use the server, of those who may sign in. Without it, all of them."),
    key(Object::Proxy, "legacy", Kind::Switch, "The server takes over from the one that was published without a servers file: it also answers at `/mcp`, and tokens of that time work there. For one server at most."),
    key(Object::Proxy, "stdio", Kind::Object(Object::Stdio), "How a server that speaks over stdio is run."),
    key(Object::Proxy, "bearerToken", Kind::Text, "A token to send to the server in `Authorization: Bearer`."),
    key(Object::Proxy, "timeouts", Kind::Object(Object::Timeouts), "Time limits for a server at a URL."),
    key(Object::Proxy, "maxRequests", Kind::Count, "Most requests of this server in flight, within `--max-requests`."),
    key(Object::Allow, "users", Kind::Texts, "Names of users as in the allow rules of the flags: an e-mail address, a GitHub login, a name of the htpasswd file, or `password` for whoever has the password. Where several ways to sign in are configured, a name begins with one of them, as in `github:alice`; an e-mail address then means the verified one. `client:NAME` is a client that acts for itself, `key:NAME` an API key, `ISSUER:ID` somebody whom a trusted issuer names."),
    key(Object::Allow, "patterns", Kind::Texts, "Patterns for names, such as `*@example.com`."),
    key(Object::Allow, "groups", Kind::Texts, "Groups: of the OpenID Connect provider, GitHub organisations and teams (`org`, `org:team`), groups of the htgroup file."),
    key(Object::Allow, "providers", Kind::Texts, "Everybody who signed in in one of these ways: `password`, `htpasswd`, `google`, `github`, `oidc`; or everybody whom a trusted issuer of this name admits, all clients that act for themselves (`client`), all API keys (`key`)."),
    key(Object::Stdio, "mode", Kind::Choice(&["session", "shared"]), "`session`: a process for each MCP session. `shared`: one for all. Default: `--stdio-shared`."),
    key(Object::Stdio, "user", Kind::Text, "The system user that it runs as, `name` or `uid:gid`. Default: `--stdio-user`."),
    key(Object::Stdio, "maxChildren", Kind::Count, "Most processes at one time. Default: an equal share of `--stdio-max-children`."),
    key(Object::Stdio, "spare", Kind::CountOrNone, "Processes that are kept ready. Default: `--stdio-spare`."),
    key(Object::Stdio, "idleTimeout", Kind::Duration, "How long a process may be idle before it is ended. Default: `--stdio-idle-timeout`."),
    key(Object::Stdio, "memory", Kind::Size, "Bytes of data that each process may have. Default: `--stdio-memory`."),
    key(Object::Timeouts, "connect", Kind::Duration, "For opening a connection. Default: `--upstream-connect-timeout`."),
    key(Object::Timeouts, "response", Kind::Duration, "For the beginning of an answer. Default: `--upstream-response-timeout`."),
];

/// Other names of keys.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("serverUrl", "url"),
    ("httpUrl", "url"),
    ("environment", "env"),
    ("transport", "type"),
    ("transportType", "type"),
];

/// What to do with a key of a client that has no effect here.
pub(super) enum Passed {
    /// It concerns the client only.
    Quietly,
    /// Somebody could expect an effect: the sentence says what to do.
    Warn(&'static str),
    /// The server would not work without it.
    Refuse(&'static str),
}

const FILTER: Passed =
    Passed::Warn("it hides tools from the client that has this file; here, clients see all tools of the server");
const SANDBOX: Passed = Passed::Warn(
    "the sandbox of an editor does not exist here; give the server a user of its own with proxy.stdio.user, and a limit with proxy.stdio.memory",
);
const SIGN_IN: Passed = Passed::Warn(
    "nobody can sign in to this server from here; give the proxy a token for it with proxy.bearerToken or headers",
);
const TIMEOUT: Passed =
    Passed::Warn("clients mean seconds or milliseconds with it; write proxy.timeouts.response, such as \"5m\"");

/// Keys that some client has and that have no effect here.
#[rustfmt::skip]
pub(super) const PASSED: &[(&str, Passed)] = &[
    ("autoApprove", Passed::Quietly), ("alwaysAllow", Passed::Quietly), ("trust", Passed::Quietly),
    ("default_tools_approval_mode", Passed::Quietly), ("alwaysLoad", Passed::Quietly), ("deferTools", Passed::Quietly),
    ("description", Passed::Quietly), ("name", Passed::Quietly), ("icon", Passed::Quietly), ("serverName", Passed::Quietly),
    ("faviconUrl", Passed::Quietly), ("sourceFile", Passed::Quietly), ("extensionName", Passed::Quietly),
    ("gallery", Passed::Quietly), ("version", Passed::Quietly), ("source", Passed::Quietly), ("settings", Passed::Quietly),
    ("remote", Passed::Quietly), ("dev", Passed::Quietly), ("watchPaths", Passed::Quietly), ("$comment", Passed::Quietly),
    ("_comment", Passed::Quietly), ("//", Passed::Quietly), ("connectionTimeout", TIMEOUT), ("timeout", TIMEOUT),
    ("startup_timeout_sec", TIMEOUT), ("tool_timeout_sec", TIMEOUT), ("initializationTimeout", TIMEOUT),
    ("disabledTools", FILTER), ("includeTools", FILTER), ("excludeTools", FILTER), ("enabled_tools", FILTER),
    ("disabled_tools", FILTER), ("tools", FILTER), ("sandbox", SANDBOX), ("sandboxEnabled", SANDBOX),
    ("oauth", SIGN_IN), ("oauthScopes", SIGN_IN), ("auth", SIGN_IN), ("authProviderType", SIGN_IN),
    ("targetAudience", SIGN_IN), ("targetServiceAccount", SIGN_IN),
    ("headersHelper", Passed::Refuse("a program that makes header fields is not run here; write them into headers")),
    ("requestOptions", Passed::Refuse("write headers and proxy.timeouts instead")),
    ("tcp", Passed::Refuse("WebSockets are not a transport of MCP; a server at a URL speaks HTTP")),
];

/// The keys of `object`.
pub(super) fn of(object: Object) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.object == object)
}

/// The key of this name, also by another name.
pub(super) fn find(object: Object, name: &str) -> Option<&'static Key> {
    let alias = ALIASES.iter().find(|(alias, _)| object == Object::Server && *alias == name).map(|(_, name)| *name);
    of(object).find(|key| key.name == alias.unwrap_or(name))
}
