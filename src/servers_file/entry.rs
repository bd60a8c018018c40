//! What the servers file says, as values.

use std::path::PathBuf;
use std::time::Duration;

use crate::rules::ServerRulesText;

/// A server of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the file.
    pub name: String,
    /// The segment of its URL before `/mcp`.
    pub path: String,
    /// Its line, for messages.
    pub line: usize,
    /// How it is reached.
    pub transport: Transport,
    /// What stands under `proxy`.
    pub proxy: Proxied,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A command that speaks over stdio.
    Stdio {
        /// Program and arguments.
        command: Vec<String>,
        /// Variables for it; `None` removes one.
        env: Vec<(String, Option<String>)>,
        /// The directory that it is started in.
        cwd: Option<PathBuf>,
    },
    /// A URL.
    Http {
        /// Of its MCP endpoint.
        url: String,
        /// Header fields to send.
        headers: Vec<(String, String)>,
    },
}

/// What stands under `proxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented in the table of keys")]
pub struct Proxied {
    pub title: Option<String>,
    pub description: Option<String>,
    pub allow: Option<ServerRulesText>,
    pub is_legacy: bool,
    pub stdio: StdioKeys,
    pub bearer_token: Option<String>,
    pub connect_timeout: Option<Duration>,
    pub response_timeout: Option<Duration>,
    pub max_requests: Option<usize>,
}

/// What stands under `proxy.stdio`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the key of the same name, documented in the table of keys")]
pub struct StdioKeys {
    pub is_shared: Option<bool>,
    pub user: Option<String>,
    pub max_children: Option<usize>,
    pub spare: Option<usize>,
    pub idle_timeout: Option<Duration>,
    pub memory: Option<u64>,
}

/// Something that the operator should know, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Warning, information or debug.
    pub level: log::Level,
    /// The sentence, with file, line, server and key.
    pub text: String,
}

/// What a file says.
#[derive(Debug, Default)]
pub struct FileContent {
    /// The servers that are not disabled, in the order of the file.
    pub entries: Vec<Entry>,
    /// What the operator should know.
    pub notes: Vec<Note>,
}
