//! How the upstream server is reached: sockets, certificates, connections that are used again.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::flow::Client;
use crate::support::proxy::{Proxy, Scratch, arguments, command, free_port};
use crate::support::tls::{self, head};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A proxy before `url`.
fn before(url: &str, args: &[&str]) -> Proxy {
    let (data, port) = (Arc::new(Scratch::new()), free_port());
    let mut command = command();
    command.args(arguments(&data, port)).args(args).arg(url);
    Proxy::spawn(command, port, data)
}

fn post(proxy: &Proxy, path: &str, body: &str) -> Reply {
    let token = format!("Bearer {}", Client::public(proxy).tokens().access);
    proxy.send("POST", path, &[("Authorization", &token), ("Content-Type", "application/json")], body.as_bytes())
}

#[test]
fn a_server_on_a_unix_socket() {
    let scratch = Scratch::new();
    let path = scratch.path("mcp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let seen = seen.clone();
            std::thread::spawn(move || {
                while let Some(head) = head(&mut socket) {
                    seen.lock().unwrap().push(head);
                    socket.write_all(OK).unwrap();
                }
            });
        }
    });
    for (url, target) in [(format!("unix:{path}"), "/mcp"), (format!("unix:{path}:/app"), "/app/mcp")] {
        let proxy = before(&url, &[]);
        for _ in 0..2 {
            assert_eq!(post(&proxy, "/mcp", "").text(), "ok", "{url}");
            let head = heads.lock().unwrap().pop().unwrap();
            assert!(head.starts_with(&format!("POST {target} HTTP/1.1\r\nhost: localhost\r\n")), "{head}");
        }
        proxy.has_logged(&url);
    }
}

#[test]
fn a_unix_socket_that_is_not_there_is_told() {
    let proxy = before("unix:/nowhere/mcp.sock", &[]);
    assert_eq!(post(&proxy, "/mcp", "").status, 502);
    proxy.has_logged("the upstream server can't be reached");
    for (url, message) in [
        ("unix:relative", "it must look like unix:/run/mcp.sock"),
        ("unix:", "it must look like unix:/run/mcp.sock"),
        ("unix:/a:b", "it must look like unix:/run/mcp.sock"),
        (&format!("unix:/{}", "x".repeat(120)), "at most 107 bytes"),
    ] {
        let output = command().args(["--password", "p", url]).stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(message), "{url}: {text}");
    }
}

#[test]
fn an_https_server_needs_a_certificate_that_is_trusted() {
    let (port, authority) = tls::server("localhost", OK.to_vec());
    let url = format!("https://localhost:{port}");
    let scratch = Scratch::new();
    let file = scratch.path("ca.pem");
    std::fs::write(&file, &authority).unwrap();

    let strict = before(&url, &[]);
    assert_eq!(post(&strict, "/mcp", "").status, 502);
    strict.has_logged("UnknownIssuer");

    let trusting = before(&url, &["--ca-file", &file]);
    for _ in 0..3 {
        assert_eq!(post(&trusting, "/mcp", "").text(), "ok");
    }
    assert!(!trusting.log().contains("skip-verify"));

    // A server's own, as `openssl req -x509` makes it: an authority's, says the certificate.
    let (own, certificate) = tls::self_signed("localhost", OK.to_vec());
    std::fs::write(&file, &certificate).unwrap();
    assert_eq!(post(&before(&format!("https://localhost:{own}"), &["--ca-file", &file]), "/mcp", "").text(), "ok");
    assert_eq!(post(&before(&format!("https://127.0.0.1:{own}"), &["--ca-file", &file]), "/mcp", "").status, 502);
    let (other, _) = tls::self_signed("localhost", OK.to_vec());
    assert_eq!(post(&before(&format!("https://localhost:{other}"), &["--ca-file", &file]), "/mcp", "").status, 502);
    std::fs::write(&file, &authority).unwrap();

    // The authority is the right one, the name is not.
    let elsewhere = before(&format!("https://127.0.0.1:{port}"), &["--ca-file", &file]);
    assert_eq!(post(&elsewhere, "/mcp", "").status, 502);
    elsewhere.has_logged("not valid for name");

    let careless = before(&url, &["--upstream-insecure-skip-verify"]);
    assert_eq!(post(&careless, "/mcp", "").text(), "ok");
    careless.has_logged("certificate is not checked");
}

#[test]
fn a_file_of_authorities_that_is_none_is_refused_at_the_start() {
    let scratch = Scratch::new();
    let (empty, broken) = (scratch.path("empty.pem"), scratch.path("broken.pem"));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    for (file, message) in
        [(empty.as_str(), "holds no certificate"), (&broken, "can't be read"), ("/nowhere", "can't be read")]
    {
        let data = scratch.path("data");
        let output = command()
            .args(["--password", "p", "--data-path", &data, "--listen", ":0", "--ca-file", file, "https://localhost:1"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && text.contains("--ca-file (CA_FILE)") && text.contains(message),
            "{file}: {text}"
        );
    }
}

/// A server that answers the first request on each connection, and hangs up on the second, which it has read.
fn forgetful() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            std::thread::spawn(move || {
                for answers in [true, false] {
                    let Some(head) = head(&mut socket) else { return };
                    let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
                    let mut body = vec![0; length.map_or(0, |l| l.parse().unwrap())];
                    socket.read_exact(&mut body).unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                    if answers {
                        socket.write_all(OK).unwrap();
                    }
                }
            });
        }
    });
    (port, requests)
}

#[test]
fn a_request_that_may_be_repeated_is_sent_again_once_and_no_other_is() {
    for (method, body, again) in [
        ("POST", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, true),
        ("POST", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}"#, false),
        ("POST", r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call"}]"#, false),
        ("POST", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, false),
        ("GET", "", true),
        ("DELETE", "", true),
        ("PATCH", "", false),
    ] {
        let (port, requests) = forgetful();
        let proxy = Proxy::start(port, &[]);
        let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
        let send =
            |method: &str, body: &str| proxy.send(method, "/mcp", &[("Authorization", &token)], body.as_bytes()).status;
        assert_eq!(send("GET", ""), 200);
        let expected = if again { (200, 3) } else { (502, 2) };
        assert_eq!((send(method, body), requests.load(Ordering::SeqCst)), expected, "{method} {body}");
    }
}

#[test]
fn a_request_on_a_new_connection_is_never_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            head(&mut socket);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let proxy = Proxy::start(port, &[]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    assert_eq!(proxy.send("GET", "/mcp", &[("Authorization", &token)], b"").status, 502);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[test]
fn broken_answers_are_refused_and_never_read_as_another_requests() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
    ] {
        let upstream = FakeUpstream::start(move |_, out| drop(out.write_all(answer)));
        let proxy = Proxy::start(upstream.port, &[]);
        assert_eq!(post(&proxy, "/mcp", "{}").status, 502, "{}", String::from_utf8_lossy(answer));
    }
    // What follows an answer belongs to nobody.
    let upstream = FakeUpstream::start(|_, out| {
        drop(out.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
        ));
    });
    let proxy = Proxy::start(upstream.port, &[]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    for _ in 0..5 {
        assert_eq!(proxy.send("POST", "/mcp", &[("Authorization", &token)], b"{}").text(), "ok");
    }
}
