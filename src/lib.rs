//! mcp-auth-proxy puts an MCP server on the internet behind OAuth 2.1. This is the map of the house.
//!
//! ```text
//! client ──TLS──► http ──► routes ─┬─► oauth      the authorization server: metadata, register, authorize, token, revoke
//!                                  ├─► login      who is this person: password, Google, GitHub, OIDC; allow rules; pages
//!                                  └─► guard ──► upstream ─┬─► http    an HTTP or SSE MCP server, streamed through
//!                                      bearer → principal  └─► stdio   child processes, one for each MCP session
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`flags`], [`config`] | every option once, as data; what the options mean, checked |
//! | [`serve`], [`demo`] | composition: build everything, listen, stop when told |
//! | [`privileges`], [`healthcheck`] | what root's process gives up; asking a running proxy whether it is well |
//! | [`routes`] | the public surface as one table; Host, Origin and CORS |
//! | [`tls`] | certificates: files that are watched, or obtained from an ACME authority; the plain port beside TLS |
//! | [`http`] | HTTP/1.1: connections that wait in a lobby, workers, heads, bodies, answers |
//! | [`oauth`] | one file per endpoint of the authorization server |
//! | [`login`] | one file per concern of signing a person in |
//! | [`guard`], [`admission`], [`streams`] | who may reach the MCP server, how many at once, and for how long |
//! | [`upstream`], [`mcp`] | the MCP server behind, and the vocabulary it speaks |
//! | [`tokens`], [`store`], [`data`] | what is signed, what survives a restart, and the directory that it is in |
//! | [`net`], [`clock`], [`observe`] | the network around, the time, the log |
//! | [`url`], [`redirect_uri`], [`identity`], [`rules`] | values that every room knows: addresses, names of people and clients, who may enter |
//! | [`thread`], [`encoding`] | threads with a name; bytes in text |
//! | [`blocking`] | how a thread that is about to wait tells those who depend on it |
//!
//! Data goes one way: a connection becomes a request, a request gets a route, a route gets a principal, the
//! principal's request goes upstream, and the answer streams back along the same path. `http` knows no OAuth, `oauth`
//! knows no sockets, `tokens` and `store` know neither.

pub mod admission;
pub mod blocking;
pub mod clock;
pub mod config;
pub mod context;
pub mod data;
pub mod demo;
pub mod encoding;
pub mod flags;
pub mod guard;
pub mod hash_password;
pub mod healthcheck;
pub mod http;
pub mod identity;
pub mod login;
pub mod mcp;
pub mod net;
pub mod oauth;
pub mod observe;
pub mod privileges;
pub mod redirect_uri;
pub mod routes;
pub mod rules;
pub mod serve;
pub mod store;
pub mod streams;
pub mod thread;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod url;
