//! The clients that `doctor` knows, and how each behaves: docs/doctor.md names where that was seen.

use serde_json::{Value, json};

/// Where a client runs when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At its vendor.
    Cloud,
    /// On its user's machine.
    Machine,
    /// In its user's browser, where CORS applies.
    Browser,
}

/// What sets one client apart.
#[derive(Debug)]
pub(super) struct KnownClient {
    /// Its name for `--client`.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) place: Place,
    /// How it names itself in `User-Agent`, where that is known.
    pub(super) agents: &'static [&'static str],
    /// The redirect URIs that it registers.
    pub(super) registers: &'static [&'static str],
    /// The one that it authorizes with.
    pub(super) redirect_uri: &'static str,
    /// The one with the port that it listens on where the usual one is taken, or where its document names none.
    pub(super) other_port: Option<&'static str>,
    /// How it wants to authenticate at the token endpoint.
    pub(super) auth_method: &'static str,
    /// What else stands in its registration.
    pub(super) extra: &'static [(&'static str, &'static str)],
    /// It has a client ID metadata document.
    pub(super) brings_document: bool,
    /// Where that is, if it is known.
    pub(super) document: Option<&'static str>,
    pub(super) habits: Habits,
}

/// What a client does, or refuses, that others don't.
#[derive(Debug)]
pub(super) struct Habits {
    /// It asks for the challenge by HEAD.
    pub(super) asks_by_head: bool,
    /// It gives up after 404 or 405 to a GET without a token.
    pub(super) needs_challenge_to_get: bool,
    /// It takes what GET answers with 200 for the resource metadata.
    pub(super) reads_get_as_metadata: bool,
    /// It reads `resource_metadata` in quotation marks only.
    pub(super) needs_quotes: bool,
    /// It does not try the well-known locations if there is no challenge.
    pub(super) needs_challenge: bool,
    /// It refuses a `resource` that is not its URL, letter by letter.
    pub(super) compares_resource_exactly: bool,
    /// It compares `issuer` with the URL that it asked.
    pub(super) compares_issuer: bool,
    /// It refuses metadata without `code_challenge_methods_supported`.
    pub(super) needs_pkce_in_metadata: bool,
    /// It gives up where a document of the well-known locations is a page, and does not try the next.
    pub(super) stops_at_pages: bool,
    /// It needs `refresh_token` in the answer to its registration.
    pub(super) needs_refresh_in_registration: bool,
}

const NONE: Habits = Habits {
    asks_by_head: false,
    needs_challenge_to_get: false,
    reads_get_as_metadata: false,
    needs_quotes: false,
    needs_challenge: false,
    compares_resource_exactly: false,
    compares_issuer: false,
    needs_pkce_in_metadata: false,
    stops_at_pages: false,
    needs_refresh_in_registration: false,
};

/// The habits of the TypeScript SDK, of versions 1 and 2 together.
const TYPESCRIPT: Habits =
    Habits { needs_quotes: true, compares_issuer: true, needs_pkce_in_metadata: true, stops_at_pages: true, ..NONE };

/// Those of the Rust SDK.
const RUST: Habits =
    Habits { reads_get_as_metadata: true, compares_resource_exactly: true, compares_issuer: true, ..NONE };

/// The known clients.
pub(super) static CLIENTS: &[KnownClient] = &[
    KnownClient {
        name: "claude",
        title: "Claude (web, desktop and mobile)",
        place: Place::Cloud,
        agents: &["python-httpx/0.28.1", "Claude-User"],
        registers: &["https://claude.ai/api/mcp/auth_callback"],
        redirect_uri: "https://claude.ai/api/mcp/auth_callback",
        other_port: None,
        auth_method: "client_secret_post",
        extra: &[],
        brings_document: true,
        document: Some("https://claude.ai/oauth/mcp-oauth-client-metadata"),
        habits: Habits {
            needs_challenge_to_get: true,
            needs_challenge: true,
            compares_issuer: true,
            needs_pkce_in_metadata: true,
            stops_at_pages: true,
            ..NONE
        },
    },
    KnownClient {
        name: "claude-code",
        title: "Claude Code",
        place: Place::Machine,
        agents: &["claude-code/2.1.251 (cli)"],
        registers: &["http://localhost:3118/callback"],
        redirect_uri: "http://localhost:3118/callback",
        other_port: Some("http://localhost:51823/callback"),
        auth_method: "none",
        extra: &[],
        brings_document: true,
        document: Some("https://claude.ai/oauth/claude-code-client-metadata"),
        habits: TYPESCRIPT,
    },
    KnownClient {
        name: "chatgpt",
        title: "ChatGPT",
        place: Place::Cloud,
        agents: &["openai-mcp/1.0.0 (ChatGPT)", "Python/3.12 aiohttp/3.13.3"],
        registers: &["https://chatgpt.com/connector_platform_oauth_redirect"],
        redirect_uri: "https://chatgpt.com/connector_platform_oauth_redirect",
        other_port: None,
        auth_method: "none",
        extra: &[],
        brings_document: true,
        document: None,
        habits: Habits { needs_challenge: true, needs_refresh_in_registration: true, ..NONE },
    },
    KnownClient {
        name: "cursor",
        title: "Cursor",
        place: Place::Machine,
        agents: &[],
        registers: &[
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "https://www.cursor.com/agents/mcp/oauth/callback",
            "http://localhost:8787/callback",
        ],
        redirect_uri: "cursor://anysphere.cursor-mcp/oauth/callback",
        other_port: None,
        auth_method: "none",
        extra: &[],
        brings_document: false,
        document: None,
        habits: TYPESCRIPT,
    },
    KnownClient {
        name: "vscode",
        title: "VS Code",
        place: Place::Machine,
        agents: &["Visual Studio Code/1.107.0"],
        registers: &[
            "https://insiders.vscode.dev/redirect",
            "https://vscode.dev/redirect",
            "http://127.0.0.1/",
            "http://127.0.0.1:33418/",
        ],
        redirect_uri: "http://127.0.0.1:33418/",
        other_port: Some("http://127.0.0.1:33419/"),
        auth_method: "none",
        extra: &[("application_type", "native")],
        brings_document: false,
        document: None,
        habits: Habits { compares_resource_exactly: true, ..NONE },
    },
    KnownClient {
        name: "gemini-cli",
        title: "Gemini CLI",
        place: Place::Machine,
        agents: &["node"],
        registers: &["http://localhost:7777/oauth/callback"],
        redirect_uri: "http://localhost:7777/oauth/callback",
        other_port: None,
        auth_method: "none",
        extra: &[("scope", "")],
        brings_document: false,
        document: None,
        habits: Habits { asks_by_head: true, needs_quotes: true, compares_resource_exactly: true, ..NONE },
    },
    KnownClient {
        name: "codex",
        title: "Codex",
        place: Place::Machine,
        agents: &[],
        registers: &["http://127.0.0.1:51825/callback/3q2-7wAAAAAA"],
        redirect_uri: "http://127.0.0.1:51825/callback/3q2-7wAAAAAA",
        other_port: None,
        auth_method: "none",
        extra: &[],
        brings_document: false,
        document: None,
        habits: RUST,
    },
    KnownClient {
        name: "goose",
        title: "Goose",
        place: Place::Machine,
        agents: &[],
        registers: &["http://localhost:51826/oauth_callback"],
        redirect_uri: "http://localhost:51826/oauth_callback",
        other_port: None,
        auth_method: "none",
        extra: &[],
        brings_document: true,
        document: Some("https://goose-docs.ai/oauth/client-metadata.json"),
        habits: RUST,
    },
    KnownClient {
        name: "inspector",
        title: "MCP Inspector (in the browser)",
        place: Place::Browser,
        agents: &[],
        registers: &["http://localhost:6274/oauth/callback"],
        redirect_uri: "http://localhost:6274/oauth/callback",
        other_port: None,
        auth_method: "none",
        extra: &[],
        brings_document: false,
        document: None,
        habits: TYPESCRIPT,
    },
    KnownClient {
        name: "mcp-remote",
        title: "mcp-remote",
        place: Place::Machine,
        agents: &["node"],
        registers: &["http://localhost:3334/oauth/callback"],
        redirect_uri: "http://localhost:3334/oauth/callback",
        other_port: None,
        auth_method: "none",
        extra: &[("software_id", "2e6dc280-f3c3-4e01-99a7-8181dbd1d23d"), ("scope", "openid email profile")],
        brings_document: false,
        document: None,
        habits: TYPESCRIPT,
    },
    KnownClient {
        name: "librechat",
        title: "LibreChat",
        place: Place::Machine,
        agents: &["node"],
        registers: &["https://chat.example.com/api/mcp/tools/oauth/callback"],
        redirect_uri: "https://chat.example.com/api/mcp/tools/oauth/callback",
        other_port: None,
        auth_method: "client_secret_basic",
        extra: &[],
        brings_document: false,
        document: None,
        habits: Habits { asks_by_head: true, ..TYPESCRIPT },
    },
    KnownClient {
        name: "typescript-sdk",
        title: "TypeScript SDK",
        place: Place::Machine,
        agents: &["node"],
        registers: &["http://localhost:8090/callback"],
        redirect_uri: "http://localhost:8090/callback",
        other_port: None,
        auth_method: "client_secret_post",
        extra: &[],
        brings_document: false,
        document: None,
        habits: TYPESCRIPT,
    },
    KnownClient {
        name: "python-sdk",
        title: "Python SDK",
        place: Place::Machine,
        agents: &["python-httpx/0.28.1"],
        registers: &["http://localhost:3030/callback"],
        redirect_uri: "http://localhost:3030/callback",
        other_port: None,
        auth_method: "client_secret_post",
        extra: &[],
        brings_document: false,
        document: None,
        habits: Habits { compares_issuer: true, ..NONE },
    },
];

impl PartialEq for KnownClient {
    fn eq(&self, other: &KnownClient) -> bool {
        self.name == other.name
    }
}

impl KnownClient {
    /// What it sends to the registration endpoint.
    pub(super) fn registration(&self) -> Value {
        let mut body = json!({
            "client_name": format!("{}, looked at by doctor", self.title),
            "redirect_uris": self.registers,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": self.auth_method,
        });
        for (name, value) in self.extra {
            body[name] = Value::from(*value);
        }
        body
    }
}
