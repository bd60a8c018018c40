//! mcp-auth-proxy puts an MCP server on the internet behind OAuth 2.1. This page is the map of the source.
//!
//! ```text
//! client ──TLS──► http ──► app::routes ─┬─► interaction  a person at a browser: sign-in, provider, consent
//!                                       ├─► oauth        the authorization server: register, authorize, token, revoke
//!                                       └─► resource ──► upstream ─┬─► http    an HTTP or SSE MCP server, streamed through
//!                                           bearer → principal     └─► stdio   child processes, one for each MCP session
//! ```
//!
//! The table lists the modules from the top layer to the bottom. A file uses only its own module, modules in lower
//! layers, and modules further left in its own layer. `cargo test layers` checks this rule;
//! `tests/integration/layers.rs` defines the layers.
//!
//! | module | what it contains |
//! |---|---|
//! | [`app`] | composition and commands: settings become typed values, routes, serve, demo, healthcheck, the owner's control socket |
//! | [`interaction`] | what happens in a browser: sign-in, provider callback, consent; each ends in a decision for `oauth` |
//! | [`oauth`] | the authorization server: a file for each endpoint and each grant type |
//! | [`resource`] | the protected resource: bearer token → principal, request and stream limits, cutting streams |
//! | [`tls`] | certificates: files that are watched, or obtained by ACME; the HTTP port that redirects to HTTPS |
//! | [`login`] | user authentication: passwords, identity providers, browser sessions, the throttle against guessing |
//! | [`upstream`] | the connection to the MCP server: over HTTP, or child processes that speak over stdio |
//! | [`pages`] | HTML pages, built from plain values |
//! | [`core`], [`data_dir`] | issuer, keys, state, lifetimes and time, which nearly every handler needs; the directory on disk |
//! | [`store`], [`tokens`] | what survives a restart; what is signed or encrypted |
//! | [`http`], [`mcp`] | HTTP/1.1, server and client; JSON-RPC and MCP messages |
//! | [`net`], [`flags`], [`servers_file`] | sockets, addresses, rate limits; the definitions of all options; the file with the servers to publish |
//! | [`clock`], [`thread`], [`wake`], [`blocking`], [`observe`] | time, threads, waking a waiting thread, announcing a blocking call, the log |
//! | [`lock`], [`bounded_map`], [`token_bucket`] | locks that survive a panic, maps with a maximum size, rate limits |
//! | [`url`], [`redirect_uri`], [`redirect_pattern`], [`resource_url`], [`encoding`], [`identity`], [`rules`] | value types: URLs, ids of users and clients, allow rules, redirect URIs |
//! | [`privileges`] | dropping root privileges that are not needed |
//!
//! Where behaviour is decided, by the question that one would ask:
//!
//! | question | file |
//! |---|---|
//! | Which path goes to which handler? | `app::routes` |
//! | What does an option do, what is its default? | its entry in `flags::list`; the default in `flags::settings`; what follows from it in `app::config` |
//! | When is a request answered with 401, and with which header fields? | `resource::bearer`, `resource::challenge` |
//! | Which MCP server does a path or a URL name, and for which is a token? | `resource::protected` |
//! | What does a key of the servers file do, and what is an error there? | `servers_file::keys`, `servers_file::read`; what follows from it in `app::config::servers` |
//! | What changes on SIGHUP? | `app::reload`, `app::publish` |
//! | Who may use one server? | `rules::server` |
//! | What happens when a refresh token is used twice? | `oauth::rotation` |
//! | Which clients are known, and which may register? | `oauth::clients`; documents: `oauth::client_metadata`; patterns: `redirect_pattern` |
//! | How does a client prove who it is? | `oauth::client_auth` |
//! | Which redirect URIs may a client have? | `redirect_uri` |
//! | Which addresses are fetched that a stranger chooses? | `http::client::guarded`, `net::address` |
//! | What may a trusted issuer say? | `login::issuers`, `oauth::jwt_bearer` |
//! | Which scripts may use a server with an API key? | `login::api_keys` |
//! | What does the MCP server learn about the user? | `resource::identity_fields` |
//! | What does a command to the running proxy do? | `app::control::actions`; ending access: `oauth::owner` |
//! | What is written about a request, and counted? | `app::request_record`; the line: `app::access_log`; the numbers: `observe::metrics` |
//! | Which security events are there, and what do they say? | `observe::events`; to the audit log: `app::audit_log`; as numbers: `observe::metrics` |
//! | When is a request answered with 429? | `resource::rate_limits`; what it calls: `resource::call` |
//! | When is the proxy ready? | `app::health` |
//! | What is in a back-up? | `app::backup::format`; how it is put back: `app::backup::restore` |
//! | How are keys replaced? | `app::control::rotation` |
//! | What does the doctor look for, and for which client? | `app::doctor::findings`, `app::doctor::clients` |
//! | What does a page say? | `pages::words` |
//! | Which keys sign what, and for how long? | `tokens::keys`, `tokens::artefacts` |
//! | Who is slowed down after wrong passwords? | `login::throttle` |
//! | Who may sign in? | `rules::provider` |
//! | What ends a user's streams after the provider says no? | `resource::stream_recheck`, `login::providers::user_records` |
//! | Which header fields are taken away on the way to the MCP server and back? | `upstream::headers` |
//! | What happens when the client of an event stream goes away? | `upstream::stdio::event_stream`, `net::cancellation` |
//! | When does a child process start, stop, and start again? | `upstream::stdio::manager`, `upstream::stdio::backoff` |
//! | What does a child process inherit? | `upstream::stdio::process::environment`, `upstream::stdio::process::launcher` |
//! | Which message lengths and chunks are accepted? | `http::h1::framing`, `http::h1::head` |
//! | Which connection is closed when there are too many? | `http::server::connection_table` |
//! | What happens on SIGTERM? | `app::serve`, `http::server::lifecycle` |
//! | When is a certificate renewed, and how is it put to use? | `tls::acme::renewal`, `tls::certificates` |
//!
//! Data flows one way: a connection delivers a request, the router selects the handler, the bearer token gives the
//! principal, the request goes upstream, and the answer streams back along the same path. `http` does not depend on
//! OAuth, `oauth` does not depend on sockets or pages, and `tokens` and `store` depend on none of these.

pub mod app;
pub mod blocking;
mod bounded_map;
pub mod clock;
pub mod core;
pub mod data_dir;
pub mod encoding;
pub mod flags;
pub mod http;
pub mod identity;
pub mod interaction;
mod lock;
pub mod login;
pub mod mcp;
pub mod net;
pub mod oauth;
pub mod observe;
pub mod pages;
pub mod privileges;
pub mod redirect_pattern;
pub mod redirect_uri;
pub mod resource;
pub mod resource_url;
pub mod rules;
pub mod servers_file;
pub mod store;
pub mod thread;
pub mod tls;
mod token_bucket;
pub mod tokens;
pub mod upstream;
pub mod url;
pub mod wake;
