//! The real program: options, lists, streams, what the server behind is told, the way out.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::support::eventually;
use crate::support::flow::{Browser, Client, Tokens, call, hidden, query, tokens};
use crate::support::idp::{CLIENT_ID, CLIENT_SECRET, FakeOidc};
use crate::support::proxy::{Proxy, Scratch, command, free_port};
use crate::support::stdio::Published;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport};

/// A proxy before `upstream` with `idp` as the one way to sign in.
fn proxy_with(idp: &FakeOidc, data: Arc<Scratch>, port: u16, upstream: u16, env: &[(&str, &str)]) -> Proxy {
    let mut command = command();
    command.envs(env.iter().copied()).env("OIDC_CLIENT_SECRET", CLIENT_SECRET);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--external-url", &format!("http://localhost:{port}")]);
    command.args(["--data-path", &data.path("data"), "--oidc-client-id", CLIENT_ID]);
    command.args(["--oidc-configuration-url", &idp.configuration_url(), &format!("http://127.0.0.1:{upstream}")]);
    Proxy::spawn(command, port, data)
}

fn system_time() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn sign_in(proxy: &Proxy, idp: &FakeOidc, client: &Client<'_, Proxy>) -> Reply {
    let browser = Browser::new(proxy);
    let page = browser.get(&client.authorize(&[]));
    come_back(&browser, "oidc", &idp.authorize(&choose(&browser, &page, "oidc")))
}

fn tokens_of(proxy: &Proxy, idp: &FakeOidc, client: &Client<'_, Proxy>) -> Tokens {
    let reply = sign_in(proxy, idp, client);
    assert_eq!(reply.status, 303, "{}; log:\n{}", reply.text(), proxy.log());
    tokens(&client.redeem(&query(reply.header("location").unwrap())["code"]))
}

#[test]
fn the_upstream_server_sees_what_the_provider_says() {
    let idp = FakeOidc::start(system_time);
    idp.state().claims["groups"] = json!(["a,b", "größe"]);
    let upstream = FakeUpstream::ok();
    let proxy = proxy_with(&idp, Arc::new(Scratch::new()), free_port(), upstream.port, &[("ALLOW_ANY_USER", "1")]);
    let held = tokens_of(&proxy, &idp, &Client::public(&proxy));
    let forged = [("X-Forwarded-Groups", "admins"), ("X_Forwarded_Name", "root"), ("X-Forwarded-Provider", "x")];
    let bearer = format!("Bearer {}", held.access);
    let mut fields = vec![("Authorization", bearer.as_str())];
    fields.extend(forged);
    assert_eq!(proxy.send("POST", "/mcp", &fields, b"{}").status, 200);
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some(format!("oidc:{}:u-alice", idp.issuer()).as_str()));
    assert_eq!(seen.header("x-forwarded-email"), Some("alice@example.com"));
    assert_eq!((seen.header("x-forwarded-name"), seen.header("x-forwarded-provider")), (Some("Alice"), Some("oidc")));
    assert_eq!(seen.header("x-forwarded-groups"), Some("a%2Cb,gr%C3%B6%C3%9Fe"));
    assert_eq!(seen.header("x_forwarded_name"), None);
    // No secret of the provider's in the log.
    for secret in [CLIENT_SECRET, "code-1", "rt-", held.access.as_str()] {
        assert!(!proxy.log().contains(secret), "{secret}");
    }
}

#[test]
fn a_stdio_server_is_told_who_asks() {
    let idp = FakeOidc::start(system_time);
    idp.state().claims = json!({
        "sub": "u-alice", "email": "alice@example.com", "email_verified": true, "name": "Alice Ä.",
        "groups": ["a,b 100%", "engineering"],
    });
    let url = idp.configuration_url();
    let args =
        ["--oidc-configuration-url", &url, "--oidc-client-id", CLIENT_ID, "--oidc-allowed-groups", "engineering"];
    let published = Published::start(&args, &[("OIDC_CLIENT_SECRET", CLIENT_SECRET)]);
    let mut client = published.client();
    client.token = tokens_of(&published.proxy, &idp, &Client::public(&published.proxy)).access;
    client.initialize();
    let env = client.result("environment", json!({}));
    for (name, value) in [
        ("MCP_AUTH_USER", format!("oidc:{}:u-alice", idp.issuer()).as_str()),
        ("MCP_AUTH_EMAIL", "alice@example.com"),
        ("MCP_AUTH_NAME", "Alice Ä."),
        ("MCP_AUTH_GROUPS", "engineering,a%2Cb 100%25"),
        ("MCP_AUTH_PROVIDER", "oidc"),
    ] {
        assert_eq!(env[name], value);
    }
    assert!(!env.to_string().contains(CLIENT_SECRET));
}

#[test]
fn who_is_taken_off_the_list_loses_everything_with_sighup_and_others_nothing() {
    let idp = FakeOidc::start(system_time);
    let data = Arc::new(Scratch::new());
    let list = data.path("users");
    std::fs::write(&list, "# who may\nalice@example.com\n bob@example.com \n").unwrap();
    let upstream = FakeUpstream::start(|request, out| {
        use std::io::Write;
        match request.method.as_str() {
            "GET" => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n";
                out.write_all(head.as_bytes()).unwrap();
                // Open until the other side goes away.
                let _ = out.read(&mut [0]);
            }
            _ => crate::support::upstream::text(out, "200 OK", "", "ok"),
        }
    });
    let env = [("OIDC_ALLOWED_USERS_FILE", list.as_str())];
    let proxy = proxy_with(&idp, data.clone(), free_port(), upstream.port, &env);
    let client = Client::public(&proxy);
    let alice = tokens_of(&proxy, &idp, &client);
    idp.state().claims = json!({"sub": "u-bob", "email": "bob@example.com", "email_verified": true});
    let bob = tokens_of(&proxy, &idp, &client);
    let listen = |tokens: &Tokens| {
        let mut connection = proxy.connect();
        let bearer = format!("Bearer {}", tokens.access);
        let fields = [("Authorization", bearer.as_str())];
        connection.write(crate::support::wire::request("GET", "/mcp", &proxy.host(), &fields, b""));
        assert_eq!(connection.head().unwrap().status, 200);
        assert!(connection.chunk().is_some());
        connection
    };
    let (mut of_alice, of_bob) = (listen(&alice), listen(&bob));
    // A list that can't be read changes nothing.
    std::fs::rename(&list, data.path("aside")).unwrap();
    proxy.signal("HUP");
    proxy.has_logged("nothing has changed");
    assert_eq!(call(&proxy, &alice.access).status, 200);
    std::fs::write(&list, "bob@example.com\n").unwrap();
    proxy.signal("HUP");
    proxy.has_logged("the settings were read again");
    // Alice's stream is cut, her tokens are good for nothing, and so is signing in.
    assert!(of_alice.chunk().is_none_or(|c| c.is_empty()));
    assert_eq!(call(&proxy, &alice.access).status, 401);
    assert_eq!(client.refresh(&alice.refresh).error(), "invalid_grant");
    idp.state().claims = json!({"sub": "u-alice", "email": "alice@example.com", "email_verified": true});
    assert_eq!(sign_in(&proxy, &idp, &client).status, 403);
    // Bob refreshes, which his client does by itself, and goes on; his stream never ended.
    assert_eq!(call(&proxy, &bob.access).status, 401);
    let bob = tokens(&client.refresh(&bob.refresh));
    assert_eq!(call(&proxy, &bob.access).status, 200);
    of_bob.socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut byte = [0];
    let error = (&of_bob.socket).read(&mut byte).unwrap_err();
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
    // A list that has become empty lets nobody in.
    std::fs::write(&list, "").unwrap();
    proxy.signal("HUP");
    eventually("nobody may enter", || call(&proxy, &bob.access).status == 401);
    assert_eq!(client.refresh(&bob.refresh).error(), "invalid_grant");
}

/// A client that was registered before.
fn client_of<'p>(proxy: &'p Proxy, id: &str) -> Client<'p, Proxy> {
    Client { transport: proxy, id: id.into(), secret: None, redirect: crate::support::flow::REDIRECT.into() }
}

#[test]
fn a_restart_with_other_rules_is_as_good() {
    let idp = FakeOidc::start(system_time);
    let (data, port, upstream) = (Arc::new(Scratch::new()), free_port(), FakeUpstream::ok());
    let start = |users: &str| proxy_with(&idp, data.clone(), port, upstream.port, &[("OIDC_ALLOWED_USERS", users)]);
    let mut proxy = start("alice@example.com");
    let id = Client::public(&proxy).id;
    let held = tokens_of(&proxy, &idp, &client_of(&proxy, &id));
    for (users, status, refresh) in [
        ("alice@example.com", 200, 200),
        ("alice@example.com,bob@example.com", 401, 200),
        ("bob@example.com", 401, 400),
    ] {
        proxy.signal("KILL");
        proxy.wait();
        proxy = start(users);
        assert_eq!(call(&proxy, &held.access).status, status, "{users}");
        assert_eq!(client_of(&proxy, &id).refresh(&held.refresh).status, refresh, "{users}");
    }
}

#[test]
fn the_way_to_a_provider_leads_through_a_proxy_and_trusts_another_authority() {
    use std::io::Write;
    let document = json!({
        "issuer": "https://idp.test", "authorization_endpoint": "https://idp.test/authorize",
        "token_endpoint": "https://idp.test/token", "jwks_uri": "https://idp.test/keys",
    });
    let document = document.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{document}", document.len());
    let (port, authority) = crate::support::tls::server("idp.test", answer.into_bytes());
    let scratch = Scratch::new();
    let ca = scratch.path("ca.pem");
    std::fs::write(&ca, authority).unwrap();
    // An HTTP proxy that knows where the provider is.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let through = format!("http://user:p%40ss@127.0.0.1:{}", listener.local_addr().unwrap().port());
    let (sender, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let Some(head) = crate::support::tls::head(&mut client) else { continue };
            sender.send(head).unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let ends = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (mut from, mut to) in ends {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    let upstream = FakeUpstream::ok();
    let start = |env: &[(&str, &str)]| {
        let (data, port) = (Arc::new(Scratch::new()), free_port());
        let mut command = command();
        command.env("OIDC_CLIENT_SECRET", CLIENT_SECRET).env("HTTPS_PROXY", &through).envs(env.iter().copied());
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--external-url", &format!("http://localhost:{port}")]);
        command.args(["--data-path", &data.path("data"), "--oidc-client-id", CLIENT_ID, "--allow-any-user"]);
        command.args(["--oidc-configuration-url", "https://idp.test/.well-known/openid-configuration"]);
        command.arg(format!("http://127.0.0.1:{}", upstream.port));
        Proxy::spawn(command, port, data)
    };
    let proxy = start(&[("CA_FILE", &ca)]);
    let browser = Browser::new(&proxy);
    let page = browser.get(&Client::public(&proxy).authorize(&[]));
    assert!(choose(&browser, &page, "oidc").starts_with("https://idp.test/authorize?"));
    let head = heads.recv().unwrap();
    assert!(head.starts_with("CONNECT idp.test:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"), "{head}");
    assert!(!proxy.log().contains("p%40ss"));
    // Without its authority the provider is nobody; and what NO_PROXY names is not asked by way of the proxy.
    let proxy = start(&[]);
    proxy.has_logged("the provider can't be used");
    heads.recv().unwrap();
    let proxy = start(&[("CA_FILE", &ca), ("NO_PROXY", ".test")]);
    proxy.has_logged("its host name could not be resolved");
}

#[test]
fn a_provider_that_is_down_keeps_nobody_from_starting() {
    let idp = FakeOidc::start(system_time);
    idp.state().failure = Some(("503 Service Unavailable", "<h1>down</h1>".into()));
    let upstream = FakeUpstream::ok();
    let proxy = proxy_with(&idp, Arc::new(Scratch::new()), free_port(), upstream.port, &[("ALLOW_ANY_USER", "1")]);
    proxy.has_logged("the provider can't be used");
    let client = Client::public(&proxy);
    let browser = Browser::new(&proxy);
    let page = browser.get(&client.authorize(&[]));
    assert!(page.text().contains("OIDC can't be reached at the moment"), "{}", page.text());
    let request = hidden(&page, "request");
    let reply = browser.post("/.auth/login", &[("request", &request), ("provider", "oidc")]);
    assert_eq!(reply.status, 502);
    assert!(reply.text().contains("can't be reached") && !reply.text().contains("<h1>down"));
    idp.state().failure = None;
    eventually("the provider is looked at again", || {
        browser.post("/.auth/login", &[("request", &request), ("provider", "oidc")]).status == 200
    });
    assert_eq!(sign_in(&proxy, &idp, &client).status, 303);
    proxy.has_logged("the provider can be used again");
    assert!(!browser.get(&client.authorize(&[])).text().contains("can't be reached"));
}

#[test]
fn options_that_let_nobody_or_anybody_in_by_mistake_are_refused() {
    let refusal = |args: &[&str]| {
        let data = Scratch::new();
        let output =
            command().args(["--data-path", &data.path("data")]).args(args).arg("http://127.0.0.1:1").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("mcp-auth-proxy: ")).collect();
        assert_eq!(lines.len(), 1, "{text}");
        lines[0].to_string()
    };
    let google = ["--google-client-id", "a", "--google-client-secret", "b"];
    let github = ["--github-client-id", "a", "--github-client-secret", "b"];
    let oidc =
        ["--oidc-configuration-url", "https://idp.example.com/x", "--oidc-client-id", "a", "--oidc-client-secret", "b"];
    let with = |base: &[&'static str], more: &[&'static str]| [base, more].concat();
    for (args, names) in [
        (google.to_vec(), "--allow-any-user (ALLOW_ANY_USER)"),
        (github.to_vec(), "GITHUB_ALLOWED_ORGS"),
        (oidc.to_vec(), "OIDC_ALLOWED_USERS_GLOB"),
        (vec!["--google-client-id", "a"], "--google-client-secret (GOOGLE_CLIENT_SECRET) is not"),
        (vec!["--github-client-secret", "a"], "--github-client-id (GITHUB_CLIENT_ID) is not"),
        (vec!["--oidc-client-id", "a", "--oidc-client-secret", "b"], "OIDC_CONFIGURATION_URL"),
        (vec!["--oidc-configuration-url", "https://a/"], "all three"),
        (vec!["--password", "p", "--google-allowed-users", "a@b"], "--google-client-id (GOOGLE_CLIENT_ID) is not"),
        (vec!["--password", "p", "--oidc-allowed-groups", "a"], "OIDC_CONFIGURATION_URL"),
        (with(&github, &["--github-allowed-orgs", "a/b"]), "neither an organisation"),
        (with(&github, &["--github-allowed-orgs", "a:b:c"]), "neither an organisation"),
        (with(&github, &["--github-allowed-users", "a", "--github-url", "http://ghe.example.com"]), "is not https"),
        (with(&oidc, &["--oidc-allowed-users", "a", "--oidc-user-id-field", "email"]), "JSON pointer"),
        (with(&oidc, &["--oidc-allowed-users-glob", "[a"]), "not closed"),
        (with(&oidc, &["--oidc-allowed-attributes", "role=x"]), "OIDC_ALLOWED_ATTRIBUTES"),
        (
            vec![
                "--oidc-configuration-url",
                "https://login.example.com/common/v2.0/.well-known/openid-configuration",
                "--oidc-client-id",
                "a",
                "--oidc-client-secret",
                "b",
                "--oidc-allowed-groups",
                "g",
            ],
            "--oidc-allowed-tenants (OIDC_ALLOWED_TENANTS)",
        ),
        (vec![], "docs/providers.md"),
    ] {
        let text = refusal(&args);
        assert!(text.contains(names), "{args:?}: {text}");
    }
}
