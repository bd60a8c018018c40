//! Clients that want to do harm, against the real binary. While each does its worst, a neighbour must be served, and
//! memory, threads and descriptors must stay within bounds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::support::eventually;
use crate::support::flow::Client;
use crate::support::proxy::{Proxy, Scratch, arguments, command, free_port};
use crate::support::upstream::{FakeUpstream, text};
use crate::support::usage::{Usage, usage};
use crate::support::wire::{Connection, Transport, request};

const MIB: usize = 1 << 20;
const PATH: &str = "/.well-known/jwks.json";

/// A proxy under attack, with a neighbour who asks without pause.
struct Siege {
    proxy: Arc<Proxy>,
    token: String,
    upstream: FakeUpstream,
    over: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    neighbour: Option<std::thread::JoinHandle<()>>,
    before: Usage,
}

/// Lets this process open as many files as the system allows it to.
fn raise_own_limit(needed: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let got = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(got >= needed, "this test needs {needed} open files, and the limit is {got} (ulimit -Hn)");
}

impl Siege {
    fn lay(args: &[&str]) -> Siege {
        let large = "x".repeat(64 * MIB);
        let upstream = FakeUpstream::start(move |received, out| match received.target.as_str() {
            "/large" => text(out, "200 OK", "", &large),
            _ => text(out, "200 OK", "", "ok"),
        });
        let proxy = Arc::new(Proxy::start(upstream.port, args));
        let token = format!("Bearer {}", Client::public(&*proxy).tokens().access);
        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut connection = proxy.connect();
        let ping = request("POST", "/mcp", &proxy.host(), &[("Authorization", &token)], b"{}");
        let (end, count) = (over.clone(), answers.clone());
        let neighbour = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                connection.write(&ping);
                assert_eq!(connection.reply(false).expect("the neighbour is served").status, 200);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut siege = Siege { proxy, token, upstream, over, answers, neighbour: Some(neighbour), before: usage(1) };
        siege.neighbour_is_served();
        siege.before = usage(siege.proxy.pid());
        siege
    }

    /// Waits until the neighbour has had further answers.
    fn neighbour_is_served(&self) {
        let seen = self.answers.load(Ordering::SeqCst);
        eventually("the neighbour is served", || {
            assert!(!self.neighbour.as_ref().unwrap().is_finished(), "the neighbour was not served");
            self.answers.load(Ordering::SeqCst) > seen + 10
        });
    }

    /// The process has never used more than so much beyond what it used before.
    fn has_cost_at_most(&self, memory: usize, threads: usize) {
        let now = usage(self.proxy.pid());
        let grown = now.peak.saturating_sub(self.before.memory);
        assert!(grown <= memory, "{} KiB more than before: {now:?}", grown >> 10);
        assert!(now.threads <= self.before.threads + threads, "{now:?}, before {:?}", self.before);
    }

    /// The attack is over: what it took is given back.
    fn lift(mut self) {
        self.neighbour_is_served();
        let before = self.before;
        eventually("descriptors are given back", || usage(self.proxy.pid()).descriptors <= before.descriptors + 3);
        self.over.store(true, Ordering::SeqCst);
        self.neighbour.take().unwrap().join().unwrap();
        assert!(!self.proxy.log().contains("fault of this program"), "{}", self.proxy.log());
    }

    fn connect(&self) -> Connection {
        self.proxy.connect()
    }

    fn host(&self) -> String {
        self.proxy.host()
    }
}

/// Sends `piece` until the other side has had enough; what it answered.
fn send_without_end(mut connection: Connection, start: &str, piece: &[u8], most: usize) -> Option<u16> {
    connection.write(start);
    let mut sent = 0;
    connection.socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    while sent < most && connection.socket.write_all(piece).is_ok() {
        sent += piece.len();
    }
    connection.reply(false).map(|r| r.status)
}

#[test]
fn what_has_no_end_is_cut() {
    let siege = Siege::lay(&[]);
    let host = siege.host();
    let post = |fields: &str| {
        format!(
            "POST /.idp/token HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\n{fields}\r\n"
        )
    };
    let chunked = post("Transfer-Encoding: chunked\r\n");
    for (what, start, piece, status) in [
        ("request line", "GET /".into(), b"x".repeat(MIB), 431),
        ("field", format!("GET / HTTP/1.1\r\nHost: {host}\r\nX: "), b"x".repeat(MIB), 431),
        ("fields", format!("GET / HTTP/1.1\r\nHost: {host}\r\n"), b"A: b\r\n".repeat(100_000), 431),
        ("chunk extension", format!("{chunked}1;"), b"x".repeat(MIB), 400),
        ("trailer", format!("{chunked}0\r\nX: "), b"x".repeat(MIB), 400),
        ("trailers", format!("{chunked}0\r\n"), b"A: b\r\n".repeat(100_000), 400),
        ("chunk size", chunked.clone(), b"0".repeat(MIB), 400),
        ("empty lines", String::new(), b"\r\n".repeat(500_000), 400),
        ("chunks", chunked.clone(), b"1\r\nx\r\n".repeat(100_000), 413),
    ] {
        for _ in 0..3 {
            // The answer may be lost to a reset while the flood goes on.
            let answer = send_without_end(siege.connect(), &start, &piece, 64 * MIB);
            assert!(answer.is_none_or(|s| s == status), "{what}: {answer:?}");
        }
    }
    siege.has_cost_at_most(4 * MIB, 8);
    siege.lift();
}

#[test]
fn lengths_that_no_memory_has_are_refused_by_their_number() {
    let siege = Siege::lay(&[]);
    for (length, status) in [
        ("70000000000000", 413),
        ("18446744073709551615", 413),
        ("18446744073709551616", 400),
        ("99999999999999999999999999", 400),
    ] {
        for target in ["/.idp/token", "/.idp/register", "/mcp"] {
            let mut connection = siege.connect();
            connection.write(format!(
                "POST {target} HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nContent-Length: {length}\r\n\r\n",
                siege.host(),
                siege.token
            ));
            assert_eq!(connection.reply(false).unwrap().status, status, "{target} {length}");
        }
    }
    let mut connection = siege.connect();
    connection.write(format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        siege.host(),
        siege.token
    ));
    assert!(matches!(connection.reply(false).unwrap().status, 400 | 413));
    siege.has_cost_at_most(3 * MIB, 6);
    siege.lift();
}

#[test]
fn a_gibibyte_of_body_ends_at_the_limit() {
    let siege = Siege::lay(&["--max-body-size", "1MiB"]);
    let authorization = format!("Authorization: {}\r\n", siege.token);
    for fields in ["", authorization.as_str()] {
        for (framing, piece) in [
            ("Content-Length: 1073741824\r\n", vec![b'x'; MIB]),
            ("Transfer-Encoding: chunked\r\n", [b"100000\r\n".to_vec(), vec![b'x'; MIB], b"\r\n".to_vec()].concat()),
        ] {
            let start = format!("POST /mcp HTTP/1.1\r\nHost: {}\r\n{fields}{framing}\r\n", siege.host());
            let answer = send_without_end(siege.connect(), &start, &piece, 1 << 30);
            assert!(answer.is_none_or(|s| matches!(s, 401 | 413)), "{framing} {answer:?}");
        }
    }
    siege.has_cost_at_most(4 * MIB, 8);
    siege.lift();
}

#[test]
fn two_thousand_clients_of_each_slow_kind_cost_no_thread() {
    raise_own_limit(8_000);
    let siege = Siege::lay(&["--max-connections-per-address", "10000", "--head-timeout", "1h", "--body-timeout", "1h"]);
    let host = siege.host();
    let starts = [
        String::new(),
        format!("GET {PATH} HTTP/1.1\r\nHost: {host}\r\nX: "),
        format!("POST /.idp/register HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n{{"),
        format!("POST /.idp/register HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{"),
        format!(
            "POST /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: {}\r\nContent-Length: 1000\r\n\r\n{{",
            siege.token
        ),
    ];
    let mut held = Vec::new();
    for i in 0..2_000 {
        let mut connection = siege.connect();
        connection.write(&starts[i % starts.len()]);
        held.push(connection);
    }
    siege.neighbour_is_served();
    for connection in &mut held {
        // One byte at a time, as slow clients do.
        let _ = connection.socket.write_all(b"x");
    }
    siege.neighbour_is_served();
    siege.has_cost_at_most(16 * MIB, 8);
    drop(held);
    siege.lift();
}

/// Bodies that are announced and of which little comes, to endpoints that anybody may ask.
#[test]
fn a_waiting_body_costs_what_has_come_of_it_and_memory_is_given_back() {
    const COUNT: usize = 3_000;
    raise_own_limit(8_000);
    let siege = Siege::lay(&["--max-connections-per-address", "10000", "--body-timeout", "1h"]);
    let host = siege.host();
    let begin = |framing: &str, first: &str| {
        format!(
            "POST /.idp/token HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\n{framing}\r\n\r\n{first}"
        )
    };
    let starts = [
        begin("Content-Length: 65536", "x"),
        begin("Transfer-Encoding: chunked", "10000\r\nx"),
        begin("Content-Length: 30000", &"x".repeat(1_000)),
    ];
    let before = usage(siege.proxy.pid()).memory;
    let mut held: Vec<Connection> = (0..COUNT)
        .map(|i| {
            let mut connection = siege.connect();
            connection.write(&starts[i % starts.len()]);
            connection
        })
        .collect();
    for connection in &mut held {
        let _ = connection.socket.write_all(b"x");
    }
    siege.neighbour_is_served();
    let each = usage(siege.proxy.pid()).memory.saturating_sub(before) / COUNT;
    assert!(each < 8 << 10, "{each} bytes for each");
    drop(held);
    eventually("memory is given back", || usage(siege.proxy.pid()).memory.saturating_sub(before) < 8 * MIB);
    siege.lift();
}

/// All but the last byte of the longest body that is waited for: there is so much for all, and the others are told.
#[test]
fn bodies_that_are_nearly_there_take_so_much_together() {
    raise_own_limit(8_000);
    let siege = Siege::lay(&["--max-connections-per-address", "10000"]);
    let fields = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 65536";
    let nearly =
        format!("POST /.idp/token HTTP/1.1\r\nHost: {}\r\n{fields}\r\n\r\n{}", siege.host(), "x".repeat(65_535));
    let before = usage(siege.proxy.pid()).memory;
    let mut held: Vec<Connection> = (0..1_500)
        .map(|_| {
            let mut connection = siege.connect();
            let _ = connection.socket.write_all(nearly.as_bytes());
            connection
        })
        .collect();
    siege.neighbour_is_served();
    let together = usage(siege.proxy.pid()).memory.saturating_sub(before);
    assert!(together < 70 * MIB, "{together}");
    assert_eq!(held.last_mut().unwrap().reply(false).unwrap().status, 503);
    drop(held);
    siege.lift();
}

/// Uploads at a crawl, of more users than it would take to hold every place.
#[test]
fn slow_uploads_make_room_for_others() {
    let upstream = FakeUpstream::ok();
    let proxy =
        Proxy::start(upstream.port, &["--max-requests", "4", "--max-requests-per-user", "4", "--body-timeout", "2m"]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let upload = || {
        let mut connection = proxy.connect();
        connection.write(format!(
            "PUT /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\nContent-Length: 1000000\r\n\r\n{}",
            proxy.host(),
            "x".repeat(70_000)
        ));
        connection
    };
    let ask = || proxy.send("GET", "/mcp", &[("Authorization", &token)], b"").status;
    // One at a time, since a question takes a place, too, and an upload that finds none is refused.
    let mut held: Vec<Connection> = Vec::new();
    eventually("every place is taken", || {
        let is_taken = ask() == 429;
        if !is_taken {
            held.push(upload());
        }
        is_taken
    });
    // The places are given back when the clients have gone.
    drop(held);
    eventually("a place is free", || ask() == 200);
}

#[test]
fn two_thousand_answers_half_read_hold_no_thread() {
    raise_own_limit(8_000);
    let siege = Siege::lay(&["--max-connections-per-address", "10000"]);
    let mut held = Vec::new();
    for _ in 0..2_000 {
        let mut connection = siege.connect();
        connection.write(request("GET", PATH, &siege.host(), &[], b""));
        connection.socket.read_exact(&mut [0; 8]).unwrap();
        held.push(connection);
    }
    siege.has_cost_at_most(10 * MIB, 8);
    drop(held);
    siege.lift();
}

#[test]
fn a_hundred_thousand_pipelined_requests_whose_answers_nobody_reads() {
    let siege = Siege::lay(&[]);
    let one = request("GET", PATH, &siege.host(), &[], b"");
    let many = one.repeat(1_000);
    let floods: Vec<Connection> = (0..4)
        .map(|_| {
            let mut connection = siege.connect();
            connection.socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            for _ in 0..100 {
                // The proxy reads no further once its answers are not read.
                if connection.socket.write_all(&many).is_err() {
                    break;
                }
            }
            connection
        })
        .collect();
    siege.neighbour_is_served();
    siege.has_cost_at_most(4 * MIB, 8);
    drop(floods);
    siege.lift();
}

#[test]
fn many_pipelined_requests_are_all_answered_to_those_who_read() {
    let siege = Siege::lay(&[]);
    let one = request("GET", PATH, &siege.host(), &[], b"");
    let mut connection = siege.connect();
    let mut writer = connection.socket.try_clone().unwrap();
    let flood = std::thread::spawn(move || writer.write_all(&one.repeat(5_000)).unwrap());
    for i in 0..5_000 {
        assert_eq!(connection.reply(false).unwrap_or_else(|| panic!("answer {i}")).status, 200);
    }
    flood.join().unwrap();
    drop(connection);
    siege.lift();
}

#[test]
fn a_reader_of_one_byte_at_a_time_holds_little_and_is_cut() {
    let siege = Siege::lay(&["--body-timeout", "1s"]);
    let mut slow: Vec<Connection> = (0..8)
        .map(|_| {
            let mut connection = siege.connect();
            sockopt::set_socket_recv_buffer_size(connection.socket.as_fd(), 4 << 10).unwrap();
            connection.write(request("GET", "/large", &siege.host(), &[("Authorization", &siege.token)], b""));
            connection
        })
        .collect();
    eventually("the proxy gives up on them", || {
        std::thread::sleep(Duration::from_millis(100));
        for connection in &mut slow {
            connection.socket.set_nonblocking(true).unwrap();
            let _ = connection.socket.read(&mut [0]);
        }
        answers_under_way(&siege) == 0
    });
    siege.has_cost_at_most(6 * MIB, 16);
    drop(slow);
    siege.lift();
}

/// The upstream server's connections on which it still has bytes to send.
fn answers_under_way(siege: &Siege) -> usize {
    let port = format!(":{:04X}", siege.upstream.port);
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let established = table.lines().skip(1).filter(|l| {
        let fields: Vec<&str> = l.split_whitespace().collect();
        fields[1].ends_with(&port) && fields[3] == "01" && !fields[4].starts_with("00000000")
    });
    established.count()
}

#[test]
fn a_burst_of_a_thousand_connects_is_served_to_the_last() {
    raise_own_limit(4_000);
    let siege = Siege::lay(&["--max-connections-per-address", "2000"]);
    let bytes = request("GET", PATH, &siege.host(), &[], b"");
    let mut burst: Vec<Connection> = (0..1_000).map(|_| siege.connect()).collect();
    burst.iter_mut().for_each(|c| c.write(&bytes));
    for (i, connection) in burst.iter_mut().enumerate() {
        assert_eq!(connection.reply(false).unwrap_or_else(|| panic!("connection {i}")).status, 200);
    }
    siege.has_cost_at_most(12 * MIB, 8);
    drop(burst);
    siege.lift();
}

#[test]
fn resets_and_impossible_versions_leave_nothing_behind() {
    let siege = Siege::lay(&[]);
    let bytes = request("GET", PATH, &siege.host(), &[], b"");
    for i in 0..600 {
        let mut connection = siege.connect();
        match i % 3 {
            0 => connection.write("GET / HTTP/2.0\r\n\r\n"),
            1 => connection.write(&bytes),
            _ => {}
        }
        // Closing with this set is a reset.
        sockopt::set_socket_linger(connection.socket.as_fd(), Some(Duration::ZERO)).unwrap();
    }
    siege.has_cost_at_most(4 * MIB, 8);
    siege.lift();
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_no_thread() {
    raise_own_limit(10_500);
    let siege = Siege::lay(&["--max-connections-per-address", "20000"]);
    let bytes = request("GET", PATH, &siege.host(), &[], b"");
    let mut held: Vec<TcpStream> = Vec::new();
    // The limit of open files may leave the proxy room for fewer: then the longest idle go.
    for _ in 0..10_000 {
        let mut connection = siege.connect();
        connection.write(&bytes);
        assert_eq!(connection.reply(false).unwrap().status, 200);
        held.push(connection.socket);
    }
    siege.neighbour_is_served();
    siege.has_cost_at_most(36 * MIB, 8);
    drop(held);
    siege.lift();
}

#[test]
fn with_sixty_four_descriptors_it_still_serves() {
    let upstream = FakeUpstream::ok();
    let (data, port) = (Arc::new(Scratch::new()), free_port());
    let mut shell = std::process::Command::new("sh");
    let binary = command().get_program().to_owned();
    shell.env_clear().args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(binary).args(arguments(&data, port));
    shell.arg(format!("http://127.0.0.1:{}", upstream.port));
    let proxy = Proxy::spawn(shell, port, data);
    proxy.has_logged("the limit of open files leaves room for fewer connections");
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let crowd: Vec<Connection> = (0..200).map(|_| proxy.connect()).collect();
    for _ in 0..20 {
        assert_eq!(proxy.send("POST", "/mcp", &[("Authorization", &token)], b"{}").status, 200);
    }
    drop(crowd);
    assert!(!proxy.log().contains("connections can't be accepted"), "{}", proxy.log());
}

#[test]
fn json_ten_thousand_levels_deep_is_refused_where_it_is_read() {
    let siege = Siege::lay(&[]);
    for deep in ["[".repeat(10_000), "{\"a\":".repeat(10_000), format!("{{\"redirect_uris\":{}", "[".repeat(10_000))] {
        let headers = [("Content-Type", "application/json")];
        let reply = siege.proxy.send("POST", "/.idp/register", &headers, deep.as_bytes());
        assert!(matches!(reply.status, 400 | 413), "{}", reply.text());
        // Upstream it is the server's affair; an error must still find the id, or not look for it.
        let authorized = [("Authorization", siege.token.as_str()), headers[0]];
        assert_eq!(siege.proxy.send("POST", "/mcp", &authorized, deep.as_bytes()).status, 200);
    }
    siege.has_cost_at_most(4 * MIB, 8);
    siege.lift();
}

#[test]
fn json_ten_thousand_levels_deep_before_a_server_that_is_down() {
    let proxy = Proxy::start(1, &[]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    for deep in [
        "[".repeat(10_000),
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":{}", "[".repeat(10_000)),
    ] {
        assert_eq!(proxy.send("POST", "/mcp", &[("Authorization", &token)], deep.as_bytes()).status, 502);
    }
    assert!(!proxy.log().contains("fault of this program"), "{}", proxy.log());
}

#[test]
fn both_sides_may_vanish_at_every_stage() {
    let siege = Siege::lay(&[]);
    let host = siege.host();
    let authorized = [("Authorization", siege.token.as_str())];
    let whole = request("POST", "/large", &host, &authorized, &vec![b'x'; 100_000]);
    let head = whole.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    // The client: before, within and behind the head, within the body, within the answer.
    for cut in [0, 1, 20, head - 2, head, head + 1, head + 50_000, whole.len()] {
        for reset in [false, true] {
            let mut connection = siege.connect();
            connection.write(&whole[..cut]);
            if cut == whole.len() {
                connection.socket.read_exact(&mut [0; 1_000]).unwrap();
            }
            if reset {
                sockopt::set_socket_linger(connection.socket.as_fd(), Some(Duration::ZERO)).unwrap();
            }
        }
    }
    siege.neighbour_is_served();

    // The server: before, within and behind the head, within the body, within a stream.
    for (answer, status) in [
        (&b""[..], 502),
        (b"HTTP/1.1 200", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Len", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n", 200),
    ] {
        let upstream = FakeUpstream::start(move |_, out| {
            let _ = out.write_all(answer);
            let _ = out.shutdown(std::net::Shutdown::Both);
        });
        let proxy = Proxy::start(upstream.port, &[]);
        let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
        let mut connection = proxy.connect();
        connection.write(request("POST", "/mcp", &proxy.host(), &[("Authorization", &token)], b"{}"));
        let shown = String::from_utf8_lossy(answer);
        match connection.head() {
            Some(head) => {
                assert_eq!(head.status, status, "{shown}");
                if status == 200 {
                    // What was cut must not look whole.
                    let mut rest = Vec::new();
                    let _ = connection.socket.read_to_end(&mut rest);
                    assert!(!rest.ends_with(b"0\r\n\r\n"), "{shown}");
                }
            }
            None => assert_eq!(status, 200, "{shown}"),
        }
        assert!(!proxy.log().contains("fault of this program"), "{}", proxy.log());
    }
    siege.lift();
}
