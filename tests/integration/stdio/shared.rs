//! One process for all sessions.

use serde_json::json;

use crate::support::eventually;
use crate::support::stdio::Published;

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
