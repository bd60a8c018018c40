//! What the endpoints of the authorization server share.

use std::sync::Arc;

use super::clients::Clients;
use super::pending::PendingCodes;
use crate::core::Core;
use crate::login::Login;
use crate::net::rate_limit::NestedRateLimit;
use crate::resource::identity_fields::AssertionKey;
use crate::resource::open_streams::OpenStreams;
use crate::resource::protected::Published;
use crate::resource::seen::Seen;

/// The authorization server (RFC 6749 section 1.1).
pub struct AuthorizationServer {
    /// Issuer, keys, state and lifetimes.
    pub core: Arc<Core>,
    /// Authenticates users, and tells whether they may still sign in.
    pub login: Arc<Login>,
    /// Finds clients.
    pub clients: Clients,
    /// Records what is used.
    pub seen: Seen,
    /// The key of identity assertions, if they are on.
    pub assertions: Option<Arc<AssertionKey>>,
    /// Rate limit for registrations: per address, per network and in total.
    pub registrations: NestedRateLimit,
    /// Authorization codes that wait to be redeemed.
    pub pending: PendingCodes,
    /// Open event streams, which are cut when their grant ends.
    pub streams: OpenStreams,
    /// The MCP servers that tokens can be for.
    pub resources: Published,
}

impl AuthorizationServer {
    /// Creates the server with full rate limit buckets and no pending codes.
    pub fn new(
        core: Arc<Core>,
        login: Arc<Login>,
        clients: Clients,
        seen: Seen,
        assertions: Option<Arc<AssertionKey>>,
        streams: OpenStreams,
        resources: Published,
    ) -> AuthorizationServer {
        AuthorizationServer {
            core,
            login,
            clients,
            seen,
            assertions,
            // A hosted client registers for many users from few addresses, so the limit per address must not be small.
            registrations: NestedRateLimit::new((100, 1), (200, 2), (2_000, 20)),
            pending: PendingCodes::default(),
            streams,
            resources,
        }
    }
}
