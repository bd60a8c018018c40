//! What the two ports do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mcp_auth_proxy::net::tls::{anyone, unverified_config};
use mcp_auth_proxy::tls::ACME_TLS;
use rustls::{ClientConfig, HandshakeKind};

use super::{HOST, METADATA, with_files};
use crate::support::eventually;
use crate::support::flow::{Client, call};
use crate::support::proxy::command;
use crate::support::tls::Authority;
use crate::support::tls_client::{ask, connect, connect_with, ends_cleanly, over};
use crate::support::upstream::{FakeUpstream, text};
use crate::support::wire::{Connection, Transport, request};

fn client(change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
    let mut config = (*unverified_config().unwrap()).clone();
    change(&mut config);
    Arc::new(config)
}

#[test]
fn a_client_is_authorized_and_served_over_tls() {
    let upstream = FakeUpstream::ok();
    let proxy = with_files(&Authority::new(), upstream.port, &[]);
    let metadata = proxy.send("GET", METADATA, &[], b"").json();
    assert_eq!(metadata["issuer"], format!("https://{HOST}"));
    let tokens = Client::public(&proxy).tokens();
    assert_eq!(call(&proxy, &tokens.access).text(), "ok");
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("https"));
    assert_eq!(call(&proxy, "forged").status, 401);
    let check = command().args(["healthcheck", "--data-path", &proxy.proxy.data.path("data")]).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn long_bodies_pass_both_ways() {
    let long = "0123456789abcdef".repeat(100_000);
    let expected = long.clone();
    let upstream = FakeUpstream::start(move |request, out| {
        let same = request.body == expected.as_bytes();
        text(out, "200 OK", "", &if same { expected.clone() } else { format!("{} bytes", request.body.len()) });
    });
    let proxy = with_files(&Authority::new(), upstream.port, &[]);
    let tokens = Client::public(&proxy).tokens();
    let bearer = format!("Bearer {}", tokens.access);
    let fields = [("Authorization", bearer.as_str())];
    let reply = proxy.send("POST", "/mcp", &fields, long.as_bytes());
    assert_eq!(
        (reply.status, reply.body.len()),
        (200, long.len()),
        "{}",
        reply.text().chars().take(99).collect::<String>()
    );

    // In pieces that are no records of their own, behind a request on the same connection.
    let mut connection = connect(proxy.port, HOST).unwrap();
    let bytes = [
        request("GET", METADATA, HOST, &[], b""),
        request("POST", "/mcp", HOST, &fields, long.as_bytes()),
        request("GET", METADATA, HOST, &[], b""),
    ]
    .concat();
    for piece in bytes.chunks(50_000) {
        connection.socket.write_all(piece).unwrap();
    }
    assert_eq!(connection.reply(false).unwrap().status, 200);
    assert_eq!(connection.reply(false).unwrap().body.len(), long.len());
    assert_eq!(connection.reply(false).unwrap().status, 200);
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_it() {
    let long = "x".repeat(8 << 20);
    let upstream = FakeUpstream::start(move |_, out| text(out, "200 OK", "", &long));
    let proxy = with_files(&Authority::new(), upstream.port, &[]);
    let bearer = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let mut connection = connect(proxy.port, HOST).unwrap();
    connection.socket.write_all(&request("GET", "/mcp", HOST, &[("Authorization", &bearer)], b"")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(connection.reply(false).unwrap().body.len(), 8 << 20);
}

#[test]
fn events_pass_one_by_one_and_a_client_that_leaves_is_noticed() {
    let gone = Arc::new(AtomicUsize::new(0));
    let counted = gone.clone();
    let upstream = FakeUpstream::start(move |_, out| {
        let _ =
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            let _ = out.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        // Nothing more comes, until the proxy goes away.
        if matches!(out.read(&mut [0]), Ok(0) | Err(_)) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let proxy = with_files(&Authority::new(), upstream.port, &[]);
    let bearer = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let mut connection = connect(proxy.port, HOST).unwrap();
    connection.socket.write_all(&request("GET", "/mcp", HOST, &[("Authorization", &bearer)], b"")).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    assert_eq!(connection.chunk().unwrap(), b"data: 1\n\n");
    assert_eq!(connection.chunk().unwrap(), b"data: 2\n\n");
    drop(connection);
    eventually("the upstream server learns that the client has gone", || gone.load(Ordering::SeqCst) == 1);
}

#[test]
fn sessions_are_resumed_in_either_version() {
    let proxy = with_files(&Authority::new(), 1, &[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(anyone())
            .with_no_client_auth();
        let config = Arc::new(config);
        let kind = || {
            let mut connection = connect_with(proxy.port, HOST, config.clone()).unwrap();
            connection.socket.write_all(&request("GET", METADATA, HOST, &[], b"")).unwrap();
            assert_eq!(connection.reply(false).unwrap().status, 200);
            (connection.socket.conn.handshake_kind(), connection.socket.conn.protocol_version())
        };
        assert_eq!(kind(), (Some(HandshakeKind::Full), Some(version.version)));
        assert_eq!(kind(), (Some(HandshakeKind::Resumed), Some(version.version)));
    }
}

#[test]
fn only_http_1_is_agreed_on_and_a_challenge_that_is_not_open_gets_no_handshake() {
    let proxy = with_files(&Authority::new(), 1, &[]);
    let offer = |protocols: &[&[u8]]| {
        let config = client(|c| c.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect());
        connect_with(proxy.port, HOST, config).map(|c| c.socket.conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(offer(&[b"h2", b"http/1.1"]).unwrap().as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(offer(&[]).unwrap(), None);
    assert!(offer(&[b"h2"]).is_err());
    assert!(offer(&[ACME_TLS]).is_err());
    assert!(offer(&[b"http/1.1", ACME_TLS]).is_err());
    assert_eq!(proxy.send("GET", METADATA, &[], b"").status, 200);
}

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let proxy = with_files(&Authority::new(), 1, &[]);
    let mut connection = Connection::open(proxy.port);
    connection.write(request("GET", METADATA, HOST, &[], b""));
    let reply = connection.reply(false).unwrap();
    assert!(reply.status == 400 && reply.text().contains("https://"), "{reply:?}");
    assert!(connection.is_closed());
}

#[test]
fn the_plain_port_sends_everybody_to_the_external_url_and_nowhere_else() {
    let proxy = with_files(&Authority::new(), 1, &[]);
    let plain = proxy.proxy.port;
    for (method, target, host, location) in [
        ("GET", "/mcp?a=b", HOST, "https://mcp.example.com/mcp?a=b"),
        ("GET", "/", "evil.example", "https://mcp.example.com/"),
        ("POST", "/.idp/token", "127.0.0.1", "https://mcp.example.com/.idp/token"),
        ("GET", "//evil.example/x", HOST, "https://mcp.example.com//evil.example/x"),
        ("GET", "/.well-known/acme-challenge", HOST, "https://mcp.example.com/.well-known/acme-challenge"),
        ("OPTIONS", "*", HOST, "https://mcp.example.com/"),
    ] {
        let mut connection = Connection::open(plain);
        connection.write(request(method, target, host, &[], b""));
        let reply = connection.reply(false).unwrap();
        assert_eq!((reply.status, reply.header("location")), (308, Some(location)), "{method} {target}");
        assert_eq!(reply.header("strict-transport-security"), None);
    }
    for (method, token, status) in [("GET", "x", 404), ("GET", "", 404), ("GET", "../secret", 404), ("POST", "x", 405)]
    {
        let mut connection = Connection::open(plain);
        connection.write(request(method, &format!("/.well-known/acme-challenge/{token}"), HOST, &[], b""));
        assert_eq!(connection.reply(false).unwrap().status, status, "{method} {token}");
    }
}

#[test]
fn handshakes_that_do_not_come_to_an_end_hold_nothing_up_and_are_ended() {
    let proxy =
        with_files(&Authority::new(), 1, &["--handshake-timeout", "2s", "--max-connections-per-address", "400"]);
    // The beginning of a ClientHello, and nothing at all.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut stuck: Vec<TcpStream> = Vec::new();
    for i in 0..300 {
        let mut socket = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        if i % 2 == 0 {
            socket.write_all(&hello).unwrap();
        }
        stuck.push(socket);
    }
    let threads = std::fs::read_dir(format!("/proc/{}/task", proxy.proxy.pid())).unwrap().count();
    assert!(threads < 40, "{threads} threads");
    assert_eq!(proxy.send("GET", METADATA, &[], b"").status, 200);
    for mut socket in stuck {
        socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        assert!(matches!(socket.read(&mut [0]), Ok(0) | Err(_)), "the connection is ended");
    }
}

#[test]
fn what_is_no_handshake_gets_an_alert_and_harms_nobody() {
    let proxy = with_files(&Authority::new(), 1, &[]);
    for bytes in [
        &[0x16, 3, 1, 0, 4, 1, 0, 0, 0][..],
        &[0x16, 3, 1, 0xff, 0xff],
        &[0x80, 0x2e, 1, 0, 2],
        &[0; 64],
        &[0x15, 3, 3, 0, 2, 2, 0],
    ] {
        let mut socket = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == 0x15, "{bytes:?} was answered with {answer:?}");
    }
    assert_eq!(proxy.send("GET", METADATA, &[], b"").status, 200);
}

#[test]
fn a_connection_ends_with_a_word_when_its_time_is_up() {
    let proxy = with_files(&Authority::new(), 1, &["--idle-timeout", "1s"]);
    let mut idle = connect(proxy.port, HOST).unwrap();
    assert!(ends_cleanly(&mut idle.socket));
    let mut last = connect(proxy.port, HOST).unwrap();
    last.socket.write_all(&request("GET", METADATA, HOST, &[("Connection", "close")], b"")).unwrap();
    assert_eq!(last.reply(false).unwrap().status, 200);
    assert!(ends_cleanly(&mut last.socket));
}

#[test]
fn new_keys_in_the_middle_of_a_connection_are_taken() {
    let proxy = with_files(&Authority::new(), 1, &[]);
    let mut connection = connect(proxy.port, HOST).unwrap();
    for _ in 0..3 {
        connection.socket.conn.refresh_traffic_keys().unwrap();
        connection.socket.write_all(&request("GET", METADATA, HOST, &[], b"")).unwrap();
        assert_eq!(connection.reply(false).unwrap().status, 200);
    }
}

#[test]
fn a_request_for_another_host_is_refused_whatever_name_the_handshake_had() {
    let proxy = with_files(&Authority::new(), 1, &[]);
    assert_eq!(ask(proxy.port, "evil.example", "GET", METADATA, &[], b"").unwrap().status, 421);
}

/// Sends requests without a pause, and reads the answers away, until told to stop.
fn ask_without_end(port: u16, stop: &AtomicBool) {
    let mut stream = connect(port, HOST).unwrap().socket;
    stream.sock.set_nonblocking(true).unwrap();
    // Sixteen of them fill one read.
    let filler = "x".repeat(256 - request("GET", METADATA, HOST, &[("X", "")], b"").len());
    let requests = request("GET", METADATA, HOST, &[("X", &filler)], b"").repeat(64);
    assert_eq!(requests.len(), 64 * 256);
    let mut waste = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        if !stream.conn.wants_write() {
            stream.conn.writer().write_all(&requests).unwrap();
        }
        let wrote = stream.conn.write_tls(&mut stream.sock);
        let read = stream.conn.read_tls(&mut stream.sock);
        if stream.conn.process_new_packets().is_err() || matches!(read, Ok(0)) {
            return;
        }
        while matches!(stream.conn.reader().read(&mut waste), Ok(1..)) {}
        if wrote.is_err() && read.is_err() {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
}

#[test]
fn clients_that_never_stop_asking_leave_the_others_their_turn() {
    let proxy = with_files(&Authority::new(), 1, &[]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| ask_without_end(proxy.port, &stop));
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        let answers: Vec<_> = (0..5).map(|_| ask(proxy.port, HOST, "GET", METADATA, &[], b"")).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(answers.iter().all(|a| a.as_ref().is_some_and(|a| a.status == 200)), "{answers:?}");
    });
}

#[test]
fn who_has_been_idle_the_longest_makes_room_for_a_newcomer_and_no_other_newcomer_does() {
    let proxy = with_files(&Authority::new(), 1, &["--max-connections", "20", "--handshake-timeout", "5s"]);
    let idle: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = connect(proxy.port, HOST).unwrap();
            connection.socket.write_all(&request("GET", METADATA, HOST, &[], b"")).unwrap();
            assert_eq!(connection.reply(false).unwrap().status, 200);
            connection
        })
        .collect();
    // They connect together, and take their time to begin.
    let mut newcomers: Vec<_> = (0..8).map(|_| TcpStream::connect(("127.0.0.1", proxy.port)).unwrap()).collect();
    std::thread::sleep(std::time::Duration::from_millis(200));
    for socket in newcomers.drain(..) {
        let mut connection = over(socket, HOST).expect("the newcomer was not cut off");
        connection.socket.write_all(&request("GET", METADATA, HOST, &[], b"")).unwrap();
        assert_eq!(connection.reply(false).unwrap().status, 200);
    }
    drop(idle);
}
