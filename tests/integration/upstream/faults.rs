//! An upstream server that answers early, late, twice or not at all, over TCP, TLS and a Unix socket: whose answer
//! anybody gets, and what the server takes for a whole request.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::flow::{Client, call};
use crate::support::proxy::{Proxy, Scratch, arguments, command, free_port};
use crate::support::scripted::{Over, Scripted, Wire};
use crate::support::wire::{Connection, Reply, Transport, request};
use crate::support::{PATIENCE, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const EARLY: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nearly";
const BIG: usize = 1_000_000;

fn token(proxy: &Proxy) -> String {
    format!("Bearer {}", Client::public(proxy).tokens().access)
}

fn send(proxy: &Proxy, token: &str, method: &str, body: &[u8]) -> Reply {
    proxy.send(method, "/mcp", &[("Authorization", token)], body)
}

/// The head of a request with a body of [`BIG`] bytes, and the beginning of that.
fn begin_upload(proxy: &Proxy, token: &str, method: &str, sent: usize) -> Connection {
    let mut connection = proxy.connect();
    let length = BIG.to_string();
    let head = request(method, "/mcp", &proxy.host(), &[("Authorization", token), ("Content-Length", &length)], b"");
    let head = String::from_utf8(head).unwrap().replace("Content-Length: 0\r\n", "");
    connection.write(head);
    connection.write(vec![b'x'; sent]);
    connection
}

/// The number of bytes of a body that arrive before there is a pause or an end.
fn drain(wire: &mut Wire) -> usize {
    wire.set_patience(Duration::from_millis(300));
    let (mut piece, mut count) = (vec![0; 64 << 10], 0);
    while let Ok(n @ 1..) = wire.read(&mut piece) {
        count += n;
    }
    wire.set_patience(PATIENCE);
    count
}

/// A Unix socket whose queue of connections is full.
#[test]
fn a_server_that_accepts_nobody_stalls_nobody_and_is_given_up_in_time() {
    let scratch = Scratch::new();
    let path = scratch.path("mcp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let queued: Vec<UnixStream> = (0..1).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let (data, port) = (Arc::new(Scratch::new()), free_port());
    let mut command = command();
    command.args(arguments(&data, port)).args(["--upstream-connect-timeout", "2s"]).arg(format!("unix:{path}"));
    let proxy = Proxy::spawn(command, port, data);
    let token = token(&proxy);
    // More of them than threads that lead.
    let mut waiting: Vec<Connection> = (0..32)
        .map(|_| {
            let mut connection = proxy.connect();
            connection.write(request("GET", "/mcp", &proxy.host(), &[("Authorization", &token)], b""));
            connection
        })
        .collect();
    // Its wait ends with the client.
    drop(waiting.pop());
    assert_eq!(proxy.send("GET", "/.well-known/oauth-authorization-server", &[], b"").status, 200);
    for connection in &mut waiting {
        assert_eq!(connection.reply(false).unwrap().status, 504);
    }
    proxy.has_logged("no connection within --upstream-connect-timeout");
    proxy.has_logged("the client left before the answer");
    drop(queued);
}

/// A connection that was used before and is reset within a streamed body.
#[test]
fn a_body_that_was_streamed_in_part_is_never_sent_twice() {
    for over in Over::ALL {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        let server = Scripted::start(over, move |mut wire| {
            while let Some(head) = wire.head() {
                seen.lock().unwrap().push(head.clone());
                if head.starts_with("GET") {
                    wire.say(OK);
                    continue;
                }
                let mut piece = vec![0; 100_000];
                let _ = wire.read_exact(&mut piece);
                return wire.reset();
            }
        });
        let proxy = server.proxy(&[]);
        let token = token(&proxy);
        assert_eq!(send(&proxy, &token, "GET", b"").status, 200, "{over:?}");
        let mut upload = begin_upload(&proxy, &token, "PUT", 400_000);
        let mut rest = upload.socket.try_clone().unwrap();
        std::thread::spawn(move || rest.write_all(&vec![b'x'; BIG - 400_000]));
        assert_eq!(upload.reply(false).unwrap().status, 502, "{over:?}");
        let heads = heads.lock().unwrap();
        assert_eq!(heads.iter().filter(|h| h.starts_with("PUT")).count(), 1, "{over:?}: {heads:?}");
    }
}

/// What the server said beyond its answer is nobody's, in whichever layer it waits.
#[test]
fn what_follows_an_answer_never_becomes_anothers() {
    const STOLEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
    for over in Over::ALL {
        for split in [0, 1, 30] {
            let server = Scripted::start(over, move |mut wire| {
                // Longer than one read, so that its end is read where its length says, and no further.
                let own = format!("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{}", "o".repeat(9_000));
                while wire.head().is_some() {
                    // In one record, or the second in a record of its own, of which a part comes late.
                    let (now, late) = STOLEN.split_at(STOLEN.len() - split);
                    if !wire.say(format!("{own}{now}")) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                    wire.say(late);
                }
            });
            let proxy = server.proxy(&[]);
            let token = token(&proxy);
            for _ in 0..8 {
                let reply = send(&proxy, &token, "GET", b"");
                assert!(reply.text().starts_with("oo") || reply.status == 502, "{over:?} {split}: {}", reply.text());
            }
        }
    }
}

/// An answer before the end of the body, while the client sends, pauses, or has stopped.
#[test]
fn an_answer_before_the_end_of_the_body_is_passed_on() {
    for over in Over::ALL {
        for closes in [false, true] {
            let server = Scripted::start(over, move |mut wire| {
                while let Some(head) = wire.head() {
                    if head.starts_with("GET") {
                        wire.say(OK);
                        continue;
                    }
                    let mut piece = vec![0; 70_000];
                    let _ = wire.read_exact(&mut piece);
                    wire.say(EARLY);
                    if !closes {
                        drain(&mut wire);
                    }
                    return wire.close();
                }
            });
            let proxy = server.proxy(&["--body-timeout", "20s"]);
            let token = token(&proxy);
            for method in ["PUT", "POST"] {
                // It pauses in the middle of its body, and says no more.
                let mut paused = begin_upload(&proxy, &token, method, 100_000);
                let reply = paused.reply(false).unwrap();
                assert_eq!((reply.status, reply.text().as_str()), (403, "early"), "{over:?} {closes} {method}");
                // It goes on sending all of it.
                let mut busy = begin_upload(&proxy, &token, method, 0);
                let mut rest = busy.socket.try_clone().unwrap();
                let writer = std::thread::spawn(move || {
                    let _ = rest.write_all(&vec![b'x'; BIG]);
                });
                let reply = busy.reply(false).unwrap();
                assert_eq!((reply.status, reply.text().as_str()), (403, "early"), "{over:?} {closes} {method}");
                drop(busy);
                writer.join().unwrap();
                assert_eq!(send(&proxy, &token, "GET", b"").status, 200);
            }
        }
    }
}

/// A server that neither reads nor answers is given up in time, and a client that stops sending is told so.
#[test]
fn a_client_that_stops_within_its_body_gets_408_and_the_server_no_whole_request() {
    for over in Over::ALL {
        let (received, counts) = channel();
        let received = Mutex::new(received);
        let server = Scripted::start(over, move |mut wire| {
            while wire.head().is_some() {
                let count = drain(&mut wire);
                received.lock().unwrap().send(count + drain(&mut wire)).unwrap();
            }
        });
        let proxy = server.proxy(&["--body-timeout", "1s"]);
        let token = token(&proxy);
        let mut paused = begin_upload(&proxy, &token, "PUT", 100_000);
        assert_eq!(paused.reply(false).unwrap().status, 408, "{over:?}");
        assert!(counts.recv_timeout(PATIENCE).unwrap() <= 100_000);
    }
}

/// Framings that others would read in another way.
#[test]
fn answers_framed_in_two_ways_are_refused() {
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let server = Scripted::start(Over::Tcp, move |mut wire| {
            while wire.head().is_some() {
                wire.say(answer);
            }
        });
        let proxy = server.proxy(&[]);
        assert_eq!(send(&proxy, &token(&proxy), "GET", b"").status, 502, "{answer:?}");
    }
}

/// A stream whose server signs each chunk.
#[test]
fn a_long_answer_of_signed_and_padded_chunks_passes_whole() {
    let server = Scripted::start(Over::Tcp, |mut wire| {
        while wire.head().is_some() {
            wire.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
            for n in 0..3_000 {
                let data = format!("data: {n}\n\n");
                if !wire.say(format!("{:020x};signature={}\r\n{data}\r\n", data.len(), "f".repeat(64))) {
                    return;
                }
            }
            wire.say("0    \r\n\r\n");
        }
    });
    let proxy = server.proxy(&[]);
    let reply = send(&proxy, &token(&proxy), "GET", b"");
    assert_eq!(reply.text().matches("data: ").count(), 3_000);
}

/// What was refused was not carried out.
#[test]
fn at_the_bound_of_streams_nothing_is_carried_out_and_then_refused() {
    let carried_out = Arc::new(Mutex::new(0));
    let count = carried_out.clone();
    let server = Scripted::start(Over::Tcp, move |mut wire| {
        while let Some(head) = wire.head() {
            let mut body = vec![0; if head.starts_with("POST") { 2 } else { 0 }];
            wire.read_exact(&mut body).unwrap();
            *count.lock().unwrap() += 1;
            wire.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
            if head.starts_with("POST") {
                wire.say("9\r\ndata: x\n\n\r\n0\r\n\r\n");
            }
        }
    });
    let proxy = server.proxy(&["--max-streams", "3", "--max-streams-per-user", "2"]);
    let token = token(&proxy);
    let accept = ("Accept", "application/json, text/event-stream");
    let post = || proxy.send("POST", "/mcp", &[("Authorization", &token), accept], b"{}");
    let open = || {
        let mut connection = proxy.connect();
        connection.write(request("GET", "/mcp", &proxy.host(), &[("Authorization", &token), accept], b""));
        (connection.head().unwrap().status, connection)
    };
    assert_eq!(post().status, 200);
    let held = [open(), open()];
    assert!(held.iter().all(|(status, _)| *status == 200));
    let before = *carried_out.lock().unwrap();
    let refused = post();
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(open().0, 429);
    assert_eq!(*carried_out.lock().unwrap(), before, "nothing was passed on");
    drop(held);
    eventually("there is room again", || post().status == 200);
}

/// The newcomer's line: people type `/mcp` after an upstream URL that has it already.
#[test]
fn the_habitual_path_is_not_doubled() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let mut wire = Wire::Tcp(socket);
            while let Some(head) = wire.head() {
                seen.lock().unwrap().push(head.split(' ').nth(1).unwrap().to_string());
                wire.say(OK);
            }
        }
    });
    for (upstream, asked, target) in [
        ("/mcp", "/mcp", "/mcp"),
        ("/mcp", "/mcp/", "/mcp/"),
        ("/mcp", "/mcp?x=1", "/mcp?x=1"),
        ("/mcp", "/", "/mcp"),
        ("/mcp", "/other", "/mcp/other"),
        ("/a/mcp", "/mcp", "/a/mcp"),
        ("/a/mcp", "/a/mcp", "/a/mcp"),
        ("/amcp", "/mcp", "/amcp/mcp"),
        ("/sse", "/sse", "/sse"),
        ("", "/mcp", "/mcp"),
    ] {
        let (data, own) = (Arc::new(Scratch::new()), free_port());
        let mut command = command();
        command.args(arguments(&data, own)).arg(format!("http://127.0.0.1:{port}{upstream}"));
        let proxy = Proxy::spawn(command, own, data);
        let token = token(&proxy);
        assert_eq!(proxy.send("GET", asked, &[("Authorization", &token)], b"").status, 200);
        assert!(heads.lock().unwrap().last().is_some_and(|t| t == target), "{upstream} {asked}: {heads:?}");
    }
}

#[test]
fn a_handshake_that_does_not_come_is_given_up_like_a_connection() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (data, port) = (Arc::new(Scratch::new()), free_port());
    let mut command = command();
    command.args(arguments(&data, port)).args(["--upstream-connect-timeout", "1s"]);
    command.arg(format!("https://127.0.0.1:{}", silent.local_addr().unwrap().port()));
    let proxy = Proxy::spawn(command, port, data);
    let access = Client::public(&proxy).tokens().access;
    assert_eq!(call(&proxy, &access).status, 504);
}
