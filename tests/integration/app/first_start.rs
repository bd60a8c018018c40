//! What somebody meets who starts the program for the first time, with a slip or two.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::eventually;
use crate::support::flow::{Client, call};
use crate::support::proxy::{PASSWORD, Proxy, Scratch, arguments, command, free_port};
use crate::support::upstream::{FakeUpstream, text};
use crate::support::wire::Transport;

/// A proxy that checks its MCP server, with `last` at the end of its command line.
fn checked(port: u16, last: &[&str]) -> Proxy {
    let data = Arc::new(Scratch::new());
    let mut command = command();
    command.args(arguments(&data, port)).arg("--no-upstream-check=false").args(last).env("PATH", "/usr/bin:/bin");
    Proxy::spawn(command, port, data)
}

/// A proxy whose command line is `args` alone.
fn bare(port: u16, args: &[&str], env: &[(&str, &str)]) -> Proxy {
    let data = Arc::new(Scratch::new());
    let mut command = command();
    command.args(["--data-path", &data.path("data"), "--password", PASSWORD]).args(args);
    command.envs(env.iter().copied());
    Proxy::spawn(command, port, data)
}

#[test]
fn an_upstream_server_that_is_none_is_told_of_at_the_start() {
    const RESULT: &str = r#"{"jsonrpc":"2.0","id":"x","result":{}}"#;
    // Nobody there, until there is.
    let later = free_port();
    let proxy = checked(free_port(), &[&format!("http://127.0.0.1:{later}")]);
    proxy.has_logged("the MCP server can't be reached: start it, or correct the upstream URL");
    // What answers, but not as an MCP server, or wants a credential first.
    let other =
        FakeUpstream::start(|_, out| text(out, "404 Not Found", "Content-Type: text/html\r\n", "<h1>shop</h1>"));
    let proxy = checked(free_port(), &[&format!("http://127.0.0.1:{}/shop", other.port)]);
    proxy.has_logged("does not speak MCP at this path");
    proxy.has_logged("POST /shop: 404 Not Found, GET /shop: 404 Not Found");
    let echo = FakeUpstream::start(|r, out| text(out, "200 OK", "", &String::from_utf8_lossy(&r.body)));
    checked(free_port(), &[&format!("http://127.0.0.1:{}", echo.port)]).has_logged("does not speak MCP at this path");
    let closed = FakeUpstream::start(|_, out| text(out, "401 Unauthorized", "", ""));
    checked(free_port(), &[&format!("http://127.0.0.1:{}", closed.port)]).has_logged("--proxy-bearer-token");
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = checked(free_port(), &[&format!("https://127.0.0.1:{}", plain.local_addr().unwrap().port())]);
    let (mut socket, _) = plain.accept().unwrap();
    text(&mut socket, "400 Bad Request", "", "this is the plain port");
    tls.has_logged("is the scheme right, http:// or https://?");
    // One that is well, and the session of the check is ended.
    let good = FakeUpstream::start(|r, out| match r.method.as_str() {
        "POST" => text(out, "200 OK", "Content-Type: application/json\r\nMcp-Session-Id: s-1\r\n", RESULT),
        _ => text(out, "200 OK", "", ""),
    });
    let proxy = checked(free_port(), &[&format!("http://127.0.0.1:{}/mcp", good.port), "--proxy-bearer-token", "t-1"]);
    eventually("its session is ended", || good.received().iter().any(|r| r.method == "DELETE"));
    let received = good.received();
    assert_eq!((received[0].target.as_str(), received[0].header("authorization")), ("/mcp", Some("Bearer t-1")));
    assert_eq!(received[1].header("mcp-session-id"), Some("s-1"));
    assert!(received.len() == 2 && !proxy.log().contains(" WARN "), "{}", proxy.log());
    assert!(proxy.log().contains(&format!("{}/mcp", proxy.port)), "the habitual URL: {}", proxy.log());
    // One of the older transport.
    let older = FakeUpstream::start(|r, out| match r.method.as_str() {
        "GET" => text(out, "200 OK", "Content-Type: text/event-stream\r\n", "event: endpoint\ndata: /messages\n\n"),
        _ => text(out, "405 Method Not Allowed", "", ""),
    });
    let proxy = checked(free_port(), &[&format!("http://127.0.0.1:{}/sse", older.port)]);
    eventually("its stream is looked for", || older.received().iter().any(|r| r.method == "GET"));
    assert!(!proxy.log().contains("does not speak MCP"));
}

#[test]
fn an_upstream_server_that_comes_later_is_noticed() {
    let port = free_port();
    let proxy = checked(free_port(), &[&format!("http://127.0.0.1:{port}")]);
    proxy.has_logged("the MCP server can't be reached");
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let server = std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let mut piece = [0; 4096];
            let _ = std::io::Read::read(&mut socket, &mut piece);
            text(&mut socket, "200 OK", "", r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32000,"message":"no"}}"#);
        }
    });
    proxy.has_logged("the MCP server answers now");
    assert_eq!(proxy.log().matches("can't be reached").count(), 1, "{}", proxy.log());
    over.store(true, Ordering::SeqCst);
    let _ = TcpStream::connect(("127.0.0.1", port));
    server.join().unwrap();
}

#[test]
fn a_command_that_is_no_mcp_server_is_told_of_at_the_start() {
    let script = |text: &str| checked(free_port(), &["--", "sh", "-c", text]);
    let silent = script("exec sleep 600");
    let dead = script("echo 'no such file' >&2; exit 3");
    dead.has_logged("the MCP server ended before it answered anything");
    dead.has_logged("exit code 3");
    let echo = script("exec cat");
    let noise = script("echo starting; exec sleep 600");
    noise.has_logged("wrote a line to stdout that is not a JSON-RPC message");
    for proxy in [silent, echo] {
        proxy.has_logged("the MCP server has not answered an initialize request");
    }
    let good = script(
        r#"read line; echo '{"jsonrpc":"2.0","id":"mcp-auth-proxy-check","result":{}}'; while read line; do :; done"#,
    );
    good.has_logged("the MCP server answers");
    good.has_logged("the MCP server has ended");
    assert!(
        !good.log().contains("before it answered") && !good.log().contains("exited unexpectedly"),
        "{}",
        good.log()
    );
}

#[test]
fn a_loopback_url_is_served_to_this_machine_alone_unless_told_otherwise() {
    let port = free_port();
    let url = format!("http://localhost:{port}");
    let reaches = |address: &str| TcpStream::connect((address, port)).is_ok();
    let proxy = bare(port, &["-e", &url, "http://127.0.0.1:1"], &[]);
    assert!(reaches("127.0.0.1") && !reaches("127.0.0.2"));
    assert!(!proxy.log().contains("wrong place"), "{}", proxy.log());
    drop(proxy);
    let proxy = bare(port, &["-e", &url, "http://127.0.0.1:1"], &[("LISTEN", &format!(":{port}"))]);
    assert!(reaches("127.0.0.1") && reaches("127.0.0.2"));
    drop(proxy);
    // A container's port, published under another number: no reason to warn.
    let proxy = bare(port, &["-e", "http://localhost:8080", "http://127.0.0.1:1"], &[("LISTEN", &format!(":{port}"))]);
    assert!(!proxy.log().contains("wrong place"), "{}", proxy.log());
    drop(proxy);
    let local = format!("127.0.0.1:{port}");
    let proxy = bare(port, &["-e", "http://localhost:8080", "--listen", &local, "http://127.0.0.1:1"], &[]);
    proxy.has_logged("clients will look in the wrong place");
}

#[test]
fn a_variable_that_looks_like_an_option_is_named() {
    let port = free_port();
    let env = [
        ("PASWORD", "a-secret"),
        ("HEADER_MAPPING_BASE", "/userinfo"),
        ("ENTRAID_TENANT_ID", "t"),
        ("LISTEN_FDS", "1"),
    ];
    let proxy = bare(port, &["--listen", &format!("127.0.0.1:{port}"), "http://127.0.0.1:1"], &env);
    proxy.has_logged("did you mean PASSWORD?");
    proxy.has_logged("HEADER_MAPPING_BASE");
    proxy.has_logged("OIDC_CONFIGURATION_URL");
    assert!(!proxy.log().contains("LISTEN_FDS") && !proxy.log().contains("a-secret"), "{}", proxy.log());
}

#[test]
fn sighup_without_lists_does_not_say_that_it_read_them() {
    let proxy = Proxy::start(1, &[]);
    proxy.signal("HUP");
    proxy.has_logged("the settings were read again");
    assert!(!proxy.log().contains("have been read again"), "{}", proxy.log());
}

#[test]
fn the_most_detailed_log_has_connections_and_no_secrets() {
    let upstream = FakeUpstream::ok();
    let port = free_port();
    let (url, behind) = (format!("http://localhost:{port}"), format!("http://127.0.0.1:{}", upstream.port));
    let proxy = bare(port, &["-e", &url, &behind], &[("LOG_LEVEL", "trace")]);
    let tokens = Client::public(&proxy).tokens();
    assert_eq!(call(&proxy, &tokens.access).status, 200);
    for text in ["a connection was opened", "a connection has ended", "a request goes upstream"] {
        proxy.has_logged(text);
    }
    for secret in [PASSWORD, &tokens.access, &tokens.refresh] {
        assert!(!proxy.log().contains(secret), "{}", proxy.log());
    }
}

#[test]
fn a_published_directory_with_the_keys_in_it_is_named() {
    let other = Scratch::new();
    let (port, notes) = (free_port(), other.path("notes"));
    std::fs::create_dir(&notes).unwrap();
    let published = |directory: &str| {
        let data = Arc::new(Scratch::new());
        let mut command = command();
        command.args(arguments(&data, port)).args(["--", "sh", "-c", "exec sleep 600", directory]);
        let directory = if directory.is_empty() { data.0.display().to_string() } else { directory.to_string() };
        command.args([directory]).env("PATH", "/usr/bin:/bin");
        let proxy = Proxy::spawn(command, port, data);
        proxy.has_logged("ready");
        proxy.log().contains("a directory that has the data of this proxy in it")
    };
    assert!(published(""));
    assert!(!published(&notes));
}

#[test]
fn a_server_that_never_answers_is_told_of() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = checked(free_port(), &[&format!("http://127.0.0.1:{}", silent.local_addr().unwrap().port())]);
    proxy.has_logged("takes a connection but does not answer");
}

#[test]
fn a_page_that_refuses_a_form_is_explained_in_the_log() {
    let proxy = Proxy::start(1, &[]);
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let page = proxy.send("POST", "/.auth/login", &[form], b"request=x").text();
    let id = page.split("request ").nth(1).unwrap().split('<').next().unwrap();
    let line = || proxy.log().lines().find(|l| l.contains("the browser sent no cookie")).map(str::to_string);
    eventually("the log has the reason", || line().is_some());
    assert!(line().unwrap().contains(&format!("\"request\":\"{id}\"")), "{id}: {}", proxy.log());
    let elsewhere = [form, ("Origin", "https://evil.example")];
    assert!(proxy.send("POST", "/.auth/login", &elsewhere, b"request=x").text().contains("came from another site"));
    proxy.has_logged("https://evil.example");
}
