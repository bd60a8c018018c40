//! Streamable HTTP and HTTP+SSE: statuses, streams, bytes.

use serde_json::json;

use crate::support::eventually;
use crate::support::proxy::{PASSWORD, Scratch};
use crate::support::stdio::{BOTH, Published, Stream, events};
use crate::support::usage::usage;
use crate::support::wire::{Transport, request};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[test]
fn every_status_has_its_cause() {
    let published = Published::start(&["--max-body-size", "1MiB"], &[]);
    let mut client = published.client();
    // Before there is a session.
    assert_eq!(client.post(PING).status, 400);
    assert_eq!(client.send("GET", &[], b"").status, 400);
    assert_eq!(client.send("DELETE", &[], b"").status, 400);
    client.initialize();
    for (status, more, body) in [
        (406, ("Accept", "application/json"), PING),
        (406, ("Accept", "text/event-stream"), PING),
        (406, ("Accept", ""), PING),
        (200, ("Accept", "*/*"), PING),
        (415, ("Content-Type", "text/plain"), PING),
        (415, ("Content-Type", ""), PING),
        (200, ("Content-Type", "application/json; charset=utf-8"), PING),
        (400, ("MCP-Protocol-Version", "1999-01-01"), PING),
        (400, ("MCP-Protocol-Version", "x"), PING),
        (200, ("MCP-Protocol-Version", ""), PING),
        (200, ("MCP-Protocol-Version", "2025-03-26"), PING),
        (404, ("Mcp-Session-Id", "unknown"), PING),
        (404, ("Mcp-Session-Id", "a.b"), PING),
        (400, ("Accept", BOTH), "{"),
        (400, ("Accept", BOTH), ""),
        (400, ("Accept", BOTH), "[]"),
        (400, ("Accept", BOTH), "1"),
        (400, ("Accept", BOTH), r#"{"jsonrpc":"2.0","id":1}"#),
        (400, ("Accept", BOTH), r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#),
        (400, ("Accept", BOTH), r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"ping"}"#),
        (
            400,
            ("Accept", BOTH),
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"ping\"}",
        ),
        (400, ("Accept", BOTH), &client.initialize_request()),
        (202, ("Accept", BOTH), r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#),
        (202, ("Accept", BOTH), r#"{"jsonrpc":"2.0","id":"nobody asked","result":{}}"#),
    ] {
        let reply = client.send("POST", &[more], body.as_bytes());
        assert_eq!(reply.status, status, "{more:?} {body}: {}", reply.text());
        if status >= 400 {
            assert_eq!(reply.json()["jsonrpc"], "2.0", "{}", reply.text());
        }
    }
    assert_eq!(client.send("GET", &[("Accept", "application/json")], b"").status, 406);
    for method in ["PUT", "PATCH", "HEAD"] {
        let mut connection = client.begin(method, &[], b"");
        assert_eq!(connection.reply(method == "HEAD").unwrap().status, 405, "{method}");
    }
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"echo","params":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(client.post(&large).status, 413);

    let first = client.listen(None);
    assert_eq!(first.head.status, 200);
    assert_eq!(first.head.header("x-accel-buffering"), Some("no"));
    assert_eq!(client.send("GET", &[], b"").status, 409);
    drop(first);
    eventually("the stream is free again", || client.listen(None).head.status == 200);

    assert_eq!(client.send("DELETE", &[], b"").status, 200);
    assert_eq!(client.post(PING).status, 404);
    assert_eq!(client.send("GET", &[], b"").status, 404);
    assert_eq!(client.send("DELETE", &[], b"").status, 404);
}

#[test]
fn without_a_token_nothing_is_told_but_where_to_get_one() {
    let published = Published::start(&[], &[]);
    for (method, target) in
        [("POST", "/mcp"), ("GET", "/mcp"), ("DELETE", "/mcp"), ("GET", "/sse"), ("POST", "/sse/messages?sessionId=x")]
    {
        let reply = published.proxy.send(method, target, &[("Accept", BOTH)], b"");
        assert_eq!(reply.status, 401, "{method} {target}");
    }
    // Nothing is there, with a token or without.
    let token = format!("Bearer {}", published.client().token);
    for fields in [&[("Accept", BOTH)], &[("Authorization", token.as_str())]] {
        assert_eq!(published.proxy.send("GET", "/other", fields, b"").status, 404);
    }
}

#[test]
fn what_the_server_writes_arrives_byte_for_byte() {
    let published = Published::start(&["--max-body-size", "32MiB"], &[]);
    let mut client = published.client();
    client.initialize();
    let unusual = [
        r#"{"jsonrpc":"2.0","id":@ID@,"result":{"n":123456789012345678901234567890.12300e+400,"z":-0.0,"e":1E5}}"#,
        r#"{"result":{"a":1,"a":2,"A":3,"\u0061":4},"id":@ID@,"jsonrpc":"2.0"}"#,
        r#"{ "jsonrpc" : "2.0" , "id":@ID@,   "result":{"s":"\u00e9\ud83d\ude00\/é😀\u2028"} ,"extra":[ ]}"#,
        r#"{"jsonrpc":"2.0","id":@ID@,"error":{"code":-1,"message":"\u0000","data":{"id":1,"method":"x"}}}"#,
    ];
    for line in unusual {
        let request = client.request("raw", json!({"lines": [line]}));
        let reply = client.post(&request);
        let id = serde_json::from_str::<serde_json::Value>(&request).unwrap()["id"].to_string();
        let data: Vec<String> = events(&reply.text()).into_iter().map(|e| e.data).collect();
        assert_eq!(data, [line.replace("@ID@", &id)]);
    }
    let deep = format!(r#"{{"jsonrpc":"2.0","id":@ID@,"result":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let request = client.request("raw", json!({"lines": [deep]}));
    assert!(client.post(&request).text().contains(&"[".repeat(5_000)));

    for size in [8 << 20, 20 << 20] {
        let request = client.request("big", json!({"bytes": size}));
        let data = &events(&client.post(&request).text())[0].data;
        assert_eq!(
            data.len(),
            format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"text":""}}}}"#, data_id(&request)).len() + size
        );
    }
    // And the other way.
    let params = r#"{ "n" : 1e400, "a":1 ,"a": 2, "s":"\u00e9\/" }"#;
    let body = format!("{{\"jsonrpc\":\"2.0\",\r\n\t\"method\":\"echo\",\n\"params\":{params}}}\n");
    assert_eq!(client.post(&body).status, 202);
    let lines = client.result("history", json!({}))["lines"].clone();
    let want = format!("{{\"jsonrpc\":\"2.0\",  \t\"method\":\"echo\", \"params\":{params}}}");
    assert!(lines.as_array().unwrap().contains(&json!(want)), "{lines}");
    let big = "y".repeat(8 << 20);
    assert_eq!(client.result("echo", json!({"big": big}))["big"], big);
}

fn data_id(request: &str) -> String {
    serde_json::from_str::<serde_json::Value>(request).unwrap()["id"].to_string()
}

#[test]
fn noise_on_stdout_is_skipped_and_told() {
    let published = Published::start(&["--stdio-buffer", "64KiB"], &[]);
    let mut client = published.client();
    client.initialize();
    let good = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"ok":true}}"#;
    let noise = ["npm WARN deprecated", "", "{\"json\": \"but no message\"}", "[1,2]", "{", "null"];
    let lines: Vec<_> = noise.iter().chain([&good]).collect();
    assert_eq!(
        client.messages("raw", json!({"lines": lines})),
        [json!({"jsonrpc": "2.0", "id": 2, "result": {"ok": true}})]
    );
    published.proxy.has_logged("npm WARN deprecated");
    // A line that can't be held costs its request, not the session.
    let answer = client.call("big", json!({"bytes": 100_000}));
    assert!(answer["error"]["message"].as_str().unwrap().contains("more than 65536 bytes"), "{answer}");
    published.proxy.has_logged("--stdio-buffer (STDIO_BUFFER)");
    assert_eq!(client.result("echo", json!({"a": 1})), json!({"a": 1}));
}

#[test]
fn each_message_goes_to_one_stream_and_the_right_one() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    let mut general = client.listen(None);
    let mut slow = client.stream("sleep", json!({"seconds": 1.5}));

    let progress = client.messages("progress", json!({"steps": 2, "_meta": {"progressToken": "t"}}));
    let methods: Vec<_> = progress.iter().map(|m| m["method"].as_str().unwrap_or("result").to_string()).collect();
    assert_eq!(methods, ["notifications/progress", "notifications/progress", "result"]);
    // Two requests are in flight, so nobody can tell whose this is: the general stream has it.
    assert_eq!(
        client.messages("notify", json!({"method": "notifications/message", "params": {"data": "for whom"}})).len(),
        1
    );
    assert_eq!(general.message().unwrap()["params"]["data"], "for whom");
    assert_eq!(slow.message().unwrap()["result"]["slept"], true);
    assert_eq!(slow.message(), None);
    // One request is in flight: it is its.
    let messages = client.messages("notify", json!({"method": "notifications/message", "params": {"data": "mine"}}));
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0]["params"]["data"], "mine");
    // Lists concern nobody in particular.
    assert_eq!(client.messages("notify", json!({"method": "notifications/tools/list_changed"})).len(), 1);
    assert_eq!(general.message().unwrap()["method"], "notifications/tools/list_changed");
}

#[test]
fn what_comes_while_nobody_listens_waits() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    client.result("notify", json!({"method": "notifications/tools/list_changed"}));
    assert_eq!(client.listen(None).message().unwrap()["method"], "notifications/tools/list_changed");
}

#[test]
fn the_server_asks_and_the_client_answers() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    for method in ["sampling/createMessage", "elicitation/create", "roots/list"] {
        let mut stream = client.stream("ask", json!({"method": method}));
        let question = stream.message().unwrap();
        assert_eq!(question["method"], method);
        let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"text": "yes"}}).to_string();
        assert_eq!(client.post(&answer).status, 202);
        assert_eq!(stream.message().unwrap()["result"]["answered"]["text"], "yes");
        // A second answer reaches nobody.
        assert_eq!(client.post(&answer).status, 202);
    }
    let lines = client.result("history", json!({}))["lines"].to_string();
    assert_eq!(lines.matches("answered").count() + lines.matches(r#"\"text\":\"yes\""#).count(), 3, "{lines}");
}

#[test]
fn a_cancelled_request_ends_its_stream() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    let mut stream = client.stream("never", json!({}));
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
    assert_eq!(client.post(cancel).status, 202);
    assert_eq!(stream.message().unwrap()["error"]["message"], "the request was cancelled");
    assert_eq!(stream.message(), None);
    let lines = client.result("history", json!({}))["lines"].clone();
    assert!(lines.as_array().unwrap().contains(&json!(cancel)), "{lines}");
}

#[test]
fn a_request_id_in_flight_is_not_taken_twice() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    let _first = client.stream("never", json!({}));
    for id in ["2", "2.0", "0.2e1"] {
        let reply = client.post(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#));
        assert_eq!(reply.status, 400, "{id}");
    }
    assert_eq!(client.post(r#"{"jsonrpc":"2.0","id":"2","method":"ping"}"#).status, 200);
}

#[test]
fn batches_exist_in_one_revision() {
    let published = Published::start(&[], &[]);
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"echo","params":{"n":1.0}},
        {"jsonrpc":"2.0","method":"notifications/x"}, {"jsonrpc":"2.0","id":"b","method":"echo","params":{"n":2}}]"#;
    let mut client = published.client();
    client.initialize();
    assert_eq!(client.post(batch).status, 400);

    let mut old = published.client();
    old.version = "2025-03-26";
    old.initialize();
    let reply = old.post(batch);
    assert_eq!(reply.status, 200);
    let mut ids: Vec<String> = events(&reply.text()).iter().map(|e| e.json()["id"].to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["\"b\"", "1"]);
    assert_eq!(old.post(r#"[{"jsonrpc":"2.0","method":"notifications/x"}]"#).status, 202);
    assert_eq!(
        old.post(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":1,"method":"ping"}]"#).status,
        400
    );
    assert_eq!(old.post(&format!("[{}]", old.initialize_request())).status, 400);
}

#[test]
fn the_answer_to_a_batch_may_be_a_batch() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    let line = r#"[{"jsonrpc":"2.0","method":"notifications/message","params":{"n":1e0}}, {"jsonrpc":"2.0","id":@ID@,"result":{}}]"#;
    let request = client.request("raw", json!({"lines": [line]}));
    let data: Vec<String> = events(&client.post(&request).text()).into_iter().map(|e| e.data).collect();
    assert_eq!(
        data,
        [
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"n":1e0}}"#,
            r#"{"jsonrpc":"2.0","id":2,"result":{}}"#
        ]
    );
}

#[test]
fn a_stream_goes_on_where_it_was_cut() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.version = "2025-11-25";
    client.initialize();
    let mut stream = client.stream("sleep", json!({"seconds": 1}));
    let priming = stream.next().unwrap();
    assert!(priming.id.is_some() && priming.data.is_empty(), "{priming:?}");
    // A dropped connection cancels nothing.
    drop(stream);
    let mut again = client.listen(priming.id.as_deref());
    assert_eq!(again.head.status, 200);
    let event = again.next().unwrap();
    assert_eq!(event.json()["result"]["slept"], true);
    assert_eq!(again.next(), None);
    // The same event once more, as long as nothing else needs the room; then the stream is over.
    assert_eq!(client.listen(priming.id.as_deref()).next(), Some(event.clone()));
    assert_eq!(client.listen(event.id.as_deref()).next(), None);

    // What was missed of several is sent again, and nothing of another stream.
    let mut progress = client.stream("progress", json!({"steps": 3, "_meta": {"progressToken": 1}}));
    let seen: Vec<_> = std::iter::from_fn(|| progress.next()).filter(|e| !e.data.is_empty()).collect();
    assert_eq!(seen.len(), 4);
    let mut missed = client.listen(seen[1].id.as_deref());
    let rest: Vec<_> = std::iter::from_fn(|| missed.next()).collect();
    assert_eq!(rest, seen[2..]);
}

#[test]
fn the_general_stream_goes_on_too() {
    let published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    let mut general = client.listen(None);
    client.result("notify", json!({"method": "notifications/tools/list_changed", "params": {"n": 1}}));
    let first = general.next().unwrap();
    client.result("notify", json!({"method": "notifications/tools/list_changed", "params": {"n": 2}}));
    general.next().unwrap();
    // It comes back with the id of the first, though the old connection has not been noticed to be gone.
    let mut again = client.listen(first.id.as_deref());
    assert_eq!(again.message().unwrap()["params"]["n"], 2);
}

#[test]
fn the_oldest_clients_have_one_stream() {
    let published = Published::start(&[], &[]);
    let client = published.client_at("/sse");
    let bearer = format!("Bearer {}", client.token);
    let mut connection = published.proxy.connect();
    connection.write(request("GET", "/sse", &published.proxy.host(), &[("Authorization", &bearer)], b""));
    let mut stream = Stream::of(connection);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    let endpoint = stream.next().unwrap();
    assert_eq!(endpoint.name, "endpoint");
    assert!(endpoint.data.starts_with("/sse/messages?sessionId="), "{endpoint:?}");
    let post = |target: &str, token: &str, body: &str| {
        let fields = [("Authorization", token), ("Content-Type", "application/json")];
        published.proxy.send("POST", target, &fields, body.as_bytes()).status
    };
    assert_eq!(post(&endpoint.data, &bearer, &client.initialize_request()), 202);
    assert_eq!(stream.message().unwrap()["id"], "init");
    assert_eq!(post(&endpoint.data, &bearer, r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{"x":1}}"#), 202);
    assert_eq!(stream.message().unwrap()["result"]["x"], 1);
    assert_eq!(post(&endpoint.data, &bearer, "{"), 400);
    let stranger = format!("Bearer {}", published.client_of("stranger", "c").token);
    assert_eq!(post(&endpoint.data, &stranger, PING), 404);
    assert_eq!(post("/sse/messages?sessionId=x", &bearer, PING), 404);
    assert_eq!(post("/sse/messages", &bearer, PING), 404);
    // It is of no use at the other endpoint, and ends with its stream.
    let id = endpoint.data.split('=').nth(1).unwrap();
    drop(stream);
    eventually("the session has ended", || post(&endpoint.data, &bearer, PING) == 404);
    assert!(!published.proxy.log().contains(id) && !published.proxy.log().contains(PASSWORD));
}

#[test]
fn a_client_that_reads_slowly_holds_nobody_up() {
    let published = Published::start(&["--stdio-buffer", "1MiB"], &[]);
    let mut client = published.client();
    client.initialize();
    // Answers that nobody reads, far more than is held of them.
    let unread: Vec<_> = (0..8).map(|_| client.stream("big", json!({"bytes": 900_000}))).collect();
    for n in 0..20 {
        assert_eq!(client.result("echo", json!({"n": n}))["n"], n);
    }
    drop(unread);
    let _gone: Vec<_> = (0..8).map(|_| drop(client.stream("big", json!({"bytes": 900_000})))).collect();
    assert_eq!(client.result("echo", json!({"n": 1}))["n"], 1);
    let used = usage(published.proxy.pid());
    assert!(used.memory < 40 << 20, "{used:?}");
}

#[test]
fn a_batch_of_millions_and_a_queue_of_thousands_cost_little() {
    let scratch = Scratch::new();
    let delay = scratch.path("delay");
    let mut published = Published::start(&[], &[("CHILD_DELAY_FILE", &delay), ("CHILD_VERSION", "2025-03-26")]);
    let mut client = published.client();
    client.version = "2025-03-26";
    client.initialize();
    let before = usage(published.proxy.pid());
    for digits in [format!("[{}1]", "1,".repeat((16 << 19) - 2)), format!("[{}", "1,".repeat((16 << 19) - 2))] {
        let reply = client.post(&digits);
        assert_eq!((reply.status, reply.json()["error"]["code"].as_i64()), (400, Some(-32600)));
        assert!(reply.text().contains("at most 1024 messages"), "{}", reply.text());
    }
    let after = usage(published.proxy.pid());
    // The body itself, its text, and that on one line.
    assert!(after.peak < before.peak + (100 << 20), "{before:?} {after:?}");
    // A child that is being started: what waits for it is neither lost nor counted again for each.
    let session = client.session.clone();
    std::fs::write(&delay, "2").unwrap();
    published = published.restart("TERM");
    let mut client = published.client();
    (client.version, client.session) = ("2025-03-26", session);
    let note = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    let batch = format!("[{}]", vec![note; 1_000].join(","));
    std::thread::scope(|scope| {
        let client = &client;
        (0..40).for_each(|_| {
            scope.spawn(|| assert_eq!(client.post(&batch).status, 202, "{}", client.proxy.log()));
        });
    });
    let lines = client.result("history", json!({}))["lines"].to_string();
    assert_eq!(lines.matches("roots/list_changed").count(), 40_000);
}
