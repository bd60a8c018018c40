//! The monitoring port, and the health check on the main one.

use crate::support::eventually;
use crate::support::flow::Client;
use crate::support::proxy::{Proxy, command, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Connection, Reply, Transport, request};

fn ask(port: u16, method: &str, path: &str, host: &str) -> Reply {
    let mut connection = Connection::open(port);
    connection.write(request(method, path, host, &[], b""));
    connection.reply(method == "HEAD").unwrap()
}

fn start(upstream: u16) -> (Proxy, u16) {
    let port = free_port();
    (Proxy::start(upstream, &["--metrics-listen", &format!(":{port}")]), port)
}

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file"}}"#;

#[test]
fn requests_are_counted_for_the_operator_alone() {
    let upstream = FakeUpstream::ok();
    let (proxy, port) = start(upstream.port);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    assert_eq!(proxy.send("POST", "/mcp", &[("Authorization", &token)], CALL).status, 200);
    assert_eq!(proxy.send("POST", "/mcp", &[], CALL).status, 401);
    let metrics = || ask(port, "GET", "/metrics", "localhost").text();
    let has = |line: &str| eventually(line, || metrics().lines().any(|own| own == line));
    has(r#"mcp_auth_proxy_requests_total{server="",method="tools/call",code="2xx"} 1"#);
    has(r#"mcp_auth_proxy_requests_total{server="",method="none",code="4xx"} 1"#);
    has(r#"mcp_auth_proxy_request_duration_seconds_count{server="",method_class="tools",code="2xx"} 1"#);
    has("mcp_auth_proxy_requests_in_flight 0");
    has(r#"mcp_auth_proxy_server_up{server=""} 1"#);
    let reply = ask(port, "GET", "/metrics", "127.0.0.1");
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text"), "{:?}", reply.headers);
    assert!(reply.text().ends_with("# EOF\n") && !reply.text().contains("certificate"), "{}", reply.text());
    // Not on the port for everybody, and nothing of a stranger's choice in a label.
    assert_eq!(proxy.send("GET", "/metrics", &[], b"").status, 401);
    proxy.send("POST", "/<script>", &[("Mcp-Method", "<script>")], b"");
    assert!(!metrics().contains("script"));
    assert_eq!(ask(port, "GET", "/metrics", "evil.example").status, 421, "a browser that DNS has deceived");
    assert_eq!(ask(port, "POST", "/metrics", "localhost").status, 405);
    assert_eq!(ask(port, "GET", "/mcp", "localhost").status, 404);
}

#[test]
fn ready_means_that_the_server_behind_answers() {
    let (proxy, port) = {
        let upstream = FakeUpstream::ok();
        let (proxy, port) = start(upstream.port);
        let ready = ask(port, "GET", "/readyz", "localhost");
        assert_eq!((ready.status, ready.json()["is_ready"].as_bool()), (200, Some(true)), "{}", ready.text());
        assert_eq!(ready.json()["store"], true);
        (proxy, port)
    };
    // Nobody listens there any more: the next request finds out.
    let (away, token) = (free_port(), Client::public(&proxy).tokens().access);
    let proxy = proxy.crash_and_restart(away, &["--metrics-listen", &format!(":{port}")]);
    let bearer = format!("Bearer {token}");
    assert_eq!(proxy.send("POST", "/mcp", &[("Authorization", &bearer)], CALL).status, 502);
    let ready = ask(port, "GET", "/readyz", "localhost");
    assert_eq!((ready.status, ready.json()["servers"][0]["is_up"].as_bool()), (503, Some(false)), "{}", ready.text());
    assert_eq!(ask(port, "GET", "/healthz", "localhost").status, 200, "the process itself is well");
    // The commands know the same.
    let status = proxy.order(&["status"]).unwrap();
    assert_eq!(status["health"], ready.json());
    let check = |more: &[&str]| {
        let data = proxy.data.path("data");
        let done = command().args(["healthcheck", "--data-path", &data]).args(more).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, said) = check(&["--ready"]);
    assert!(check(&[]).0 == Some(0) && code == Some(1) && said.contains("not ready"), "{said}");
    // A balancer asks by address.
    assert_eq!(ask(proxy.port, "GET", "/.idp/healthz", "10.1.2.3:8080").status, 200);
    assert_eq!(ask(proxy.port, "HEAD", "/.idp/healthz", "10.1.2.3:8080").status, 200);
    assert_eq!(ask(proxy.port, "POST", "/.idp/healthz", "10.1.2.3:8080").status, 421);
}

#[test]
fn a_trace_is_passed_on_from_the_field_or_the_message() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let trace = |name: &str| format!("00-{name:0>32}-00f067aa0ba902b7-01");
    let message = |meta: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","_meta":{meta}}}}}"#)
    };
    let of_message = message(&format!(r#"{{"traceparent":"{}"}}"#, trace("a")));
    let seen = |headers: &[(&str, &str)], body: &str| {
        let headers = [&[("Authorization", token.as_str())], headers].concat();
        assert_eq!(proxy.send("POST", "/mcp", &headers, body.as_bytes()).status, 200);
        let received = upstream.last();
        assert_eq!(received.body, body.as_bytes(), "the message itself is as it was");
        received.header("traceparent").map(String::from)
    };
    assert_eq!(seen(&[], &of_message), Some(trace("a")));
    assert_eq!(seen(&[("traceparent", &trace("b"))], &of_message), Some(trace("b")), "the field comes first");
    assert_eq!(seen(&[], &message("{}")), None);
    for bad in [r#""x\r\nEvil: 1""#, "1", "null", r#"["a"]"#, r#""00-00-00-00""#] {
        assert_eq!(seen(&[], &message(&format!(r#"{{"traceparent":{bad}}}"#))), None, "{bad}");
    }
}
