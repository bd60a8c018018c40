//! Clients of revision 2026-07-28.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::stdio::{McpClient, Published, Stream, events};
use crate::support::wire::Reply;

const MODERN: (&str, &str) = ("CHILD_MODERN", "1");

/// A request as such a client sends it.
fn body(id: &str, method: &str, mut params: Value) -> String {
    let meta = params["_meta"].take();
    let mut all = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    if let Some(more) = meta.as_object() {
        all.as_object_mut().unwrap().extend(more.clone());
    }
    params["_meta"] = all;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

fn post(client: &McpClient<'_>, method: &str, more: &[(&str, &str)], body: &str) -> Reply {
    let usual = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method)];
    let fields: Vec<_> =
        usual.into_iter().filter(|(n, _)| !more.iter().any(|(m, _)| m == n)).chain(more.iter().copied()).collect();
    client.send("POST", &fields, body.as_bytes())
}

fn answer(reply: &Reply) -> Value {
    match reply.header("content-type") {
        Some("text/event-stream") => events(&reply.text()).last().unwrap().json(),
        _ => reply.json(),
    }
}

#[test]
fn a_server_of_the_other_era_sends_clients_back_to_initialize() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    for method in ["server/discover", "tools/list"] {
        let reply = post(&client, method, &[], &body("1", method, json!({})));
        assert_eq!(reply.status, 400);
        let code = reply.json()["error"]["code"].as_i64().unwrap();
        assert!(!(-32022..=-32020).contains(&code) && reply.json()["id"] == 1, "{}", reply.text());
    }
    // The field alone is enough, and so is the body alone.
    let plain = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    assert_eq!(client.send("POST", &[("MCP-Protocol-Version", "2026-07-28")], plain.as_bytes()).status, 400);
    assert_eq!(client.post(&body("1", "tools/list", json!({}))).status, 400);
    client.initialize();
    assert_eq!(client.result("echo", json!({"x": 1}))["x"], 1);
    // The child that was asked is not the one that serves.
    assert!(!client.result("history", json!({}))["lines"].to_string().contains("server/discover"));
}

#[test]
fn ids_and_tokens_are_kept_apart_and_nothing_else_is_touched() {
    let published = Published::start(&[], &[MODERN]);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let client = published.client();
            scope.spawn(move || {
                for id in ["1", "1.0", "\"1\"", "\"\\u0041\""] {
                    let params = json!({"steps": 2, "_meta": {"progressToken": "same"}, "n": n});
                    let reply = post(&client, "progress", &[], &body(id, "progress", params));
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    let all: Vec<Value> = events(&reply.text()).iter().map(|e| e.json()).collect();
                    assert_eq!(all.len(), 3, "{all:?}");
                    assert!(all[..2].iter().all(|m| m["params"]["progressToken"] == "same"), "{all:?}");
                    assert!(
                        events(&reply.text())[2].data.contains(&format!(r#""id": {id}"#))
                            || events(&reply.text())[2].data.contains(&format!(r#""id":{id}"#)),
                        "{}",
                        reply.text()
                    );
                }
            });
        }
    });
    let client = published.client();
    let line = r#"{"result":{"n":1e400,"a":1,"a":2,"s":"\u00e9"}, "id": @ID@ ,"jsonrpc":"2.0"}"#;
    let reply = post(&client, "raw", &[], &body("\"x\\u0079\"", "raw", json!({"lines": [line]})));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.text(), line.replace("@ID@", "\"x\\u0079\""));
    let history = answer(&post(&client, "history", &[], &body("1", "history", json!({}))))["result"]["lines"].clone();
    let sent: Vec<Value> =
        history.as_array().unwrap().iter().map(|l| serde_json::from_str(l.as_str().unwrap()).unwrap()).collect();
    let mut ids: Vec<String> = sent.iter().filter_map(|m| m.get("id").map(Value::to_string)).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn fields_that_contradict_the_body_are_refused() {
    let published = Published::start(&[], &[MODERN]);
    let client = published.client();
    let call = body("7", "tools/call", json!({"name": "größe"}));
    let encoded = "=?base64?Z3LDtsOfZQ==?=";
    let code = |reply: Reply| (reply.status, reply.json()["error"]["code"].as_i64().unwrap_or_default());
    let mismatch = (400, -32020);
    assert_eq!(code(post(&client, "tools/call", &[], &call)), mismatch);
    assert_eq!(code(post(&client, "tools/list", &[("Mcp-Name", encoded)], &call)), mismatch);
    assert_eq!(code(post(&client, "tools/call", &[("Mcp-Name", "other")], &call)), mismatch);
    assert_eq!(code(post(&client, "tools/call", &[("Mcp-Name", "=?base64?!?=")], &call)), mismatch);
    assert_eq!(
        code(post(&client, "tools/call", &[("Mcp-Name", encoded), ("MCP-Protocol-Version", "2026-08-01")], &call)),
        mismatch
    );
    // All is well: the server's own answer, with its own status.
    assert_eq!(post(&client, "tools/call", &[("Mcp-Name", encoded)], &call).status, 200);
    assert_eq!(code(post(&client, "no/such", &[], &body("7", "no/such", json!({})))), (404, -32601));
    let without = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{}}"#;
    assert_eq!(code(post(&client, "echo", &[], without)), (400, -32602));
    let without = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    assert_eq!(code(post(&client, "echo", &[], without)), (400, -32602));
    // A revision that the server has not named, which this one does not look at.
    let late = body("7", "echo", json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-08-01"}}));
    let reply = post(&client, "echo", &[("MCP-Protocol-Version", "2026-08-01")], &late);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!(-32022)));
    assert_eq!(reply.json()["error"]["data"], json!({"supported": ["2026-07-28"], "requested": "2026-08-01"}));
    // Parameters that others know are passed over.
    assert_eq!(post(&client, "echo", &[("Mcp-Param-Region", "eu")], &body("1", "echo", json!({}))).status, 200);
}

#[test]
fn closing_a_stream_cancels_its_request() {
    let published = Published::start(&[], &[MODERN]);
    let client = published.client();
    let fields = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "never")];
    let connection = client.begin("POST", &fields, body("\"mine\"", "never", json!({})).as_bytes());
    let lines = || answer(&post(&client, "history", &[], &body("1", "history", json!({}))))["result"]["lines"].clone();
    let sent = |method: &str| {
        let all = lines();
        let all = all.as_array().unwrap().iter().map(|l| serde_json::from_str::<Value>(l.as_str().unwrap()).unwrap());
        all.filter(|m| m["method"] == method).collect::<Vec<_>>()
    };
    eventually("the request has arrived", || sent("never").len() == 1);
    drop(connection);
    eventually("it is cancelled", || sent("notifications/cancelled").len() == 1);
    assert_eq!(sent("notifications/cancelled")[0]["params"]["requestId"], sent("never")[0]["id"]);
}

#[test]
fn a_subscription_is_a_stream_of_its_own() {
    let published = Published::start(&[], &[MODERN]);
    let client = published.client();
    let fields = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "subscriptions/listen")];
    let open = |id: &str| {
        Stream::of(client.begin(
            "POST",
            &fields,
            body(id, "subscriptions/listen", json!({"notifications": {}})).as_bytes(),
        ))
    };
    let (mut a, mut b) = (open("\"s\""), open("1"));
    for (stream, id) in [(&mut a, json!("s")), (&mut b, json!(1))] {
        for method in ["notifications/subscriptions/acknowledged", "notifications/tools/list_changed"] {
            let message = stream.message().unwrap();
            assert_eq!(message["method"], method);
            assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
        }
    }
}

#[test]
fn each_user_and_client_has_a_child_and_another_takes_its_place() {
    let published = Published::start(&[], &[MODERN]);
    let pid = |user: &str, client: &str| {
        let client = published.client_of(user, client);
        answer(&post(&client, "pid", &[], &body("1", "pid", json!({}))))["result"]["pid"].as_u64().unwrap()
    };
    let first = pid("alice", "one");
    assert_eq!(pid("alice", "one"), first);
    assert_ne!(pid("alice", "two"), first);
    assert_ne!(pid("bob", "one"), first);
    let client = published.client_of("alice", "one");
    let reply = post(&client, "exit", &[], &body("1", "exit", json!({"code": 1})));
    assert!(answer(&reply)["error"]["message"].as_str().unwrap().contains("ended while"), "{}", reply.text());
    eventually("there is another", || pid("alice", "one") != first);
}

#[test]
fn a_dual_server_serves_both_eras() {
    let published = Published::start(&[], &[MODERN]);
    let client = published.client();
    let reply = post(&client, "server/discover", &[], &body("1", "server/discover", json!({})));
    assert_eq!(reply.json()["result"]["supportedVersions"], json!(["2026-07-28"]));
    let mut legacy = published.client();
    legacy.initialize();
    assert_eq!(legacy.result("echo", json!({"x": 1}))["x"], 1);
}

#[test]
fn fields_that_a_tool_asks_for_are_compared_with_its_arguments() {
    let published = Published::start(&[], &[MODERN]);
    let client = published.client();
    // On the last page of the server's list.
    let call = body("7", "tools/call", json!({"name": "tool 2", "arguments": {"region": "eu"}}));
    let send =
        |region: &str| post(&client, "tools/call", &[("Mcp-Name", "tool 2"), ("Mcp-Param-Region", region)], &call);
    assert_eq!(send("eu").status, 200);
    for wrong in ["us", "", "=?base64?ZX?="] {
        let reply = send(wrong);
        assert_eq!((reply.status, reply.json()["error"]["code"].as_i64()), (400, Some(-32020)), "{wrong}");
    }
    // The server is asked for its list now and then, not with every call.
    let history =
        answer(&post(&client, "history", &[], &body("1", "history", json!({}))))["result"]["lines"].to_string();
    assert_eq!(history.matches(r#"\"tools/list\""#).count(), 3, "{history}");
}

#[test]
fn an_answer_is_not_lost_to_what_comes_behind_it() {
    let published = Published::start(&[], &[MODERN]);
    let client = published.client();
    let lines = [
        r#"{"jsonrpc":"2.0","id":@ID@,"result":{"ok":1}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#,
    ];
    for n in 0..20 {
        let reply = post(&client, "raw", &[], &body(&n.to_string(), "raw", json!({"lines": [lines.join("\n")]})));
        assert_eq!(answer(&reply), json!({"jsonrpc": "2.0", "id": n, "result": {"ok": 1}}));
    }
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let published = Published::start(&["--stdio-buffer", "1MiB"], &[MODERN]);
    let client = published.client();
    let fields = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "flood")];
    let flood = body("1", "flood", json!({"bytes": 64 << 20, "_meta": {"progressToken": 1}}));
    let before = crate::support::usage::usage(published.proxy.pid());
    let mut stream = Stream::of(client.begin("POST", &fields, flood.as_bytes()));
    eventually("the server has said all of it", || {
        answer(&post(&client, "flooded", &[], &body("2", "flooded", json!({}))))["result"]["done"] == true
    });
    let peak = crate::support::usage::usage(published.proxy.pid()).peak;
    assert!(peak <= before.peak + (16 << 20), "{peak}, before {before:?}");
    let messages: Vec<Value> = std::iter::from_fn(|| stream.message()).collect();
    let error = messages.last().unwrap()["error"]["message"].to_string();
    assert!(error.contains("--stdio-buffer (STDIO_BUFFER)") || error.contains("reads too slowly"), "{error}");
}

#[test]
fn a_server_that_does_not_answer_the_probe_holds_nobody_else_up() {
    let published = Published::start(&[], &[("CHILD_SILENT", "1")]);
    let client = published.client();
    let fields = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/list")];
    let request = body("1", "tools/list", json!({}));
    // More than there are threads that lead.
    let held: Vec<_> = (0..40).map(|_| client.begin("POST", &fields, request.as_bytes())).collect();
    eventually("the server is asked", || published.proxy.log().matches("the server has started").count() > 1);
    let mut connection = published.proxy.connect();
    connection.write(crate::support::wire::request(
        "GET",
        "/.well-known/oauth-authorization-server",
        &published.proxy.host(),
        &[],
        b"",
    ));
    assert_eq!(connection.reply(false).unwrap().status, 200);
    // Nobody who asked has been answered yet.
    assert!(!published.proxy.log().contains("was asked whether it knows revision"));
    drop(held);
}

#[test]
fn a_subscription_ends_when_the_proxy_is_told_to_stop() {
    let mut published = Published::start(&["--drain-timeout", "600s"], &[MODERN]);
    let client = published.client();
    let fields = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "subscriptions/listen")];
    let listen = body("1", "subscriptions/listen", json!({"notifications": {}}));
    let mut stream = Stream::of(client.begin("POST", &fields, listen.as_bytes()));
    assert_eq!(stream.message().unwrap()["method"], "notifications/subscriptions/acknowledged");
    published.proxy.signal("TERM");
    while stream.next().is_some() {}
    assert!(published.proxy.wait().success());
}

/// A client that leaves takes its wait along: for the answer to the probe, for whoever asks, and for room.
#[test]
fn a_wait_ends_with_the_client_that_it_is_for() {
    // It answers no probe, so that whoever comes first waits for it, and the others for that one.
    let published = Published::start(&["--stdio-max-children", "1", "--stdio-spare", "0"], &[("CHILD_SILENT", "1")]);
    let clients: Vec<_> = (0..6).map(|n| published.client_of(&format!("user {n}"), "c")).collect();
    let answered = || published.proxy.log().matches(r#""path":"/mcp","status""#).count();
    let waiting: Vec<_> = clients
        .iter()
        .map(|client| {
            let more = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "echo")];
            client.begin("POST", &more, body("1", "echo", json!({})).as_bytes())
        })
        .collect();
    published.proxy.has_logged("an MCP server was started for several clients");
    assert_eq!(answered(), 0);
    drop(waiting);
    eventually("nobody waits any more", || answered() == 6);
    let log = published.proxy.log();
    assert!(!log.contains("was asked whether it knows revision"), "they waited for the probe to be given up: {log}");
}
