//! The access log, and what a request is called.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::flow::{Client, call};
use crate::support::proxy::{PASSWORD, Proxy, Scratch, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Transport, request};

struct Logged {
    proxy: Proxy,
    path: String,
}

impl Logged {
    fn start(upstream: &FakeUpstream, more: &[&str]) -> Logged {
        let data = std::sync::Arc::new(Scratch::new());
        let path = data.path("access.log");
        let args = [&["--access-log", &path, "--access-log-format", "json"], more].concat();
        Logged { proxy: Proxy::start_in(data, free_port(), upstream.port, &args), path }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The line of a request.
    fn line(&self, id: &str) -> Value {
        let mut found = None;
        eventually(&format!("the access log has {id}"), || {
            found = self.lines().into_iter().find(|line| line["request"] == id);
            found.is_some()
        });
        found.unwrap()
    }
}

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{"path":"s3cret.txt"},"_meta":{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}}"#;

#[test]
fn a_line_names_user_client_tool_and_how_it_went() {
    let upstream = FakeUpstream::ok();
    let logged = Logged::start(&upstream, &[]);
    let proxy = &logged.proxy;
    let client = Client::named(proxy, "Notes \u{202e}app");
    let tokens = client.tokens();
    let bearer = format!("Bearer {}", tokens.access);
    let reply = proxy.send("POST", "/mcp?key=in-the-query", &[("Authorization", &bearer)], CALL);
    let line = logged.line(reply.header("x-request-id").unwrap());
    assert_eq!(upstream.last().header("x-request-id"), reply.header("x-request-id"));
    let text = std::fs::read_to_string(&logged.path).unwrap();
    let text = text.lines().find(|text| text.contains("tools/call")).unwrap();
    let documented = include_str!("../../../docs/monitoring.md").split_once("## The audit log").unwrap().0;
    let documented: Vec<&str> =
        documented.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
    let places: Vec<_> = documented.iter().map(|name| text.find(&format!("\"{name}\":"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{documented:?} {text}");
    assert_eq!(line.as_object().unwrap().len(), documented.len());
    let expected = json!({
        "address": "127.0.0.1", "user": "password", "client": client.id, "client_name": "Notes \u{202e}app", "server": "",
        "method": "POST", "path": "/mcp", "mcp_method": "tools/call", "mcp_name": "read_file", "status": 200,
        "bytes": reply.body.len(), "is_stream": false, "is_whole": true, "trace": "4bf92f3577b34da6a3ce929d0e0e4736",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name}: {line}");
    }
    let times = ["duration_ms", "upstream_ms"].map(|name| line[name].as_f64().unwrap());
    assert!(times[0] >= times[1] && times[1] > 0.0, "{times:?}");
    // Nobody is named without a good token.
    let reply = proxy.send("POST", "/mcp", &[("Authorization", "Bearer x")], CALL);
    let line = logged.line(reply.header("x-request-id").unwrap());
    assert_eq!((&line["status"], &line["user"], &line["mcp_name"]), (&json!(401), &json!(""), &json!("")), "{line}");
    assert_eq!(line["upstream_ms"], Value::Null);
    let reply = proxy.send("HEAD", "/.well-known/oauth-authorization-server", &[], b"");
    let line = logged.line(reply.header("x-request-id").unwrap());
    assert_eq!((&line["status"], &line["bytes"], &line["is_whole"]), (&json!(200), &json!(0), &json!(true)), "{line}");
    // Of the whole way to the token and of the requests, no secret is in the file.
    let text = std::fs::read_to_string(&logged.path).unwrap();
    for secret in [PASSWORD, &tokens.access, &tokens.refresh, "s3cret", "in-the-query", "code=", "\u{202e}"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert!(text.contains("/.idp/token") && text.contains("/.auth/login"), "{text}");
}

#[test]
fn the_line_of_a_stream_is_written_when_it_ends() {
    let upstream = FakeUpstream::start(|_, out| {
        let _ = out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: hello\n\n");
        std::thread::sleep(std::time::Duration::from_secs(20));
    });
    let logged = Logged::start(&upstream, &[]);
    let token = format!("Bearer {}", Client::public(&logged.proxy).tokens().access);
    let before = logged.lines().len();
    let mut connection = logged.proxy.connect();
    connection.write(request("GET", "/mcp", &logged.proxy.host(), &[("Authorization", &token)], b""));
    assert!(connection.read_until(|b| b.windows(5).position(|w| w == b"hello").map(|at| at + 5)).is_some());
    let streams =
        || logged.lines().into_iter().skip(before).filter(|line| line["is_stream"] == true).collect::<Vec<_>>();
    assert!(streams().is_empty());
    drop(connection);
    eventually("the stream has a line", || !streams().is_empty());
    let line = &streams()[0];
    assert_eq!((&line["bytes"], &line["is_whole"], &line["user"]), (&json!(13), &json!(false), &json!("password")));
}

#[test]
fn a_renamed_file_is_left_on_sighup_and_the_last_lines_are_written_at_the_end() {
    let upstream = FakeUpstream::ok();
    let mut logged = Logged::start(&upstream, &[]);
    let first = logged.proxy.send("GET", "/mcp", &[], b"");
    logged.line(first.header("x-request-id").unwrap());
    std::fs::rename(&logged.path, format!("{}.1", logged.path)).unwrap();
    logged.proxy.signal("HUP");
    eventually("the file is there again", || std::path::Path::new(&logged.path).exists());
    let last = logged.proxy.send("GET", "/mcp", &[], b"");
    logged.proxy.signal("TERM");
    logged.proxy.wait();
    assert_eq!(logged.lines().last().unwrap()["request"], last.header("x-request-id").unwrap());
}

#[test]
fn only_a_trusted_proxy_names_requests() {
    let upstream = FakeUpstream::ok();
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    for (args, is_believed) in [(&[][..], false), (&["--trusted-proxies", "127.0.0.1"][..], true)] {
        let proxy = Proxy::start(upstream.port, args);
        let token = Client::public(&proxy).tokens().access;
        let bearer = format!("Bearer {token}");
        let reply = proxy.send(
            "POST",
            "/mcp",
            &[("Authorization", &bearer), ("X-Request-Id", id), ("X_Request_Id", "x")],
            b"{}",
        );
        assert_eq!(reply.header("x-request-id") == Some(id), is_believed);
        let passed = upstream.last();
        assert_eq!(passed.header("x-request-id"), reply.header("x-request-id"));
        assert!(passed.header("x_request_id").is_none(), "another spelling");
        for bad in ["", "a b", "<script>", &"x".repeat(37)] {
            let reply = proxy.send("GET", "/mcp", &[("X-Request-Id", bad)], b"");
            let named = reply.header("x-request-id").unwrap();
            assert!(named != bad && named.len() <= 36, "{named}");
        }
        assert_eq!(call(&proxy, &token).status, 200);
    }
}

#[test]
fn a_full_disk_is_told_once_hurts_no_request_and_heals() {
    let upstream = FakeUpstream::ok();
    let data = std::sync::Arc::new(Scratch::new());
    let path = data.path("access.log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let proxy = Proxy::start_in(data, free_port(), upstream.port, &["--access-log", &path]);
    let token = Client::public(&proxy).tokens().access;
    proxy.has_logged("--access-log (ACCESS_LOG) can't be written");
    assert_eq!(call(&proxy, &token).status, 200);
    std::fs::remove_file(&path).unwrap();
    eventually("lines are written again", || {
        assert_eq!(call(&proxy, &token).status, 200);
        std::fs::metadata(&path).is_ok_and(|file| file.len() > 0)
    });
    proxy.has_logged("--access-log (ACCESS_LOG) is written again");
    assert_eq!(proxy.log().matches("can't be written").count(), 1);
}
