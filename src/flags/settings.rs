//! What was typed, field by field, with the defaults.

use std::ffi::OsString;
use std::time::Duration;

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The command line and environment as typed; nothing here has been checked against anything else.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each field is the flag of the same name, documented in the list")]
pub struct Settings {
    pub upstream: Option<String>,
    pub command: Vec<OsString>,
    pub listen: String,
    pub external_url: String,
    pub data_path: String,
    pub password: Option<String>,
    pub password_hash: Option<String>,
    pub password_queue: usize,
    pub proxy_bearer_token: Option<String>,
    pub proxy_headers: Vec<(String, String)>,
    pub http_streaming_only: bool,
    pub ca_file: Option<String>,
    pub upstream_insecure_skip_verify: bool,
    pub upstream_connect_timeout: Duration,
    pub upstream_response_timeout: Duration,
    pub stdio_shared: bool,
    pub stdio_spare: usize,
    pub stdio_max_children: usize,
    pub stdio_idle_timeout: Duration,
    pub stdio_max_sessions_per_user: usize,
    pub stdio_session_lifetime: Duration,
    pub stdio_user: Option<String>,
    pub stdio_memory: Option<u64>,
    pub stdio_nice: Option<i32>,
    pub stdio_buffer: u64,
    pub trusted_proxies: Vec<String>,
    pub allowed_origins: Vec<String>,
    pub allowed_hosts: Vec<String>,
    pub access_token_lifetime: Duration,
    pub refresh_token_idle_lifetime: Duration,
    pub refresh_token_lifetime: Duration,
    pub session_lifetime: Duration,
    pub consent_lifetime: Duration,
    pub drain_timeout: Duration,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub max_requests: usize,
    pub max_requests_per_user: usize,
    pub max_streams: usize,
    pub max_head_size: u64,
    pub max_head_fields: usize,
    pub head_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_body_size: u64,
    pub body_timeout: Duration,
    pub debug: bool,
    pub log_level: Option<log::LevelFilter>,
    pub log_format: Option<LogFormat>,
    pub auth_hmac_secret: Option<String>,
    pub auth_hmac_previous_secrets: Vec<String>,
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            upstream: None,
            command: Vec::new(),
            listen: ":80".into(),
            external_url: "http://localhost".into(),
            data_path: "./data".into(),
            password: None,
            password_hash: None,
            password_queue: 32,
            proxy_bearer_token: None,
            proxy_headers: Vec::new(),
            http_streaming_only: false,
            ca_file: None,
            upstream_insecure_skip_verify: false,
            upstream_connect_timeout: Duration::from_secs(10),
            upstream_response_timeout: Duration::from_secs(10 * 60),
            stdio_shared: false,
            stdio_spare: 1,
            stdio_max_children: 16,
            stdio_idle_timeout: Duration::from_secs(5 * 60),
            stdio_max_sessions_per_user: 32,
            stdio_session_lifetime: Duration::from_secs(DAY),
            stdio_user: None,
            stdio_memory: None,
            stdio_nice: None,
            stdio_buffer: 32 << 20,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            access_token_lifetime: Duration::from_secs(HOUR),
            refresh_token_idle_lifetime: Duration::from_secs(30 * DAY),
            refresh_token_lifetime: Duration::from_secs(180 * DAY),
            session_lifetime: Duration::from_secs(12 * HOUR),
            consent_lifetime: Duration::from_secs(30 * DAY),
            drain_timeout: Duration::from_secs(30),
            max_connections: 10_000,
            max_connections_per_address: 256,
            max_requests: 256,
            max_requests_per_user: 64,
            max_streams: 4_096,
            max_head_size: 16 << 10,
            max_head_fields: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_body_size: 16 << 20,
            body_timeout: Duration::from_secs(30),
            debug: false,
            log_level: None,
            log_format: None,
            auth_hmac_secret: None,
            auth_hmac_previous_secrets: Vec::new(),
        }
    }
}
