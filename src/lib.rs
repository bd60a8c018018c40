//! mcp-auth-proxy puts an MCP server on the internet behind OAuth 2.1. This is the map of the house.
//!
//! ```text
//! client ──TLS──► http ──► app::routes ─┬─► interaction  a person at a browser: sign-in, provider, consent
//!                                       ├─► oauth        the authorization server: register, authorize, token, revoke
//!                                       └─► resource ──► upstream ─┬─► http    an HTTP or SSE MCP server, streamed through
//!                                           bearer → principal     └─► stdio   child processes, one for each MCP session
//! ```
//!
//! From the top of the house to the bottom; a file uses rooms below its own, and in the same row those to its left.
//! `cargo test layers` checks that.
//!
//! | room | what is in it |
//! |---|---|
//! | [`app`] | composition and commands: settings become typed values, routes, serve, demo, healthcheck |
//! | [`interaction`] | what happens in a browser: sign-in, provider callback, consent; each ends in a decision for `oauth` |
//! | [`oauth`] | the authorization server: a file for each endpoint and each grant type |
//! | [`resource`] | what is protected: bearer token → principal, how many requests and streams, when a stream has to end |
//! | [`tls`] | certificates: files that are watched, or obtained from an ACME authority; the plain port beside TLS |
//! | [`login`] | who somebody is: passwords, identity providers, browser sessions, the throttle against guessing |
//! | [`upstream`] | the MCP server behind: over HTTP, or child processes that speak over stdio |
//! | [`pages`] | HTML from values |
//! | [`core`], [`data_dir`] | issuer, keys, state, lifetimes and time, which nearly every handler needs; the directory on disk |
//! | [`store`], [`tokens`] | what survives a restart; what is signed or encrypted |
//! | [`http`], [`mcp`] | HTTP/1.1, server and client; JSON-RPC and the words of MCP |
//! | [`net`], [`flags`] | sockets, addresses, rate limits; every option once, as data |
//! | [`clock`], [`thread`], [`wake`], [`blocking`], [`observe`] | time, threads, waking one that waits, how one says that it is about to block, the log |
//! | [`lock`], [`bounded_map`], [`token_bucket`] | locks whose holder panicked, maps that strangers can fill, rates |
//! | [`url`], [`redirect_uri`], [`encoding`], [`identity`], [`rules`] | values: addresses, names of people and clients, who may sign in |
//! | [`privileges`] | what root's process gives up |
//!
//! Data goes one way: a connection becomes a request, a request gets a route, a route gets a principal, the
//! principal's request goes upstream, and the answer streams back along the same path. `http` knows no OAuth, `oauth`
//! knows no sockets and no pages, `tokens` and `store` know neither.

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
pub mod redirect_uri;
pub mod resource;
pub mod rules;
pub mod store;
pub mod thread;
pub mod tls;
mod token_bucket;
pub mod tokens;
pub mod upstream;
pub mod url;
pub mod wake;
