//! The HTTP layer over real sockets: what it serves, and what it refuses.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use mcp_auth_proxy::app::config::Config;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::http::server::bind;
use mcp_auth_proxy::http::{Handler, Listener, Request, Response, Server};
use mcp_auth_proxy::net::shutdown::Shutdown;

use crate::support::flow::Client;
use crate::support::proxy::Proxy;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Connection, Transport, request};

const PATH: &str = "/.well-known/jwks.json";

fn proxy(args: &[&str]) -> Proxy {
    Proxy::start(1, args)
}

fn get(proxy: &Proxy) -> Vec<u8> {
    request("GET", PATH, &proxy.host(), &[], b"")
}

/// Sends bytes on a connection of their own; the status, and whether the connection was closed after it.
fn status(proxy: &Proxy, bytes: impl AsRef<[u8]>) -> (u16, bool) {
    let mut connection = proxy.connect();
    connection.write(bytes);
    let reply = connection.reply(false).unwrap_or_else(|| panic!("no answer; {}", proxy.log()));
    // RFC 9112 section 9.6: the server waits a moment for the client to stop.
    connection.socket.shutdown(std::net::Shutdown::Write).unwrap();
    (reply.status, connection.is_closed())
}

#[test]
fn a_connection_carries_many_requests_and_pipelined_ones_are_answered_in_order() {
    let proxy = proxy(&[]);
    let mut connection = proxy.connect();
    for _ in 0..3 {
        connection.write(get(&proxy));
        assert_eq!(connection.reply(false).unwrap().status, 200);
    }
    let missing = request("GET", "/.well-known/nothing", &proxy.host(), &[], b"");
    let wrong = request("DELETE", "/.idp/token", &proxy.host(), &[], b"");
    connection.write([get(&proxy), missing, wrong, get(&proxy)].concat());
    let statuses: Vec<u16> = (0..4).map(|_| connection.reply(false).unwrap().status).collect();
    assert_eq!(statuses, [200, 404, 405, 200]);
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let proxy = proxy(&[]);
    let mut connection = proxy.connect();
    for byte in get(&proxy) {
        connection.write([byte]);
    }
    assert_eq!(connection.reply(false).unwrap().status, 200);
}

#[test]
fn head_has_the_head_of_get_and_no_body() {
    let proxy = proxy(&[]);
    let mut connection = proxy.connect();
    connection.write([request("HEAD", PATH, &proxy.host(), &[], b""), get(&proxy)].concat());
    let (head, body) = (connection.reply(true).unwrap(), connection.reply(false).unwrap());
    assert_eq!(head.header("content-length"), Some(body.body.len().to_string().as_str()));
}

#[test]
fn http_1_0_closes_unless_it_asks_otherwise() {
    let proxy = proxy(&[]);
    let mut connection = proxy.connect();
    connection.write(format!("GET {PATH} HTTP/1.0\r\n\r\n"));
    let reply = connection.reply(false).unwrap();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert!(connection.is_closed());

    let mut connection = proxy.connect();
    for _ in 0..2 {
        connection.write(format!("GET {PATH} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        let reply = connection.reply(false).unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("keep-alive")));
    }
}

#[test]
fn continue_is_sent_when_the_body_is_wanted_and_not_otherwise() {
    let proxy = proxy(&[]);
    let body = br#"{"redirect_uris":["https://a/cb"],"token_endpoint_auth_method":"none"}"#;
    let head = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            proxy.host(),
            body.len()
        )
    };
    let mut connection = proxy.connect();
    connection.write(head("/.idp/register"));
    assert_eq!(connection.reply(false).unwrap().status, 100);
    connection.write(body);
    assert_eq!(connection.reply(false).unwrap().status, 201);

    let mut connection = proxy.connect();
    connection.write(head("/mcp"));
    let reply = connection.reply(false).unwrap();
    assert_eq!((reply.status, reply.header("connection")), (401, Some("close")));
}

#[test]
fn chunked_bodies_are_read_and_what_follows_is_the_next_request() {
    let proxy = proxy(&[]);
    let mut connection = proxy.connect();
    let json = r#"{"redirect_uris":["https://a/cb"]}"#;
    let (a, b) = json.split_at(10);
    let body = format!("{:x}\r\n{a}\r\n{:X};ext=1\r\n{b}\r\n0\r\nTrailer: x\r\n\r\n", a.len(), b.len());
    let head = format!(
        "POST /.idp/register HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        proxy.host()
    );
    connection.write([head.into_bytes(), body.into_bytes(), get(&proxy)].concat());
    assert_eq!(connection.reply(false).unwrap().status, 201);
    assert_eq!(connection.reply(false).unwrap().status, 200);
}

#[test]
fn a_body_that_nobody_read_never_runs_as_a_request() {
    let proxy = proxy(&[]);
    let inner = get(&proxy);
    let mut connection = proxy.connect();
    connection.write([request("POST", "/mcp", &proxy.host(), &[], &inner), get(&proxy)].concat());
    assert_eq!(connection.reply(false).unwrap().status, 401);
    assert_eq!(connection.reply(false).unwrap().status, 200, "the request after the body");

    let head = format!("POST /mcp HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", proxy.host());
    let mut connection = proxy.connect();
    connection.write([head.as_bytes(), format!("{:x}\r\n", inner.len()).as_bytes(), &inner, b"\r\n0\r\n\r\n"].concat());
    assert_eq!(connection.reply(false).unwrap().status, 401);
    connection.write(get(&proxy));
    assert_eq!(connection.reply(false).unwrap().status, 200);

    // Too much to read away: the connection ends rather than being misread.
    let large = vec![b'x'; 200 << 10];
    let mut connection = proxy.connect();
    connection.write(request("POST", "/mcp", &proxy.host(), &[], &large));
    assert_eq!(connection.reply(false).unwrap().header("connection"), Some("close"));
}

#[test]
fn ambiguous_requests_get_400_and_the_connection_is_closed() {
    let proxy = proxy(&[]);
    let host = proxy.host();
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 70000000000000000000000\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "X: a\nY: b\r\n",
        "X: a\rY: b\r\n",
        "X: a\0b\r\n",
        "X: a\r\n folded\r\n",
        "Host: other\r\n",
    ] {
        let bytes = format!("POST {PATH} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n0\r\n\r\n");
        assert_eq!(status(&proxy, bytes), (400, true), "{fields:?}");
    }
    assert_eq!(status(&proxy, format!("GET {PATH} HTTP/1.1\r\n\r\n")), (400, true), "no Host");
    assert_eq!(status(&proxy, format!("GET {PATH} HTTP/2.0\r\nHost: {host}\r\n\r\n")), (505, true));
    assert_eq!(status(&proxy, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), (505, true));
    for chunks in ["x\r\n", "-1\r\n", "1\r\nab\r\n0\r\n\r\n", "1\n a\r\n", "ffffffffffffffff1\r\n"] {
        let bytes = format!(
            "POST /.idp/token HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        );
        assert_eq!(status(&proxy, bytes), (400, true), "{chunks:?}");
    }
}

#[test]
fn each_bound_has_its_status() {
    let proxy =
        proxy(&["--max-body-size", "1KiB", "--head-timeout", "1s", "--body-timeout", "1s", "--max-head-fields", "20"]);
    let host = proxy.host();
    let register = format!("POST /.idp/register HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
    let long = "x".repeat(20_000);
    assert_eq!(status(&proxy, format!("GET /{long} HTTP/1.1\r\nHost: {host}\r\n\r\n")).0, 431);
    assert_eq!(status(&proxy, format!("GET / HTTP/1.1\r\nHost: {host}\r\nX: {long}")).0, 431);
    let many = "X: y\r\n".repeat(21);
    assert_eq!(status(&proxy, format!("GET {PATH} HTTP/1.1\r\nHost: {host}\r\n{many}\r\n")).0, 431);
    assert_eq!(status(&proxy, format!("GET {PATH} HTTP/1.1\r\nHost:")).0, 408);
    assert_eq!(status(&proxy, format!("{register}Content-Length: 70000000000000\r\n\r\n")).0, 413);
    assert_eq!(status(&proxy, format!("{register}Content-Length: 10\r\n\r\nabc")).0, 408);
    let chunked = format!("{register}Transfer-Encoding: chunked\r\n\r\n800\r\n{}", "x".repeat(2_048));
    assert_eq!(status(&proxy, chunked).0, 413);
}

/// The proxy takes a moment after an answer before it counts the connection as idle.
fn goes_idle() {
    std::thread::sleep(Duration::from_millis(100));
}

#[test]
fn at_a_bound_the_connection_that_has_been_idle_the_longest_makes_room() {
    for bound in ["--max-connections-per-address", "--max-connections"] {
        let proxy = proxy(&[bound, "5"]);
        // The connection that looked for the start has gone then.
        goes_idle();
        let serve = |c: &mut Connection| {
            c.write(get(&proxy));
            let served = c.reply(false).is_some();
            goes_idle();
            served
        };
        let mut held: Vec<Connection> = (0..5).map(|_| proxy.connect()).collect();
        assert!(held.iter_mut().all(serve), "{bound}");
        assert!(serve(&mut held[0]), "now it is the second that has been idle the longest");
        let mut sixth = proxy.connect();
        assert!(serve(&mut sixth), "{bound}");
        assert!(held[1].is_closed(), "{bound}");
        for i in [0, 2, 3, 4] {
            assert!(serve(&mut held[i]), "{bound}: connection {i} was not its turn");
        }
    }
}

#[test]
fn a_connection_within_a_request_makes_room_only_when_none_is_idle() {
    let proxy = proxy(&["--max-connections", "3"]);
    goes_idle();
    let mut begun = proxy.connect();
    begun.write("GET / HTTP/1.1\r\n");
    let mut later = proxy.connect();
    later.write("GET / HTTP/1.1\r\n");
    goes_idle();
    for _ in 0..5 {
        // Each makes the one before it go.
        let mut idle = proxy.connect();
        idle.write(get(&proxy));
        assert_eq!(idle.reply(false).unwrap().status, 200);
        goes_idle();
        std::mem::forget(idle);
    }
    let rest = &get(&proxy)[get(&proxy).iter().position(|b| *b == b'\n').unwrap() + 1..];
    later.write(rest);
    assert!(later.reply(false).is_some());
    begun.write(rest);
    assert!(begun.reply(false).is_some());
}

#[test]
fn an_idle_connection_ends_in_time_and_without_a_word() {
    let proxy = proxy(&["--idle-timeout", "1s"]);
    let mut connection = proxy.connect();
    connection.write(get(&proxy));
    connection.reply(false).unwrap();
    assert!(connection.head().is_none(), "the connection is closed, and nothing is said");
}

#[test]
fn two_thousand_silent_and_half_read_clients_disturb_nobody() {
    let upstream =
        FakeUpstream::start(|_, out| crate::support::upstream::text(out, "200 OK", "", &"x".repeat(100_000)));
    let proxy = Proxy::start(upstream.port, &["--max-connections-per-address", "5000"]);
    let token = Client::public(&proxy).tokens().access;
    let authorization = format!("Bearer {token}");
    let silent: Vec<Connection> = (0..1_000).map(|_| proxy.connect()).collect();
    let half: Vec<Connection> = (0..1_000)
        .map(|_| {
            let mut c = proxy.connect();
            c.write("POST /mcp HTTP/1.1\r\nHos");
            c
        })
        .collect();
    for _ in 0..20 {
        let mut neighbour = proxy.connect();
        neighbour.write(request("POST", "/mcp", &proxy.host(), &[("Authorization", &authorization)], b"{}"));
        assert_eq!(neighbour.reply(false).unwrap().body.len(), 100_000);
    }
    drop((silent, half));
    assert_eq!(proxy.send("GET", PATH, &[], b"").status, 200);
}

#[test]
fn a_client_that_resets_at_any_moment_harms_nobody() {
    let proxy = proxy(&[]);
    let bytes = get(&proxy);
    for cut in 0..bytes.len() {
        let mut connection = proxy.connect();
        connection.write(&bytes[..cut]);
        // Unread bytes at the close make it a reset.
        drop(connection);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(proxy.send("GET", PATH, &[], b"").status, 200);
    assert!(!proxy.log().contains("fault of this program"), "{}", proxy.log());
}

#[test]
fn a_refusal_does_not_wait_for_a_body_that_nobody_wants() {
    let proxy = proxy(&["--body-timeout", "1h"]);
    for framing in ["Content-Length: 10", "Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut connection = proxy.connect();
        connection.write(format!("POST /mcp HTTP/1.1\r\nHost: {}\r\n{framing}\r\n\r\n", proxy.host()));
        assert_eq!(connection.reply(false).unwrap().status, 401, "{framing}");
    }
}

#[test]
fn a_large_body_does_not_cost_the_client_the_answer() {
    let proxy = proxy(&[]);
    let body = vec![b'x'; 12 << 20];
    let headers = [("Authorization", "Bearer expired"), ("Content-Type", "application/json")];
    let reply = proxy.send("POST", "/mcp", &headers, &body);
    assert!(reply.status == 401 && reply.header("www-authenticate").unwrap().contains("invalid_token"));
}

/// Answers `/panic` by failing.
struct Fragile;

impl Handler for Fragile {
    fn handle(&self, request: Request<'_>) -> Response {
        assert_ne!(request.parts.uri.path(), "/panic", "on purpose");
        Response::text(StatusCode::OK, "fine")
    }

    fn wants_body(&self, _: &Parts, _: IpAddr) -> bool {
        true
    }

    fn exempt(&self, _: IpAddr) -> bool {
        true
    }
}

#[test]
fn a_handler_that_panics_is_a_500_and_the_next_request_is_served() {
    let listener = bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let port = listener.local_addr().unwrap().port();
    let limits = Config::build(Settings::default()).unwrap().http;
    let server = Server::new(
        vec![Listener {
            socket: mcp_auth_proxy::http::server::ListeningSocket::own(listener),
            handler: Box::new(Fragile),
            tls: None,
        }],
        limits,
        Shutdown::new().unwrap(),
    )
    .unwrap();
    let (stopper, stop) = std::os::unix::net::UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || server.run(stop.as_fd(), Duration::from_secs(30)).unwrap());
    let mut connection = Connection::open(port);
    for (path, status) in [("/panic", 500), ("/", 200), ("/panic", 500)] {
        connection.write(request("GET", path, "localhost", &[], b""));
        assert_eq!(connection.reply(false).unwrap().status, status);
    }
    drop(stopper);
    thread.join().unwrap();
}
