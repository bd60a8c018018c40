//! Limits on requests in a time.

use serde_json::json;

use super::audit::Audited;
use crate::support::flow::{Client, call};
use crate::support::proxy::Proxy;
use crate::support::random::Random;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport};

fn tool(proxy: &Proxy, token: &str, body: &str) -> Reply {
    let headers = [("Authorization", format!("Bearer {token}")), ("Content-Type", "application/json".into())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    proxy.send("POST", "/mcp", &headers, body.as_bytes())
}

fn calling(name: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name}}).to_string()
}

#[test]
fn a_model_is_told_how_long_to_wait_and_the_operator_who_it_was() {
    let upstream = FakeUpstream::ok();
    let audited = Audited::start(&upstream, &["--tool-rate-limit", "1:2,search=1:3"]);
    let proxy = &audited.proxy;
    let client = Client::public(proxy);
    let token = client.tokens().access;
    let statuses: Vec<u16> = (0..4).map(|_| tool(proxy, &token, &calling("mail")).status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    let refused = tool(proxy, &token, &calling("mail"));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    let (error, text) = (refused.json(), refused.text());
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!((&error["jsonrpc"], &error["id"]), (&json!("2.0"), &json!(7)), "{text}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("'mail'") && message.contains(&format!("Try again in {seconds} seconds")), "{message}");
    audited.has(
        "rate_limited",
        json!({
            "limit": "tool", "tool": "mail", "user": "password", "client": client.id, "address": "127.0.0.1"
        }),
    );
    // Other tools and other methods go on; a limit of its own counts for that tool.
    assert_eq!((0..5).filter(|_| tool(proxy, &token, &calling("search")).status == 200).count(), 3);
    assert_eq!(call(proxy, &token).status, 200);
    // Nobody gets around it with a body that is not read: large, a batch, or with two names.
    let large =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "mail", "x": "y".repeat(70_000)}});
    let batch = format!("[{}]", calling("mail"));
    let twice = calling("mail").replace(r#""name":"mail""#, r#""name":"ping","name":"mail""#);
    let let_through: Vec<u16> =
        [large.to_string(), batch.clone(), twice, batch].iter().map(|body| tool(proxy, &token, body).status).collect();
    assert_eq!(let_through.iter().filter(|status| **status != 429).count(), 2, "{let_through:?}");
}

#[test]
fn users_clients_and_addresses_have_limits_of_their_own() {
    let upstream = FakeUpstream::ok();
    for limit in ["user", "client", "address"] {
        let audited =
            Audited::start(&upstream, &["--rate-limit", &format!("{limit}=1:3"), "--trusted-proxies", "127.0.0.1"]);
        let proxy = &audited.proxy;
        let (one, other) = (Client::named(proxy, "one"), Client::named(proxy, "other"));
        let (of_one, of_other) = (one.tokens().access, other.tokens().access);
        let ask = |token: &str, address: &str| {
            let headers = [("Authorization", format!("Bearer {token}")), ("X-Forwarded-For", address.to_string())];
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            (0..5).filter(|_| proxy.send("POST", "/mcp", &headers, calling("x").as_bytes()).status == 200).count()
        };
        let counts = (ask(&of_one, "192.0.2.1"), ask(&of_one, "192.0.2.2"), ask(&of_other, "192.0.2.1"));
        let expected = match limit {
            "user" => (3, 0, 0),
            "client" => (3, 0, 3),
            _ => (3, 3, 0),
        };
        assert_eq!(counts, expected, "{limit}");
        audited.has("rate_limited", json!({"limit": limit}));
        if limit == "address" {
            // Whoever has no token is stopped as well, before the token is looked at.
            let refused = proxy.send("POST", "/mcp", &[("X-Forwarded-For", "192.0.2.1")], b"{}");
            assert_eq!(refused.status, 429, "{}", refused.text());
        }
    }
}

/// What is let through never exceeds what a reference model with the same clock lets through: the burst, and then the rate.
#[test]
fn no_order_of_requests_gets_more_than_burst_and_rate() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &["--tool-rate-limit", "600:5"]);
    let tokens = [Client::named(&proxy, "one").tokens().access, Client::named(&proxy, "other").tokens().access];
    let mut random = Random::new(18);
    let began = std::time::Instant::now();
    let mut let_through = std::collections::BTreeMap::<String, u64>::new();
    for _ in 0..400 {
        let name = ["a", "b", "c"][random.below(3) as usize];
        let body = match random.below(4) {
            0 => format!("[{}]", calling(name)),
            _ => calling(name),
        };
        let key = if body.starts_with('[') { "unknown" } else { name };
        if tool(&proxy, &tokens[random.below(2) as usize], &body).status == 200 {
            *let_through.entry(key.into()).or_default() += 1;
        }
    }
    // Both clients are the same user.
    let most = 5 + began.elapsed().as_secs() * 10 + 10;
    assert!(
        let_through.len() == 4 && let_through.values().all(|count| (5..=most).contains(count)),
        "{let_through:?} {most}"
    );
}
