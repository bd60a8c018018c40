//! The control socket and the commands that use it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::flow::{Browser, Client, call, hidden, tokens};
use crate::support::proxy::{PASSWORD, Proxy, command};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

fn speak(proxy: &Proxy, line: &[u8]) -> Value {
    let mut stream = UnixStream::connect(proxy.data.path("data/control.sock")).unwrap();
    stream.write_all(line).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn without_a_proxy_the_commands_say_so() {
    let done = command().args(["grants", "list", "--data-path", "/nowhere"]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        !done.status.success() && said.contains("no proxy is running") && said.contains("--data-path (DATA_PATH)"),
        "{said}"
    );
    let upstream = FakeUpstream::ok();
    let mut proxy = Proxy::start(upstream.port, &[]);
    proxy.signal("TERM");
    proxy.wait();
    assert!(proxy.order(&["status"]).unwrap_err().contains("no proxy is running"));
}

#[test]
fn only_root_and_the_owner_can_use_the_socket() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let socket = proxy.data.path("data/control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Even if the file modes let another user through, the process at the other end is looked at.
    let open = |path: &str, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(&proxy.data.path("data"), 0o755);
    open(&proxy.data.path(""), 0o755);
    open(&socket, 0o666);
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('{socket}'); s.sendall(b'{{\"command\": \"status\"}}\\n'); print(len(s.recv(100)))"
    );
    let other = Command::new("setpriv")
        .env("PATH", "/usr/bin:/bin")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c", &script])
        .output()
        .unwrap();
    // Closed without an answer, which the other side may see as a reset.
    assert!(matches!(String::from_utf8_lossy(&other.stdout).trim(), "" | "0"), "{other:?}");
    proxy.has_logged(r#""event":"control_refused""#);
    open(&proxy.data.path("data"), 0o700);
}

#[test]
fn malformed_requests_get_an_error_and_hurt_nothing() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let tokens = Client::public(&proxy).tokens();
    let refused = [
        &b"\n"[..],
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"{\"command\": \"format-disk\"}\n",
        b"\xff\xfe\n",
        b"{\"command\": \"grants-revoke\"}\n",
        b"{\"command\": \"grants-revoke\", \"usr\": \"alice\"}\n",
        b"{\"command\": \"grants-revoke\", \"all\": \"yes\"}\n",
        b"{\"command\": \"keys-rotate\"}\n",
        b"{\"command\": \"clients-add\", \"name\": \"a b\"}\n",
        b"{\"command\": \"clients-add\", \"name\": \"\"}\n",
        b"{\"command\": \"clients-add\", \"name\": \"https://x\"}\n",
        b"{\"command\": \"clients-add\", \"name\": \"x\", \"token_lifetime\": 18446744073709551615}\n",
        b"{\"command\": \"clients-add\", \"name\": \"x\", \"token_lifetime\": 0}\n",
        b"{\"command\": \"clients-add\", \"name\": \"x\", \"servers\": [\"nowhere\"]}\n",
    ];
    for line in refused {
        let answer = speak(&proxy, line);
        assert!(answer["ok"] == false && answer["error"].as_str().is_some_and(|e| !e.is_empty()), "{answer}");
    }
    let mut long = vec![b' '; 70 << 10];
    long.push(b'\n');
    assert!(speak(&proxy, &long)["error"].as_str().unwrap().contains("64 KiB"));
    drop(UnixStream::connect(proxy.data.path("data/control.sock")).unwrap());
    assert_eq!(speak(&proxy, b"{\"command\": \"status\"}\n")["ok"], true);
    assert_eq!(call(&proxy, &tokens.access).status, 200);
}

#[test]
fn whoever_connects_and_says_nothing_keeps_nobody_waiting() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let connect = || UnixStream::connect(proxy.data.path("data/control.sock")).unwrap();
    let idle: Vec<UnixStream> = (0..20).map(|_| connect()).collect();
    idle.iter().for_each(|mut stream| stream.write_all(b"{").unwrap());
    assert_eq!(speak(&proxy, b"{\"command\": \"status\"}\n")["ok"], true);
    for stream in &idle {
        stream.set_nonblocking(true).unwrap();
        let waiting = std::io::Read::read(&mut &*stream, &mut [0; 1]).map_err(|e| e.kind());
        assert_eq!(waiting, Err(std::io::ErrorKind::WouldBlock), "its turn was over first");
    }
}

#[test]
fn the_owner_sees_and_ends_what_was_allowed() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let (first, second) = (Client::named(&proxy, "First"), Client::named(&proxy, "Second"));
    let (one, two) = (first.tokens(), second.tokens());
    assert_eq!(call(&proxy, &one.access).status, 200);
    let listed = proxy.order(&["grants", "list"]).unwrap();
    let used_from = |name: &str| {
        let of = |grant: &&Value| grant["client_name"] == name;
        listed.as_array().unwrap().iter().find(of).unwrap()["last_used_from"].clone()
    };
    assert_eq!((used_from("First"), used_from("Second")), (json!("127.0.0.1"), Value::Null));
    assert_eq!(
        proxy.order(&["users", "list"]).unwrap(),
        json!([{"user": "password", "email": null, "sessions": 2, "grants": 2,
        "last_sign_in": proxy.order(&["users", "list"]).unwrap()[0]["last_sign_in"]}])
    );
    let clients = proxy.order(&["clients", "list"]).unwrap();
    assert_eq!((clients[0]["kind"].as_str(), clients[0]["grants"].as_u64()), (Some("registered"), Some(1)));
    let status = proxy.order(&["status"]).unwrap();
    assert_eq!((status["grants"].as_u64(), status["external_url"].as_str()), (Some(2), Some(proxy.origin().as_str())));

    assert_eq!(proxy.order(&["grants", "revoke", "--client", &first.id]).unwrap()["revoked"], 1);
    assert_eq!(call(&proxy, &one.access).status, 401);
    assert_eq!(first.refresh(&one.refresh).error(), "invalid_grant");
    assert_eq!(call(&proxy, &two.access).status, 200);
    assert_eq!(
        proxy.order(&["grants", "revoke", "--client", &second.id, "--before", "2020-01-01"]).unwrap()["revoked"],
        0
    );
    assert!(proxy.order(&["grants", "revoke"]).unwrap_err().contains("--all"));
    assert!(proxy.order(&["grants", "revoke", "no-such-grant"]).unwrap_err().contains("no such grant"));
    let signed_out = proxy.order(&["users", "sign-out", "password"]).unwrap();
    assert_eq!((signed_out["sessions"].as_u64(), signed_out["grants"].as_u64()), (Some(2), Some(0)));
    assert_eq!(call(&proxy, &two.access).status, 200, "signing a browser out is not disconnecting an application");
    assert_eq!(proxy.order(&["users", "sign-out", "password", "--apps"]).unwrap()["grants"], 1);
    assert_eq!(call(&proxy, &two.access).status, 401);
    // For a person, as a table.
    let done = command().args(["clients", "list", "--data-path", &proxy.data.path("data")]).output().unwrap();
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("client id"), "{done:?}");
}

#[test]
fn revoking_ends_open_streams_and_remembered_consents() {
    let upstream = FakeUpstream::start(|_, out| {
        let _ = out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: hello\n\n");
        std::thread::sleep(std::time::Duration::from_secs(20));
    });
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::register(
        &proxy,
        json!({"redirect_uris": ["https://app.example/callback"], "token_endpoint_auth_method": "none"}),
    );
    let browser = Browser::new(&proxy);
    let allowed = browser.sign_in(&client.authorize(&[]), PASSWORD);
    let code = crate::support::flow::query(allowed.header("location").unwrap()).remove("code").unwrap();
    let tokens = tokens(&client.redeem(&code));
    assert_eq!(browser.get(&client.authorize(&[])).status, 303, "the consent is remembered");
    let mut connection = proxy.connect();
    let token = format!("Bearer {}", tokens.access);
    connection.write(crate::support::wire::request("GET", "/mcp", &proxy.host(), &[("Authorization", &token)], b""));
    assert!(connection.read_until(|b| b.windows(5).position(|w| w == b"hello").map(|at| at + 5)).is_some());
    proxy.order(&["grants", "revoke", "--all"]).unwrap();
    assert!(connection.read_until(|_| None).is_none(), "the stream goes on");
    let page = browser.get(&client.authorize(&[]));
    assert_eq!(page.status, 200, "the consent is asked for again");
    hidden(&page, "request");
}

#[test]
fn keys_are_replaced_without_a_logout() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &["--identity-assertion"]);
    let client = Client::register(
        &proxy,
        json!({"redirect_uris": ["http://127.0.0.1:5000/callback"], "token_endpoint_auth_method": "client_secret_post"}),
    );
    let before = client.tokens();
    let code = client.code();
    let browser = Browser::new(&proxy);
    let page = browser.get(&client.authorize(&[]));
    let jwks = || proxy.send("GET", "/.well-known/jwks.json", &[], b"").json()["keys"].as_array().unwrap().len();
    assert_eq!(jwks(), 1);
    let secret = std::fs::read_to_string(proxy.data.path("data/secret")).unwrap();
    proxy.order(&["keys-rotate"]).unwrap();
    assert_ne!(std::fs::read_to_string(proxy.data.path("data/secret")).unwrap(), secret);
    assert_eq!(jwks(), 2, "the previous key is still published");
    // Everything that was signed before is good.
    assert_eq!(call(&proxy, &before.access).status, 200);
    let middle = tokens(&client.refresh(&before.refresh));
    let redeemed = tokens(&client.redeem(&code));
    let allowed = browser.post("/.auth/login", &[("request", &hidden(&page, "request")), ("password", PASSWORD)]);
    assert_eq!(allowed.status, 303);
    proxy.order(&["keys-rotate"]).unwrap();
    let Client { id, secret, redirect, .. } = client;
    let proxy = proxy.crash_and_restart(upstream.port, &["--identity-assertion"]);
    let client = Client { transport: &proxy, id, secret, redirect };
    for token in [&middle.access, &redeemed.access] {
        assert_eq!(call(&proxy, token).status, 200, "after two rotations and a restart");
    }
    assert_eq!(client.refresh(&middle.refresh).status, 200);
}

#[test]
fn a_crash_during_or_after_a_rotation_loses_no_login() {
    let upstream = FakeUpstream::ok();
    let args = ["--identity-assertion"];
    let mut proxy = Proxy::start(upstream.port, &args);
    let redirect = "http://127.0.0.1:5000/callback".to_string();
    let first = Client::register(&proxy, json!({"redirect_uris": [redirect], "token_endpoint_auth_method": "none"}));
    let (id, mut tokens_now) = (first.id.clone(), first.tokens());
    for round in 0..6 {
        let socket = proxy.data.path("data/control.sock");
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"{\"command\": \"keys-rotate\", \"compromised\": false}\n").unwrap();
        match round % 3 {
            0 => {
                let mut answer = String::new();
                BufReader::new(stream).read_line(&mut answer).unwrap();
                assert!(answer.contains(r#""rotated":true"#), "{answer}");
            }
            1 => proxy.has_logged("all keys were replaced"),
            _ => std::thread::sleep(std::time::Duration::from_millis(2 * round)),
        }
        proxy = proxy.crash_and_restart(upstream.port, &args);
        assert_eq!(call(&proxy, &tokens_now.access).status, 200, "round {round}");
        let client =
            Client { transport: &proxy, id: id.clone(), secret: Default::default(), redirect: redirect.clone() };
        tokens_now = tokens(&client.refresh(&tokens_now.refresh));
    }
}

#[test]
fn after_a_leak_nothing_that_was_signed_is_believed() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &["--identity-assertion", "--api-keys"]);
    let client = Client::public(&proxy);
    let before = client.tokens();
    let code = client.code();
    let browser = Browser::new(&proxy);
    browser.sign_in(&client.authorize(&[]), PASSWORD);
    let page = browser.get("/.auth/account");
    assert!(page.text().contains("Disconnect"), "{}", page.text());
    let robot = proxy.order(&["clients", "add", "robot"]).unwrap();
    let key = proxy.order(&["keys", "add", "script"]).unwrap()["key"].as_str().unwrap().to_string();
    proxy.order(&["keys-rotate", "--compromised"]).unwrap();
    let check = |proxy: &Proxy, client: &Client<'_, Proxy>, when: &str| {
        assert_eq!(call(proxy, &before.access).status, 401, "{when}");
        assert_eq!(client.refresh(&before.refresh).error(), "invalid_grant", "{when}");
        assert_eq!(client.redeem(&code).error(), "invalid_grant", "{when}");
    };
    check(&proxy, &client, "at once");
    assert_eq!(browser.get("/.auth/account").status, 303, "the browser is signed out");
    let stale = browser.post(
        "/.auth/account",
        &[("form", &hidden(&page, "form")), ("session", &hidden(&page, "session")), ("action", "disconnect-all")],
    );
    assert_ne!(stale.status, 200);
    assert_eq!(proxy.order(&["grants", "list"]).unwrap(), json!([]));
    assert_eq!(proxy.send("GET", "/.well-known/jwks.json", &[], b"").json()["keys"].as_array().unwrap().len(), 1);
    // What is not signed stays: random secrets of the operator's clients, and API keys.
    let credentials = [
        ("grant_type", "client_credentials"),
        ("client_id", "robot"),
        ("client_secret", robot["client_secret"].as_str().unwrap()),
    ];
    let reply = proxy.send(
        "POST",
        "/.idp/token",
        &[crate::support::flow::FORM],
        crate::support::flow::encode(&credentials).as_bytes(),
    );
    assert_eq!(reply.status, 200);
    assert_eq!(call(&proxy, &key).status, 200);
    let after = client.tokens();
    assert_eq!(call(&proxy, &after.access).status, 200);
    let Client { id, secret, redirect, .. } = client;
    let proxy = proxy.crash_and_restart(upstream.port, &["--identity-assertion", "--api-keys"]);
    let client = Client { transport: &proxy, id, secret, redirect };
    check(&proxy, &client, "after a restart");
    assert_eq!(call(&proxy, &after.access).status, 200);
}

#[test]
fn keys_of_the_environment_are_not_replaced_by_the_command() {
    let upstream = FakeUpstream::ok();
    let (data, port) = (std::sync::Arc::new(crate::support::proxy::Scratch::new()), crate::support::proxy::free_port());
    let mut command = command();
    command.env("AUTH_HMAC_SECRET", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    command.args(crate::support::proxy::arguments(&data, port)).arg(format!("http://127.0.0.1:{}", upstream.port));
    let proxy = Proxy::spawn(command, port, data);
    assert!(proxy.order(&["keys-rotate"]).unwrap_err().contains("AUTH_HMAC_PREVIOUS_SECRETS"));
}

#[test]
fn keys_are_replaced_under_load_without_a_failure() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::public(&proxy);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(client.tokens());
    }
    let (proxy, client) = (&proxy, &client);
    std::thread::scope(|scope| {
        let workers: Vec<_> = all
            .into_iter()
            .map(|mut own| {
                scope.spawn(move || {
                    for round in 0..40 {
                        assert_eq!(call(proxy, &own.access).status, 200);
                        if round % 4 == 0 {
                            own = tokens(&client.refresh(&own.refresh));
                        }
                    }
                })
            })
            .collect();
        for _ in 0..5 {
            proxy.order(&["keys-rotate"]).unwrap();
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}
