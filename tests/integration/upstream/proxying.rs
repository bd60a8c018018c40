//! What passes between client and upstream server, and what happens when one of them fails.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::flow::{Client, call};
use crate::support::proxy::Proxy;
use crate::support::upstream::{FakeUpstream, text};
use crate::support::wire::{Reply, Transport, request};
use crate::support::{PATIENCE, eventually};

/// A proxy with a token for it.
fn signed_in(upstream: u16, args: &[&str]) -> (Proxy, String) {
    let proxy = Proxy::start(upstream, args);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    (proxy, token)
}

fn post(proxy: &Proxy, token: &str, path: &str, body: &[u8]) -> Reply {
    proxy.send("POST", path, &[("Authorization", token), ("Content-Type", "application/json")], body)
}

const PING: &[u8] = br#"{"jsonrpc":"2.0","id":"a\u0062","method":"ping"}"#;

#[test]
fn the_upstream_server_sees_who_asks_and_nothing_that_was_forged() {
    let upstream = FakeUpstream::ok();
    let (proxy, token) =
        signed_in(upstream.port, &["--proxy-bearer-token", "inner", "--proxy-headers", r"X-Key:a\,b,X-Other:c"]);
    let forged = [
        ("Authorization", token.as_str()),
        ("Cookie", "a=b"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X_Forwarded_User", "root"),
        ("X-Forwarded-User", "root"),
        ("X-Auth-Request-User", "root"),
        ("X-Real-IP", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Original-URL", "/admin"),
        ("X-Key", "forged"),
        ("Connection", "x-hop"),
        ("X-Hop", "1"),
        ("Mcp-Session-Id", "s"),
        ("Accept-Encoding", "br"),
        ("User-Agent", "u"),
    ];
    assert_eq!(proxy.send("POST", "/mcp?q=1", &forged, b"{}").status, 200);
    let seen = upstream.last();
    let mut names: Vec<(&str, &str)> = seen.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    names.retain(|(n, _)| !matches!(*n, "x-forwarded-client" | "x-request-id"));
    names.sort();
    let (host, port) = (format!("127.0.0.1:{}", upstream.port), proxy.port.to_string());
    let public = format!("localhost:{port}");
    assert_eq!(
        names,
        [
            ("accept-encoding", "br"),
            ("authorization", "Bearer inner"),
            ("content-length", "2"),
            ("host", &host),
            ("mcp-session-id", "s"),
            ("user-agent", "u"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", &public),
            ("x-forwarded-port", &port),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-user", "password"),
            ("x-key", "a,b"),
            ("x-other", "c"),
        ]
    );
    assert_eq!(seen.target, "/mcp?q=1");
}

#[test]
fn a_trusted_proxy_is_believed_and_only_as_far_as_it_knows() {
    let upstream = FakeUpstream::ok();
    let (proxy, token) = signed_in(upstream.port, &["--trusted-proxies", "127.0.0.0/8,10.0.0.0/8"]);
    proxy.send("GET", "/mcp", &[("Authorization", &token), ("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 10.0.0.9")], b"");
    assert_eq!(upstream.last().header("x-forwarded-for"), Some("192.0.2.1, 10.0.0.9, 127.0.0.1"));
    proxy.has_logged("192.0.2.1");
    assert!(!proxy.log().contains("6.6.6.6"));
}

#[test]
fn bodies_of_every_method_framing_and_size_arrive_whole() {
    let upstream = FakeUpstream::ok();
    let (proxy, token) = signed_in(upstream.port, &[]);
    for size in [0, 1, 65_535, 65_536, 65_537, 1 << 20] {
        let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        for method in ["POST", "PUT", "DELETE", "GET"] {
            let reply = proxy.send(method, "/mcp", &[("Authorization", &token)], &body);
            assert_eq!(
                (reply.status, upstream.last().method.as_str(), upstream.last().body.len()),
                (200, method, size),
                "{method} {size}"
            );
            assert!(upstream.last().body == body);
        }
        let mut connection = proxy.connect();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\nTransfer-Encoding: chunked\r\n\r\n",
            proxy.host()
        );
        let chunks: Vec<u8> =
            body.chunks(10_000).flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat()).collect();
        connection.write([head.as_bytes(), &chunks, b"0\r\n\r\n"].concat());
        assert_eq!(connection.reply(false).unwrap().status, 200);
        assert!(upstream.last().body == body, "chunked {size}");
    }
}

#[test]
fn answers_pass_as_they_are_but_for_what_is_the_proxys() {
    let upstream = FakeUpstream::start(|received, out| match received.target.as_str() {
        "/chunked" => {
            drop(out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
        }
        "/empty" => drop(out.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")),
        "/none" => drop(out.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")),
        "/close" => {
            let _ = out.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end");
            let _ = out.shutdown(Shutdown::Both);
        }
        _ => text(
            out,
            "418 I'm a teapot",
            "Set-Cookie: a=b\r\nAccess-Control-Allow-Origin: *\r\nWWW-Authenticate: Basic\r\nX-Kept: 1\r\nMcp-Session-Id: s\r\nContent-Encoding: gzip\r\n",
            "not really gzip",
        ),
    });
    let (proxy, token) = signed_in(upstream.port, &[]);
    let get = |path: &str| proxy.send("GET", path, &[("Authorization", &token)], b"");
    assert_eq!((get("/chunked").text().as_str(), get("/close").text().as_str()), ("abc", "until the end"));
    assert_eq!((get("/empty").status, get("/none").status), (202, 204));
    let reply = get("/x");
    assert_eq!((reply.status, reply.text().as_str()), (418, "not really gzip"));
    for (name, value) in [
        ("x-kept", Some("1")),
        ("mcp-session-id", Some("s")),
        ("content-encoding", Some("gzip")),
        ("set-cookie", None),
        ("www-authenticate", None),
        ("access-control-allow-origin", None),
    ] {
        assert_eq!(reply.header(name), value, "{name}");
    }
    let head = proxy.send("HEAD", "/x", &[("Authorization", &token)], b"");
    assert_eq!(head.header("content-length"), Some("15"));
}

#[test]
fn the_upstream_path_is_a_prefix() {
    let upstream = FakeUpstream::ok();
    let (scratch, port) = (Arc::new(crate::support::proxy::Scratch::new()), crate::support::proxy::free_port());
    let mut command = crate::support::proxy::command();
    command
        .args(crate::support::proxy::arguments(&scratch, port))
        .arg(format!("http://127.0.0.1:{}/base/mcp", upstream.port));
    let proxy = Proxy::spawn(command, port, scratch);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    for (path, target) in [
        ("/", "/base/mcp"),
        ("/?a=b", "/base/mcp?a=b"),
        ("/x", "/base/mcp/x"),
        ("/mcp", "/base/mcp"),
        ("/mcp?a=b", "/base/mcp?a=b"),
    ] {
        assert_eq!(post(&proxy, &token, path, b"{}").status, 200);
        assert_eq!(upstream.last().target, target);
    }
    proxy.has_logged(&format!("MCP clients: http://localhost:{port}/mcp\""));
}

#[test]
fn redirects_on_the_same_host_are_followed_with_the_body_and_remembered() {
    let upstream = FakeUpstream::start(|received, out| {
        let port = received.header("host").unwrap().split(':').nth(1).unwrap().to_string();
        match received.target.as_str() {
            "/mcp" => text(out, "307 Temporary Redirect", &format!("Location: http://127.0.0.1:{port}/mcp/\r\n"), ""),
            "/moved" => text(out, "308 Permanent Redirect", "Location: /mcp/\r\n", ""),
            "/loop" => text(out, "307 Temporary Redirect", "Location: /loop2\r\n", ""),
            "/loop2" => text(out, "307 Temporary Redirect", "Location: /loop\r\n", ""),
            "/elsewhere" => text(out, "307 Temporary Redirect", "Location: http://127.0.0.1:9/stolen\r\n", ""),
            "/see-other" => text(out, "303 See Other", &format!("Location: http://127.0.0.1:{port}/mcp/\r\n"), ""),
            _ => text(out, "200 OK", "", &String::from_utf8_lossy(&received.body)),
        }
    });
    let (proxy, token) = signed_in(upstream.port, &[]);
    for path in ["/mcp", "/moved", "/mcp"] {
        let reply = post(&proxy, &token, path, b"the body");
        assert_eq!((reply.status, reply.text().as_str()), (200, "the body"), "{path}");
    }
    assert_eq!(
        upstream.received().iter().filter(|r| r.target == "/mcp").count(),
        1,
        "the second time it goes straight there"
    );
    assert_eq!(post(&proxy, &token, "/loop", b"x").status, 502);
    let away = post(&proxy, &token, "/elsewhere", b"x");
    assert_eq!((away.status, away.header("location")), (307, Some("http://127.0.0.1:9/stolen")));
    let other = post(&proxy, &token, "/see-other", b"x");
    assert_eq!((other.status, other.header("location")), (303, Some("/mcp/")));
    // Too large to be held: the client gets the redirect, with a place that it can reach.
    let fresh = Proxy::start(upstream.port, &[]);
    let token = format!("Bearer {}", Client::public(&fresh).tokens().access);
    let large = post(&fresh, &token, "/mcp", &vec![b'x'; 200_000]);
    assert_eq!((large.status, large.header("location")), (307, Some("/mcp/")));
}

#[test]
fn an_upstream_401_becomes_a_502_that_names_the_way_out() {
    let upstream = FakeUpstream::start(|_, out| text(out, "401 Unauthorized", "WWW-Authenticate: Bearer\r\n", "no"));
    let (proxy, token) = signed_in(upstream.port, &[]);
    let reply = post(&proxy, &token, "/mcp", PING);
    assert_eq!((reply.status, reply.header("www-authenticate")), (502, None));
    assert_eq!(
        reply.text().split("\"error\"").next(),
        Some(r#"{"jsonrpc":"2.0","id":"a\u0062","#),
        "the id is echoed as it was written"
    );
    proxy.has_logged("--proxy-bearer-token");
}

#[test]
fn an_upstream_that_is_down_slow_or_broken_is_told_apart() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (proxy, token) = signed_in(dead, &[]);
    let reply = post(&proxy, &token, "/mcp", PING);
    assert_eq!(reply.status, 502);
    assert_eq!(reply.json()["error"]["code"], -32603);
    assert_eq!(post(&proxy, &token, "/mcp", b"no json").header("content-type"), Some("text/plain; charset=utf-8"));
    proxy.has_logged("can't be reached");

    let upstream = FakeUpstream::start(|received, out| match received.target.as_str() {
        "/garbage" => drop(out.write_all(b"this is not HTTP\r\n\r\n")),
        "/close" => drop(out.shutdown(Shutdown::Both)),
        "/half" => {
            let _ = out.write_all(b"HTTP/1.1 200 OK\r\nContent-Le");
            let _ = out.shutdown(Shutdown::Both);
        }
        "/huge" => drop(out.write_all(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200_000)).as_bytes())),
        "/short" => {
            let _ = out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
            let _ = out.shutdown(Shutdown::Both);
        }
        "/silent" => std::thread::sleep(PATIENCE),
        _ => text(out, "200 OK", "", "fine"),
    });
    let (proxy, token) = signed_in(upstream.port, &["--upstream-response-timeout", "1s"]);
    for path in ["/garbage", "/close", "/half", "/huge"] {
        assert_eq!(post(&proxy, &token, path, PING).status, 502, "{path}");
    }
    let slow = post(&proxy, &token, "/silent", PING);
    assert_eq!((slow.status, slow.json()["id"].as_str()), (504, Some("ab")));
    let mut connection = proxy.connect();
    connection.write(request("GET", "/short", &proxy.host(), &[("Authorization", &token)], b""));
    assert!(connection.reply(false).is_none(), "a cut answer must not look whole");
    assert_eq!(post(&proxy, &token, "/fine", PING).status, 200);
}

#[test]
fn events_stream_one_by_one_as_they_come() {
    let (step, steps) = channel::<()>();
    let steps = Mutex::new(steps);
    let upstream = FakeUpstream::start(move |_, out| {
        let _ =
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for i in 0..3 {
            if steps.lock().unwrap().recv().is_err() {
                return;
            }
            let event = format!("data: {i}\n\n");
            let _ = out.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        }
        let _ = out.write_all(b"0\r\n\r\n");
    });
    let (proxy, token) = signed_in(upstream.port, &[]);
    for method in ["GET", "POST"] {
        let mut connection = proxy.connect();
        connection.write(request(
            method,
            "/mcp",
            &proxy.host(),
            &[("Authorization", &token), ("Accept", "text/event-stream")],
            b"",
        ));
        let head = connection.head().unwrap();
        assert_eq!(
            (head.status, head.header("x-accel-buffering")),
            (200, Some("no")),
            "the head does not wait for the first event"
        );
        for i in 0..3 {
            step.send(()).unwrap();
            assert_eq!(connection.chunk().unwrap(), format!("data: {i}\n\n").into_bytes());
        }
        assert_eq!(connection.chunk().unwrap(), b"");
    }
}

/// An upstream server that holds one kind of wait open and says when its connection ended.
fn holding(answer: &'static [u8]) -> (u16, std::sync::mpsc::Receiver<()>, std::sync::mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ((ended, on_end), (opened, on_open)) = (channel(), channel());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let (ended, opened) = (ended.clone(), opened.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 4_096];
                let n = socket.read(&mut buffer).unwrap_or(0);
                if n > 0 {
                    let _ = socket.write_all(answer);
                    let _ = opened.send(socket.try_clone().unwrap());
                    while matches!(socket.read(&mut buffer), Ok(1..)) {}
                    let _ = ended.send(());
                }
            });
        }
    });
    (port, on_end, on_open)
}

#[test]
fn a_client_that_goes_away_is_noticed_upstream_at_every_stage() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n",
    ] {
        let (port, on_end, on_open) = holding(answer);
        let (proxy, token) = signed_in(port, &[]);
        let mut connection = proxy.connect();
        connection.write(request("POST", "/mcp", &proxy.host(), &[("Authorization", &token)], PING));
        let _held = on_open.recv_timeout(PATIENCE).unwrap();
        drop(connection);
        on_end
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("not noticed after {:?}", String::from_utf8_lossy(answer)));
    }
}

#[test]
fn an_upstream_that_goes_away_within_a_stream_is_noticed_by_the_client() {
    let (port, _on_end, on_open) = holding(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
    );
    let (proxy, token) = signed_in(port, &[]);
    let mut connection = proxy.connect();
    connection.write(request("GET", "/sse", &proxy.host(), &[("Authorization", &token)], b""));
    connection.head().unwrap();
    assert_eq!(connection.chunk().unwrap(), b"data: 1\n\n");
    on_open.recv_timeout(PATIENCE).unwrap().shutdown(Shutdown::Both).unwrap();
    assert!(connection.chunk().is_none(), "the connection ends without the last chunk: the stream was cut");
    eventually("it is logged", || proxy.log().contains("broke off"));
}

#[test]
fn http_streaming_only_answers_405_to_a_get_for_events() {
    let upstream = FakeUpstream::ok();
    let (proxy, token) = signed_in(upstream.port, &["--http-streaming-only"]);
    let get = |accept: &str| proxy.send("GET", "/mcp", &[("Authorization", &token), ("Accept", accept)], b"").status;
    assert_eq!(
        (get("text/event-stream"), get("application/json, text/event-stream"), get("application/json")),
        (405, 405, 200)
    );
    assert_eq!(post(&proxy, &token, "/mcp", PING).status, 200);
    assert_eq!(
        proxy.send("GET", "/mcp", &[("Accept", "text/event-stream")], b"").status,
        401,
        "the challenge comes first"
    );
}

#[test]
fn requests_in_flight_are_bounded_for_each_user() {
    let (release, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = FakeUpstream::start(move |_, out| {
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        text(out, "200 OK", "", "done");
    });
    let (proxy, token) = signed_in(upstream.port, &["--max-requests-per-user", "2"]);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| post(&proxy, &token, "/mcp", PING).status)).collect();
        eventually("two are in flight", || upstream.received().len() == 2);
        let third = post(&proxy, &token, "/mcp", PING);
        assert_eq!((third.status, third.header("retry-after")), (429, Some("1")));
        release.send(()).unwrap();
        release.send(()).unwrap();
        assert!(threads.into_iter().all(|t| t.join().unwrap() == 200));
        release.send(()).unwrap();
        assert_eq!(post(&proxy, &token, "/mcp", PING).status, 200, "there is room again");
    });
}

#[test]
fn event_streams_are_bounded_apart_from_requests() {
    let upstream = FakeUpstream::start(|received, out| match received.method.as_str() {
        "GET" => {
            let _ = out
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
            std::thread::sleep(Duration::from_millis(1));
            while out.peek(&mut [0]).is_err() {}
        }
        _ => text(out, "200 OK", "", "ok"),
    });
    let (proxy, token) = signed_in(upstream.port, &["--max-streams", "2", "--max-requests-per-user", "1"]);
    let open = || {
        let mut connection = proxy.connect();
        connection.write(request("GET", "/mcp", &proxy.host(), &[("Authorization", &token)], b""));
        let status = connection.head().unwrap().status;
        (connection, status)
    };
    let held: Vec<_> = (0..2).map(|_| open()).collect();
    assert!(held.iter().all(|(_, status)| *status == 200));
    assert_eq!(open().1, 503);
    assert_eq!(post(&proxy, &token, "/mcp", PING).status, 200, "streams take nothing from requests");
    drop(held);
    eventually("there is room again", || open().1 == 200);
}

#[test]
fn pooled_connections_that_went_stale_lose_no_request() {
    // Each connection is good for one request and then closed, as servers do after a pause.
    let upstream = FakeUpstream::start(|_, out| {
        text(out, "200 OK", "", "ok");
        let _ = out.shutdown(Shutdown::Both);
    });
    let (proxy, token) = signed_in(upstream.port, &[]);
    for _ in 0..20 {
        assert_eq!(call(&proxy, token.strip_prefix("Bearer ").unwrap()).status, 200);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_redirect_of_one_request_is_not_anothers() {
    let upstream = FakeUpstream::start(|received, out| match (received.method.as_str(), received.target.as_str()) {
        ("GET", "/mcp") => text(out, "307 Temporary Redirect", "Location: /mcp/\r\n", ""),
        ("POST", "/personal") => text(out, "307 Temporary Redirect", "Location: /mcp?session=user1\r\n", ""),
        (_, target) => text(out, "200 OK", "", target),
    });
    let (proxy, token) = signed_in(upstream.port, &[]);
    assert_eq!(proxy.send("GET", "/mcp", &[("Authorization", &token)], b"").text(), "/mcp/");
    assert_eq!(post(&proxy, &token, "/mcp", b"x").text(), "/mcp", "another method");
    for _ in 0..2 {
        assert_eq!(post(&proxy, &token, "/personal", b"x").text(), "/mcp?session=user1");
    }
    assert_eq!(upstream.received().iter().filter(|r| r.target == "/personal").count(), 2, "asked anew each time");
}

#[test]
fn odd_framing_of_the_upstream_server_does_not_reach_the_client() {
    let upstream = FakeUpstream::start(|received, out| match received.target.as_str() {
        "/both" => drop(out.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )),
        "/switch" => drop(out.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")),
        _ => text(out, "200 OK", "", "ok"),
    });
    let (proxy, token) = signed_in(upstream.port, &[]);
    let both = post(&proxy, &token, "/both", b"x");
    assert!(both.status == 502 || both.text() == "hello", "{both:?}");
    assert_eq!(post(&proxy, &token, "/switch", b"x").status, 502);
    post(&proxy, &token, "/empty", b"");
    let empty = upstream.last();
    assert_eq!((empty.header("content-length"), empty.header("transfer-encoding")), (Some("0"), None));
}

#[test]
fn an_http_sse_server_works_with_a_path_in_its_url() {
    let upstream = FakeUpstream::start(|received, out| {
        let endpoint = match received.target.as_str() {
            "/app/sse" => "/app/messages?session=1",
            "/app/legacy" => "/post?session=1",
            _ => return text(out, "202 Accepted", "", ""),
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let event = format!("event: endpoint\ndata: {endpoint}\n\n");
        let _ = out.write_all(format!("{head}{:x}\r\n{event}\r\n", event.len()).as_bytes());
        while out.peek(&mut [0]).is_err() {}
    });
    let (scratch, port) = (Arc::new(crate::support::proxy::Scratch::new()), crate::support::proxy::free_port());
    let mut command = crate::support::proxy::command();
    command
        .args(crate::support::proxy::arguments(&scratch, port))
        .arg(format!("http://127.0.0.1:{}/app", upstream.port));
    let proxy = Proxy::spawn(command, port, scratch);
    let client = Client::public(&proxy);
    let mut refresh = client.tokens().refresh;
    for (stream, target) in [("/sse", "/app/messages?session=1"), ("/legacy", "/post?session=1")] {
        // A token for the stream's URL alone is enough, since messages go below it.
        let url = format!("{}{stream}", proxy.origin());
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str()), ("resource", &url)];
        let tokens = crate::support::flow::tokens(&client.token_request(&pairs));
        let token = format!("Bearer {}", tokens.access);
        refresh = tokens.refresh;
        let mut connection = proxy.connect();
        connection.write(request("GET", stream, &proxy.host(), &[("Authorization", &token)], b""));
        connection.head().unwrap();
        let event = String::from_utf8(connection.chunk().unwrap()).unwrap();
        let endpoint = event.split("data: ").nth(1).unwrap().trim();
        assert!(endpoint.starts_with(&format!("{stream}/")), "{endpoint}");
        assert_eq!(post(&proxy, &token, endpoint, PING).status, 202);
        assert_eq!(upstream.last().target, target);
        assert_eq!(post(&proxy, &token, "/messages?session=1", PING).status, 401);
        // The announced path alone is another one at the server, and only while the stream is open.
        for below in ["admin", "messages2", "messages/x", ".idp/token"] {
            post(&proxy, &token, &format!("{stream}/{below}"), PING);
            assert_eq!(upstream.last().target, format!("/app{stream}/{below}"));
        }
        drop(connection);
        eventually("the path is forgotten", || {
            post(&proxy, &token, endpoint, PING);
            upstream.last().target == format!("/app{endpoint}")
        });
    }
}

#[test]
fn an_answer_that_comes_before_the_end_of_the_body_reaches_the_client() {
    for closes in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let held = Arc::new(Mutex::new(Vec::new()));
        let keep = held.clone();
        std::thread::spawn(move || {
            for mut socket in listener.incoming().map_while(Result::ok) {
                let _ = socket.read(&mut [0; 4_096]);
                let _ = socket.write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n\r\nlarge");
                if !closes {
                    keep.lock().unwrap().push(socket);
                }
            }
        });
        let (proxy, token) = signed_in(port, &[]);
        for _ in 0..2 {
            let reply = post(&proxy, &token, "/mcp", &vec![b'x'; 12 << 20]);
            assert_eq!((reply.status, reply.text().as_str()), (413, "large"), "closes: {closes}");
        }
    }
}
