//! Stopping when told.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::flow::{Client, call};
use crate::support::proxy::{Proxy, Scratch, arguments, command, free_port};
use crate::support::upstream::{FakeUpstream, text};
use crate::support::wire::{Connection, request};
use crate::support::{PATIENCE, eventually};

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";

#[test]
fn requests_finish_streams_end_and_idle_connections_close() {
    for signal in ["TERM", "INT"] {
        let (release, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let upstream = FakeUpstream::start(move |received, out| match received.method.as_str() {
            "GET" => {
                let _ = out.write_all(STREAM);
                while out.peek(&mut [0]).is_err() {}
            }
            _ => {
                let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
                text(out, "200 OK", "", "finished");
            }
        });
        let mut proxy = Proxy::start(upstream.port, &[]);
        let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
        let authorized = [("Authorization", token.as_str())];
        let mut idle = proxy.connect();
        idle.write(request("GET", "/.well-known/jwks.json", &proxy.host(), &[], b""));
        idle.reply(false).unwrap();
        let mut stream = proxy.connect();
        stream.write(request("GET", "/mcp", &proxy.host(), &authorized, b""));
        stream.head().unwrap();
        stream.chunk().unwrap();
        let mut busy = proxy.connect();
        busy.write(request("POST", "/mcp", &proxy.host(), &authorized, b"{}"));
        eventually("the request is upstream", || upstream.received().len() == 2);

        proxy.signal(signal);
        assert_eq!(stream.chunk().unwrap(), b"", "a stream ends as if the server had ended it");
        assert!(idle.is_closed());
        eventually("nothing is accepted any more", || TcpStream::connect(("127.0.0.1", proxy.port)).is_err());
        release.send(()).unwrap();
        let reply = busy.reply(false).unwrap();
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("finished", Some("close")));
        assert_eq!(proxy.wait().code(), Some(0), "{signal}");
    }
}

#[test]
fn what_does_not_finish_in_time_is_cut_and_the_exit_is_orderly() {
    let upstream = FakeUpstream::start(|_, _| std::thread::sleep(PATIENCE));
    let mut proxy = Proxy::start(upstream.port, &["--drain-timeout", "1s"]);
    let token = Client::public(&proxy).tokens().access;
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| call(&proxy, &token).status);
        eventually("the request is upstream", || upstream.received().len() == 1);
        proxy.signal("TERM");
        assert_eq!(stuck.join().unwrap(), 503);
    });
    assert_eq!(proxy.wait().code(), Some(0));
    proxy.has_logged("--drain-timeout");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let upstream = FakeUpstream::start(|_, _| std::thread::sleep(PATIENCE));
    let mut proxy = Proxy::start(upstream.port, &["--drain-timeout", "1h"]);
    let token = Client::public(&proxy).tokens().access;
    let mut stuck = proxy.connect();
    stuck.write(request("POST", "/mcp", &proxy.host(), &[("Authorization", &format!("Bearer {token}"))], b"{}"));
    eventually("the request is upstream", || upstream.received().len() == 1);
    proxy.signal("TERM");
    eventually("the first signal is told", || proxy.log().contains("stopping: requests in flight"));
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(128 + 15));
}

#[test]
fn an_answer_that_the_end_cuts_does_not_look_whole() {
    let upstream = FakeUpstream::start(|_, out| {
        let _ = out.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n",
        );
        std::thread::sleep(PATIENCE);
    });
    let mut proxy = Proxy::start(upstream.port, &["--drain-timeout", "1s"]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let mut connection = proxy.connect();
    connection.write(request("POST", "/mcp", &proxy.host(), &[("Authorization", &token)], b"{}"));
    connection.head().unwrap();
    assert_eq!(connection.chunk().unwrap(), b"[1");
    proxy.signal("TERM");
    assert!(connection.chunk().is_none(), "no last chunk");
    assert_eq!(proxy.wait().code(), Some(0));
}

/// Plays systemd's part of `Type=notify` and `WatchdogSec=`.
#[test]
fn systemd_is_told_when_the_proxy_is_ready_well_and_stops() {
    let upstream = FakeUpstream::ok();
    let (data, port) = (std::sync::Arc::new(Scratch::new()), free_port());
    let path = data.path("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let said = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_string()
    };
    let mut command = command();
    command.args(arguments(&data, port)).arg(format!("http://127.0.0.1:{}", upstream.port));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut proxy = Proxy::spawn(command, port, data);
    assert_eq!(said(), "READY=1");
    for _ in 0..3 {
        assert_eq!(said(), "WATCHDOG=1");
    }
    proxy.signal("TERM");
    let last = std::iter::repeat_with(said).find(|said| said != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    proxy.wait();
    assert!(!proxy.log().contains("does not answer itself"), "{}", proxy.log());
}

/// A proxy that is given a listening socket, as systemd does it (sd_listen_fds(3)).
fn activated(socket: &TcpListener, upstream: u16, data: Arc<Scratch>) -> Proxy {
    let port = socket.local_addr().unwrap().port();
    let mut activated = Command::new("/bin/sh");
    activated.env_clear().env("LISTEN_FDS", "1").stdin(OwnedFd::from(socket.try_clone().unwrap()));
    // The process id has to be that of the proxy, and the descriptor number 3.
    activated.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0 0</dev/null"#, env!("CARGO_BIN_EXE_mcp-auth-proxy")]);
    activated.args(arguments(&data, port)).arg(format!("http://127.0.0.1:{upstream}"));
    Proxy::spawn(activated, port, data)
}

#[test]
fn with_a_passed_socket_a_restart_refuses_nobody() {
    let upstream = FakeUpstream::ok();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let data = Arc::new(Scratch::new());
    let mut proxy = activated(&socket, upstream.port, data.clone());
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let (port, host) = (proxy.port, proxy.host());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (token, host, is_over) = (&token, &host, &is_over);
                scope.spawn(move || {
                    let mut answered = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        // A connection for each request: refused, reset and unanswered ones fail.
                        let mut connection = Connection::open(port);
                        connection.write(request("POST", "/mcp", host, &[("Authorization", token)], b"{}"));
                        assert_eq!(connection.reply(false).unwrap().status, 200);
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(200));
            proxy.signal("TERM");
            assert_eq!(proxy.wait().code(), Some(0));
            proxy = activated(&socket, upstream.port, data.clone());
        }
        is_over.store(true, Ordering::Relaxed);
        let answered: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert!(answered > 50, "{answered}");
    });
}

#[test]
fn a_passed_socket_that_nothing_is_served_on_is_refused() {
    let data = Arc::new(Scratch::new());
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut activated = Command::new("/bin/sh");
    activated.env_clear().env("LISTEN_FDS", "1").stdin(OwnedFd::from(socket.try_clone().unwrap()));
    activated.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0 0</dev/null"#, env!("CARGO_BIN_EXE_mcp-auth-proxy")]);
    let done = activated.args(arguments(&data, free_port())).arg("http://127.0.0.1:1").output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let port = socket.local_addr().unwrap().port().to_string();
    assert!(!done.status.success() && said.contains(&port) && said.contains("--listen (LISTEN)"), "{said}");
}
