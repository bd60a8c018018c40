//! One process for all sessions.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::proxy::Scratch;
use crate::support::stdio::{McpClient, Published, Stream};
use crate::support::wire::request;

#[test]
fn one_process_serves_clients_that_never_see_each_other() {
    let published = Published::start(&["--stdio-mode", "shared"], &[]);
    let pids: Vec<_> = std::thread::scope(|scope| {
        let work = |user: &'static str| {
            let published = &published;
            scope.spawn(move || {
                let mut client = published.client_of(user, "c");
                client.initialize();
                let mut general = client.listen(None);
                for n in 0..50 {
                    // All of them use the same ids and the same progress token.
                    let messages = client
                        .messages("progress", json!({"steps": 3, "_meta": {"progressToken": "same"}, "of": user}));
                    assert!(messages[..3].iter().all(|m| m["params"]["progressToken"] == "same"), "{messages:?}");
                    assert_eq!(messages.len(), 4);
                    assert_eq!(client.result("echo", json!({"of": user, "n": n})), json!({"of": user, "n": n}));
                }
                client.result("resources/subscribe", json!({"uri": user}));
                client.result("notify", json!({"method": "notifications/resources/updated", "params": {"uri": user}}));
                assert_eq!(general.message().unwrap()["params"]["uri"], user);
                client.result("pid", json!({}))["pid"].as_u64().unwrap()
            })
        };
        let running: Vec<_> = ["alice", "bob", "carol"].into_iter().map(work).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

#[test]
fn nobody_is_asked_for_another() {
    let published = Published::start(&["--stdio-mode", "shared"], &[]);
    let mut client = published.client();
    client.initialize();
    let answer = client.messages("ask", json!({}));
    assert_eq!(answer.len(), 1, "{answer:?}");
    assert_eq!(answer[0]["result"]["refused"]["code"], -32601);
    assert_eq!(client.result("ask", json!({"method": "ping"}))["answered"], json!({}));
    // It belongs to no user: its environment names none.
    let env = client.result("environment", json!({}));
    assert!(env.get("MCP_AUTH_USER").is_none() && env.get("MCP_AUTH_CLIENT").is_none());
    // It was told of the proxy, once, and of no client.
    let mut other = published.client_of("other", "c");
    other.initialize();
    let lines = other.result("history", json!({}))["lines"].to_string();
    assert_eq!(lines.matches(r#"\"initialize\""#).count(), 1, "{lines}");
    assert_eq!(lines.matches("notifications/initialized").count(), 1, "{lines}");
}

#[test]
fn a_message_that_could_be_anyones_reaches_nobody() {
    let published = Published::start(&["--stdio-mode", "shared"], &[]);
    let (mut a, mut b) = (published.client_of("a", "c"), published.client_of("b", "c"));
    a.initialize();
    b.initialize();
    let mut slow = a.stream("sleep", json!({"seconds": 1}));
    let secret = json!({"method": "notifications/message", "params": {"data": "whose is it"}});
    assert_eq!(b.messages("notify", secret).len(), 1);
    let of_a: Vec<_> = std::iter::from_fn(|| slow.message()).collect();
    assert_eq!(of_a.len(), 1, "{of_a:?}");
    // Lists are everyone's.
    let (mut for_a, mut for_b) = (a.listen(None), b.listen(None));
    b.result("notify", json!({"method": "notifications/tools/list_changed"}));
    assert_eq!(for_a.message().unwrap()["method"], "notifications/tools/list_changed");
    assert_eq!(for_b.message().unwrap()["method"], "notifications/tools/list_changed");
}

#[test]
fn sessions_outlive_the_shared_process() {
    let published = Published::start(&["--stdio-mode", "shared"], &[]);
    let (mut a, mut b) = (published.client_of("a", "c"), published.client_of("b", "c"));
    a.initialize();
    b.initialize();
    let mut waiting = b.stream("never", json!({}));
    let mut dying = a.stream("exit", json!({"code": 1}));
    assert!(waiting.message().unwrap()["error"]["message"].as_str().unwrap().contains("ended while"));
    assert!(dying.message().unwrap()["error"]["message"].as_str().unwrap().contains("ended while"));
    eventually("both go on", || {
        a.call("echo", json!({"x": 1}))["result"]["x"] == 1 && b.call("echo", json!({"x": 2}))["result"]["x"] == 2
    });
}

#[test]
fn the_oldest_clients_share_it_too() {
    let published = Published::start(&["--stdio-mode", "shared"], &[]);
    let mut first = published.client();
    first.initialize();
    // The server has been initialized: the answer is the proxy's own.
    let client = published.client_of("old", "c");
    let bearer = format!("Bearer {}", client.token);
    let mut connection = published.proxy.connect();
    connection.write(request("GET", "/sse", &published.proxy.host(), &[("Authorization", &bearer)], b""));
    let mut stream = Stream::of(connection);
    let endpoint = stream.next().unwrap().data;
    let post = |body: &str| {
        let fields = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let mut connection = published.proxy.connect();
        connection.write(request("POST", &endpoint, &published.proxy.host(), &fields, body.as_bytes()));
        connection.reply(false).unwrap().status
    };
    assert_eq!(post(&client.initialize_request()), 202);
    assert_eq!(stream.message().unwrap()["id"], "init");
    assert_eq!(post(r#"{"jsonrpc":"2.0","id":"mine","method":"echo","params":{"x":1}}"#), 202);
    assert_eq!(stream.message().unwrap(), json!({"jsonrpc": "2.0", "id": "mine", "result": {"x": 1}}));
}

#[test]
fn no_spelling_reaches_what_is_anothers() {
    let published = Published::start(&["--stdio-mode", "shared"], &[]);
    let (mut a, mut b) = (published.client_of("a", "c"), published.client_of("b", "c"));
    a.initialize();
    b.initialize();
    let mut victim = b.stream("sleep", json!({"seconds": 2, "_meta": {"progressToken": "mine"}}));
    for n in 1..6 {
        for message in [
            format!(r#"{{"jsonrpc":"2.0","id":7,"ID":{n},"method":"echo"}}"#),
            format!(r#"{{"jsonrpc":"2.0","ID":{n},"method":"echo"}}"#),
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":7,"RequestID":{n}}}}}"#
            ),
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{n},"requestId":7}}}}"#
            ),
            format!(
                r#"{{"jsonrpc":"2.0","id":7,"method":"progress","params":{{"steps":1,"_meta":{{"\ud800":0,"progressToken":{n}}}}}}}"#
            ),
            format!(
                r#"{{"jsonrpc":"2.0","id":7,"method":"progress","params":{{"steps":1,"_meta":{{"progressToken":7,"PROGRESSTOKEN":{n}}}}}}}"#
            ),
        ] {
            assert_eq!(a.post(&message).status, 400, "{message}");
        }
        // Said plainly it is the client's own, or nobody's.
        let plain = format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{n}}}}}"#);
        assert_eq!(a.post(&plain).status, 202);
    }
    let all: Vec<Value> = std::iter::from_fn(|| victim.message()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["result"]["slept"], true);
}

#[test]
fn what_was_cancelled_is_forgotten() {
    let published = Published::start(&["--stdio-mode", "shared", "--max-streams", "8000"], &[]);
    let mut client = published.client();
    client.initialize();
    // More of them than there may be in flight for one user.
    for _ in 0..1_100 {
        let body = client.request("never", json!({}));
        let id = serde_json::from_str::<Value>(&body).unwrap()["id"].take();
        let mut stream = Stream::of(client.begin("POST", &[], body.as_bytes()));
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        assert_eq!(client.post(&cancel.to_string()).status, 202);
        assert!(stream.message().unwrap()["error"]["message"].as_str().unwrap().contains("cancelled"));
    }
    assert_eq!(client.result("echo", json!({"x": 1}))["x"], 1);
}

#[test]
fn an_answer_that_is_too_long_fails_its_own_request() {
    let published = Published::start(&["--stdio-mode", "shared", "--stdio-buffer", "64KiB"], &[]);
    let (mut a, mut b) = (published.client_of("a", "c"), published.client_of("b", "c"));
    a.initialize();
    b.initialize();
    let mut waiting = a.stream("sleep", json!({"seconds": 1}));
    let answer = b.call("big", json!({"bytes": 100_000}));
    assert!(answer["error"]["message"].as_str().unwrap().contains("more than 65536 bytes"), "{answer}");
    assert_eq!(waiting.message().unwrap()["result"]["slept"], true);
    assert_eq!(b.result("echo", json!({"x": 1}))["x"], 1);
}

#[test]
fn subscriptions_of_one_client_are_not_anothers_to_end() {
    let published = Published::start(&["--stdio-mode", "shared"], &[]);
    let (mut a, mut b) = (published.client_of("a", "c"), published.client_of("b", "c"));
    a.initialize();
    b.initialize();
    let mut general = a.listen(None);
    for client in [&mut a, &mut b] {
        client.result("resources/subscribe", json!({"uri": "file:///notes"}));
    }
    b.result("resources/unsubscribe", json!({"uri": "file:///notes"}));
    b.result("notify", json!({"method": "notifications/resources/updated", "params": {"uri": "file:///notes/today"}}));
    assert_eq!(general.message().unwrap()["params"]["uri"], "file:///notes/today");
    let told = |client: &mut crate::support::stdio::McpClient<'_>, method: &str| {
        let lines = client.result("history", json!({}))["lines"].to_string();
        lines.matches(&format!(r#"\"{method}\""#)).count()
    };
    assert_eq!(told(&mut b, "resources/unsubscribe"), 0);
    // Nobody is left: it is over.
    assert_eq!(a.send("DELETE", &[], b"").status, 200);
    eventually("the server is told", || told(&mut b, "resources/unsubscribe") == 1);
    let long = "x".repeat(5_000);
    assert!(b.call("resources/subscribe", json!({"uri": long}))["error"].is_object());
}

#[test]
fn a_server_that_refuses_to_initialize_is_tried_again() {
    let crash = Scratch::new();
    let file = crash.path("refuse");
    std::fs::write(&file, "yes").unwrap();
    let published = Published::start(&["--stdio-mode", "shared"], &[("CHILD_REFUSE", &file)]);
    let mut client = published.client();
    let answer = client.post(&client.initialize_request()).json();
    assert_eq!(answer["error"]["message"], "not today", "{answer}");
    std::fs::remove_file(&file).unwrap();
    client.initialize();
    assert_eq!(client.result("echo", json!({"x": 1}))["x"], 1);
}

#[test]
fn a_shared_server_that_crashes_is_not_forgotten_between_two_attempts() {
    let crash = Scratch::new();
    let file = crash.path("crash");
    std::fs::write(&file, "yes").unwrap();
    // With so short an idle time, what is idle is looked for four times a second.
    let options = ["--stdio-mode", "shared", "--stdio-idle-timeout", "1s"];
    let published = Published::start(&options, &[("CHILD_CRASH", &file)]);
    let client = published.client();
    let request = client.initialize_request();
    eventually("the pauses grow", || {
        let answer = client.post(&request).json();
        let message = answer["error"]["message"].as_str().unwrap_or_default().to_string();
        let seconds =
            message.split_once("next attempt is in ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        seconds.is_some_and(|seconds: u64| seconds > 2)
    });
}

/// The line by which the server's own words reached whoever had the only request in flight.
#[test]
fn words_without_an_address_reach_nobody_of_the_newest_revision_either() {
    let published = Published::start(&["--stdio-mode", "shared"], &[("CHILD_MODERN", "1")]);
    let call = |client: &McpClient<'_>, id: u64, method: &str, mut params: Value| {
        params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}});
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        client.begin("POST", &[("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method)], body.as_bytes())
    };
    let (alice, bob) = (published.client_of("alice", "c"), published.client_of("bob", "c"));
    assert_eq!(call(&alice, 1, "echo", json!({})).reply(false).unwrap().status, 200);
    // Bob's is the only request in flight when the server speaks of Alice's.
    let mut waiting = call(&bob, 1, "sleep", json!({"seconds": 3}));
    let later = json!({"method": "notifications/message", "params": {"data": "of alice"}, "after": 0.5});
    assert_eq!(call(&alice, 2, "notify", later).reply(false).unwrap().status, 200);
    let all = waiting.reply(false).unwrap().text();
    assert!(all.contains("slept") && !all.contains("of alice"), "{all}");
}

#[test]
fn a_refused_subscription_hears_nothing_and_none_hears_of_a_neighbours_resource() {
    let published = Published::start(&["--stdio-mode", "shared"], &[]);
    let (mut a, mut b) = (published.client_of("a", "c"), published.client_of("b", "c"));
    a.initialize();
    b.initialize();
    let (mut for_a, mut for_b) = (a.listen(None), b.listen(None));
    // The server refuses what it does not like.
    for refused in ["", "refuse:all", "note:/"] {
        let answer = b.call("resources/subscribe", json!({"uri": refused, "refuse": true}));
        assert!(answer.get("error").is_some(), "{answer}");
    }
    b.result("resources/subscribe", json!({"uri": "note://bob"}));
    a.result("resources/subscribe", json!({"uri": "note://alice/diary"}));
    let mut updated = |uri: &str| {
        a.result("notify", json!({"method": "notifications/resources/updated", "params": {"uri": uri}}));
    };
    for uri in ["note://alice/diary", "note://bobby", "note://bob?x", "refuse:all/x", "note://bob/x", "note://bob"] {
        updated(uri);
    }
    for uri in ["note://bob/x", "note://bob"] {
        assert_eq!(for_b.message().unwrap()["params"]["uri"], uri);
    }
    assert_eq!(for_a.message().unwrap()["params"]["uri"], "note://alice/diary");
    // A subscription that is under way keeps the server's when another lets go of it.
    b.result("resources/unsubscribe", json!({"uri": "note://bob"}));
    updated("note://bob");
    updated("note://alice/diary");
    assert_eq!(for_a.message().unwrap()["params"]["uri"], "note://alice/diary");
    assert_eq!(for_b.is_answered(), None);
}
