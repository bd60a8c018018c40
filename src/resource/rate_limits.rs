//! Limits on the requests to MCP servers in a time: of an address, a user and a client, and on calls of a tool by a user.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::RETRY_AFTER;

use super::call::Tool;
use crate::bounded_map::BoundedMap;
use crate::http::Response;
use crate::identity::Principal;
use crate::lock::Unpoisoned;
use crate::mcp::jsonrpc;
use crate::net::address::address_group;
use crate::token_bucket::{Rate, TokenBucket};

/// Addresses, users and clients that are remembered at one time, each.
const MAX_KEYS: usize = 10_000;
/// Users, each at each server, whose tools are remembered, and tools of each.
const MAX_TOOL_USERS: usize = 4_000;
const MAX_TOOLS: usize = 64;

/// A number of requests in a minute, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMinute {
    /// Requests in a minute.
    pub rate: u32,
    /// Requests at once.
    pub burst: u32,
}

/// The limits that the operator has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimitConfig {
    /// Of an address (IPv6: a /64).
    pub address: Option<PerMinute>,
    /// Of a user.
    pub user: Option<PerMinute>,
    /// Of a client, all its users together.
    pub client: Option<PerMinute>,
    /// Of a user, for each tool of each server.
    pub tool: Option<PerMinute>,
    /// The same, for tools of these names.
    pub tools: BTreeMap<String, PerMinute>,
}

impl RateLimitConfig {
    /// Is there a limit on tools?
    pub fn has_tools(&self) -> bool {
        self.tool.is_some() || !self.tools.is_empty()
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// Which limit: `address`, `user`, `client` or `tool`.
    pub limit: &'static str,
    /// The limit.
    pub of: PerMinute,
    /// How long until the next is let through.
    pub wait: Duration,
}

impl TooMany {
    /// Whole seconds until the next request is let through, at least one.
    pub fn seconds(&self) -> u64 {
        (self.wait.as_secs_f64().ceil() as u64).max(1)
    }

    /// 429 with `Retry-After` (RFC 6585 section 4), as a JSON-RPC error if the request was one: a model reads it.
    pub fn response(&self, body: Option<&[u8]>, tool: &Tool) -> Response {
        let what = match (self.limit, tool) {
            ("tool", Tool::Named(name)) => format!("too many calls of the tool '{name}'"),
            ("tool", _) => "too many calls of tools in batches or large messages".into(),
            (limit, _) => format!("too many requests of this {limit}"),
        };
        let text = format!("{what}: at most {} in a minute. Try again in {} seconds.", self.of.rate, self.seconds());
        jsonrpc::error(StatusCode::TOO_MANY_REQUESTS, body, jsonrpc::SERVER_ERROR, &text)
            .with(RETRY_AFTER, self.seconds())
    }
}

/// Counts requests, and refuses those that are too many.
pub struct RateLimits {
    config: RwLock<Arc<RateLimitConfig>>,
    addresses: Buckets<IpAddr>,
    users: Buckets<String>,
    clients: Buckets<String>,
    tools: Mutex<BoundedMap<(String, String), ToolBuckets>>,
}

struct Buckets<K>(Mutex<BoundedMap<K, (TokenBucket, Instant)>>);

impl<K: Eq + std::hash::Hash> Default for Buckets<K> {
    fn default() -> Self {
        Buckets(Mutex::new(BoundedMap::new(MAX_KEYS)))
    }
}

impl<K: Eq + std::hash::Hash> Buckets<K> {
    fn take(&self, key: K, of: PerMinute, limit: &'static str, now: Instant) -> Result<(), TooMany> {
        let rate = of.per_second();
        // Whoever asks has a full bucket after this time, so that none is needed.
        let fills = Duration::from_secs_f64(rate.burst / rate.per_second);
        let mut buckets = self.0.lock().unpoisoned();
        let is_full = |(_, used): &(TokenBucket, Instant)| now.saturating_duration_since(*used) >= fills;
        let (bucket, used) = buckets.get_or_insert(key, (TokenBucket::full(rate, now), now), &[&is_full]);
        *used = now;
        take(bucket, 1, of, limit, now)
    }
}

fn take(
    bucket: &mut TokenBucket,
    count: usize,
    of: PerMinute,
    limit: &'static str,
    now: Instant,
) -> Result<(), TooMany> {
    let (rate, count) = (of.per_second(), count as f64);
    match bucket.take_many(count, rate, now) {
        true => Ok(()),
        false => Err(TooMany { limit, of, wait: bucket.wait(count.min(rate.burst), rate) }),
    }
}

/// The tools of one user at one server. A user who makes up names has one bucket for those that are too many, and
/// takes nothing from other users.
#[derive(Default)]
struct ToolBuckets(HashMap<Tool, TokenBucket>);

impl ToolBuckets {
    fn take(&mut self, tool: &Tool, count: usize, of: PerMinute, now: Instant) -> Result<(), TooMany> {
        if !self.0.contains_key(tool) && self.0.len() >= MAX_TOOLS {
            let rate = of.per_second();
            self.0.retain(|known, bucket| *known == Tool::Unknown || !bucket.is_full(rate, now));
        }
        let has_room = self.0.contains_key(tool) || self.0.len() < MAX_TOOLS;
        let tool = if has_room { tool.clone() } else { Tool::Unknown };
        let bucket = self.0.entry(tool).or_insert_with(|| TokenBucket::full(of.per_second(), now));
        take(bucket, count, of, "tool", now)
    }
}

impl PerMinute {
    fn per_second(self) -> Rate {
        Rate { burst: self.burst.into(), per_second: f64::from(self.rate) / 60.0 }
    }
}

impl RateLimits {
    /// These limits; nobody has asked yet.
    pub fn new(config: RateLimitConfig) -> RateLimits {
        RateLimits {
            config: RwLock::new(Arc::new(config)),
            addresses: Buckets::default(),
            users: Buckets::default(),
            clients: Buckets::default(),
            tools: Mutex::new(BoundedMap::new(MAX_TOOL_USERS)),
        }
    }

    /// Other limits from now on. What has been counted stays.
    pub fn replace(&self, config: RateLimitConfig) {
        *self.config.write().unpoisoned() = Arc::new(config);
    }

    /// The limits as they are now.
    pub fn config(&self) -> Arc<RateLimitConfig> {
        self.config.read().unpoisoned().clone()
    }

    /// A request comes from `address`.
    pub fn of_address(&self, address: IpAddr) -> Result<(), TooMany> {
        match self.config().address {
            Some(of) => self.addresses.take(address_group(address), of, "address", Instant::now()),
            None => Ok(()),
        }
    }

    /// A request of `principal` to `server` calls `tool`, so many times.
    pub fn of_principal(&self, principal: &Principal, server: &str, tool: &Tool, calls: usize) -> Result<(), TooMany> {
        let (config, now) = (self.config(), Instant::now());
        let user = principal.user.as_str();
        if let Some(of) = config.user {
            self.users.take(user.into(), of, "user", now)?;
        }
        if let Some(of) = config.client {
            self.clients.take(principal.client.to_string(), of, "client", now)?;
        }
        let of_tool = match tool {
            Tool::None => None,
            Tool::Named(name) => config.tools.get(name).copied().or(config.tool),
            // The strictest: it may be any.
            Tool::Unknown => config.tools.values().chain(&config.tool).min_by_key(|of| (of.rate, of.burst)).copied(),
        };
        match of_tool {
            Some(of) => {
                let mut tools = self.tools.lock().unpoisoned();
                let key = (user.to_string(), server.to_string());
                tools.get_or_insert(key, ToolBuckets::default(), &[]).take(tool, calls.max(1), of, now)
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ClientId, GrantId, UserId};

    fn principal(user: &str, client: &str) -> Principal {
        Principal {
            user: UserId(user.into()),
            email: None,
            client: ClientId(client.into()),
            grant: GrantId("g".into()),
            expires_at: 0,
            person: None,
        }
    }

    fn limits(change: impl FnOnce(&mut RateLimitConfig)) -> RateLimits {
        let mut config = RateLimitConfig::default();
        change(&mut config);
        RateLimits::new(config)
    }

    const TWO: Option<PerMinute> = Some(PerMinute { rate: 1, burst: 2 });

    fn let_through(n: usize, mut ask: impl FnMut() -> Result<(), TooMany>) -> usize {
        (0..n).filter(|_| ask().is_ok()).count()
    }

    #[test]
    fn each_limit_counts_its_own_key() {
        let tool = Tool::Named("mail".into());
        let ask = |limits: &RateLimits, user: &str, client: &str, server: &str, tool: &Tool| {
            let_through(5, || limits.of_principal(&principal(user, client), server, tool, 1))
        };
        let of_user = limits(|c| c.user = TWO);
        assert_eq!((ask(&of_user, "a", "x", "", &tool), ask(&of_user, "a", "y", "", &Tool::None)), (2, 0));
        assert_eq!(ask(&of_user, "b", "x", "", &tool), 2);
        let of_client = limits(|c| c.client = TWO);
        assert_eq!((ask(&of_client, "a", "x", "", &tool), ask(&of_client, "b", "x", "", &tool)), (2, 0));
        let of_tool = limits(|c| c.tool = TWO);
        assert_eq!((ask(&of_tool, "a", "x", "", &tool), ask(&of_tool, "a", "y", "", &tool)), (2, 0));
        assert_eq!(ask(&of_tool, "a", "x", "", &Tool::Named("read".into())), 2);
        assert_eq!((ask(&of_tool, "a", "x", "", &Tool::None), ask(&of_tool, "a", "x", "other", &tool)), (5, 2));
        assert_eq!(ask(&of_tool, "a", "x", "", &Tool::Unknown), 2, "what may be any tool is limited, too");
        let of_address = limits(|c| c.address = TWO);
        let ask = |at: &str| let_through(5, || of_address.of_address(at.parse().unwrap()));
        assert_eq!((ask("2001:db8::1"), ask("2001:db8::2"), ask("192.0.2.1")), (2, 0, 2));
    }

    #[test]
    fn a_tool_may_have_a_limit_of_its_own_and_limits_can_change() {
        let limits = limits(|c| {
            c.tools.insert("mail".into(), PerMinute { rate: 1, burst: 1 });
        });
        let ask = |tool: Tool| let_through(5, || limits.of_principal(&principal("a", "x"), "", &tool, 1));
        assert_eq!((ask(Tool::Named("mail".into())), ask(Tool::Named("read".into())), ask(Tool::Unknown)), (1, 5, 1));
        limits.replace(RateLimitConfig::default());
        assert_eq!(ask(Tool::Named("mail".into())), 5);
    }

    #[test]
    fn a_batch_costs_what_is_in_it_and_made_up_names_take_nothing_from_others() {
        let limits = limits(|c| c.tool = Some(PerMinute { rate: 1, burst: 10 }));
        let ask = |user: &str, tool: &Tool, calls| limits.of_principal(&principal(user, "x"), "", tool, calls);
        assert!(ask("a", &Tool::Unknown, 8).is_ok() && ask("a", &Tool::Unknown, 3).is_err());
        assert!(ask("a", &Tool::Unknown, 5_000).is_err() && ask("a", &Tool::Unknown, 2).is_ok());
        let mail = Tool::Named("mail".into());
        assert!(ask("b", &mail, 10).is_ok() && ask("c", &mail, 10).is_ok());
        let passed = (0..30_000).filter(|n| ask("b", &Tool::Named(format!("invented {n}")), 1).is_ok()).count();
        assert!(passed < 100, "{passed} names");
        assert!(ask("b", &mail, 1).is_err() && ask("c", &mail, 1).is_err(), "nothing is forgotten");
    }

    #[test]
    fn the_answer_says_how_long_to_wait() {
        let limits = limits(|c| c.user = Some(PerMinute { rate: 6, burst: 1 }));
        let ask = || limits.of_principal(&principal("a", "x"), "", &Tool::None, 1);
        assert_eq!(ask(), Ok(()));
        let refused = ask().unwrap_err();
        assert!(refused.limit == "user" && (9..=10).contains(&refused.seconds()), "{refused:?}");
    }

    #[test]
    fn strangers_addresses_do_not_make_it_grow() {
        let limits = limits(|c| c.address = TWO);
        for i in 0..30_000u32 {
            let _ = limits.of_address(IpAddr::from(i.to_be_bytes()));
        }
        assert!(limits.addresses.0.lock().unwrap().len() <= MAX_KEYS);
    }
}
