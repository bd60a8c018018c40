//! What happens to one server takes nothing from the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{get, granted, http, start, stdio, with};
use crate::support::eventually;
use crate::support::flow::Client;
use crate::support::proxy::Proxy;
use crate::support::stdio::McpClient;
use crate::support::upstream::{FakeUpstream, text};
use crate::support::wire::{Connection, request};

/// A server that answers only when it is told to.
fn slow() -> (FakeUpstream, Arc<AtomicBool>) {
    let may_answer = Arc::new(AtomicBool::new(false));
    let told = may_answer.clone();
    let upstream = FakeUpstream::start(move |_, out| {
        while !told.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        text(out, "200 OK", "", "ok");
    });
    (upstream, may_answer)
}

fn begin(proxy: &Proxy, token: &str, path: &str) -> Connection {
    let mut connection = proxy.connect();
    let bearer = format!("Bearer {token}");
    connection.write(request("POST", path, &proxy.host(), &[("Authorization", &bearer)], b""));
    connection
}

/// The server's answers stay right, all of them, while `strain` goes on.
fn is_well(proxy: &Proxy, token: &str, path: &str, strain: &str) {
    for _ in 0..20 {
        let reply = get(proxy, token, path);
        assert_eq!(reply.status, 200, "while another is {strain}: {}\n{}", reply.text(), proxy.log());
    }
}

#[test]
fn a_slow_server_and_a_flooded_one_keep_no_place_of_another() {
    let ((slow, may_answer), well) = (slow(), FakeUpstream::ok());
    let proxy = start(&json!({ "slow": http(&slow), "well": http(&well) }), &["--max-requests", "16"]);
    let client = Client::public(&proxy);
    let token = granted(&proxy, &client, &["/slow/mcp", "/well/mcp"]).access;
    // It may have its own 4 places, and the 8 for whoever needs more.
    let waiting: Vec<Connection> = (0..12).map(|_| begin(&proxy, &token, "/slow/mcp")).collect();
    eventually("all have reached the server", || slow.received().len() == 12);
    assert_eq!(get(&proxy, &token, "/slow/mcp").status, 503, "it has no more");
    is_well(&proxy, &token, "/well/mcp", "slow");
    let flood: Vec<Connection> = (0..60).map(|_| begin(&proxy, &token, "/slow/mcp")).collect();
    is_well(&proxy, &token, "/well/mcp", "flooded");
    may_answer.store(true, Ordering::Relaxed);
    for mut connection in waiting {
        assert_eq!(connection.reply(false).unwrap().status, 200);
    }
    drop(flood);
}

#[test]
fn a_limit_of_its_own_holds_for_one_server_alone() {
    let ((slow, may_answer), well) = (slow(), FakeUpstream::ok());
    let servers = json!({ "slow": with(http(&slow), json!({ "maxRequests": 2 })), "well": http(&well) });
    let proxy = start(&servers, &[]);
    let token = granted(&proxy, &Client::public(&proxy), &["/slow/mcp", "/well/mcp"]).access;
    let waiting: Vec<Connection> = (0..2).map(|_| begin(&proxy, &token, "/slow/mcp")).collect();
    eventually("both have reached the server", || slow.received().len() == 2);
    let reply = get(&proxy, &token, "/slow/mcp");
    assert!(reply.status == 503 && reply.text().contains("maxRequests"), "{}", reply.text());
    is_well(&proxy, &token, "/well/mcp", "at its limit");
    may_answer.store(true, Ordering::Relaxed);
    drop(waiting);
}

#[test]
fn a_server_that_is_down_is_down_alone() {
    let well = FakeUpstream::ok();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let down = json!({ "url": format!("http://127.0.0.1:{nobody}/mcp") });
    let proxy = start(&json!({ "down": down, "well": http(&well) }), &[]);
    let token = granted(&proxy, &Client::public(&proxy), &["/down/mcp", "/well/mcp"]).access;
    for _ in 0..50 {
        assert_eq!(get(&proxy, &token, "/down/mcp").status, 502);
    }
    is_well(&proxy, &token, "/well/mcp", "down");
    assert!(proxy.log().lines().any(|line| line.contains("can't be reached") && line.contains("\"server\":\"down\"")));
}

#[test]
fn a_server_that_crashes_or_is_out_of_processes_is_so_alone() {
    let well = FakeUpstream::ok();
    let crashes = json!({ "command": "sh", "args": ["-c", "exit 3"] });
    let servers = json!({
        "crashes": crashes,
        "full": with(stdio(), json!({ "stdio": { "maxChildren": 1, "spare": 0 } })),
        "script": with(stdio(), json!({ "stdio": { "maxChildren": 2 } })),
        "well": http(&well),
    });
    let proxy = start(&servers, &[]);
    let all = ["/crashes/mcp", "/full/mcp", "/script/mcp", "/well/mcp"];
    let token = granted(&proxy, &Client::public(&proxy), &all).access;
    let mut script = McpClient::new(&proxy, "/script/mcp", token.clone());
    script.initialize();
    let mut full = McpClient::new(&proxy, "/full/mcp", token.clone());
    full.initialize();
    let never = full.request("never", json!({}));
    let _busy = full.begin("POST", &[], never.as_bytes());
    let pid = script.result("pid", json!({}));
    for _ in 0..3 {
        let crashing = McpClient::new(&proxy, "/crashes/mcp", token.clone());
        let reply = crashing.post(&crashing.initialize_request());
        assert!(reply.text().contains("error"), "{}", reply.text());
    }
    let second = McpClient::new(&proxy, "/full/mcp", token.clone());
    let request = second.initialize_request();
    let waits = second.begin("POST", &[], request.as_bytes());
    is_well(&proxy, &token, "/well/mcp", "crashing and another out of processes");
    assert_eq!(script.result("pid", json!({})), pid, "its process goes on");
    let exited = |line: &str| line.contains("exited unexpectedly") && line.contains("\"server\":\"crashes\"");
    assert!(proxy.log().lines().any(exited), "{}", proxy.log());
    drop(waits);
}
