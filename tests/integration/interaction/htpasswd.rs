//! Several users without a provider (`--htpasswd-file`), and what servers' rules make of them.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::json;

use crate::support::eventually;
use crate::support::flow::{Browser, Client, Tokens, call, hidden, query, tokens};
use crate::support::proxy::{PASSWORD, Proxy, Scratch, arguments, command, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport};

/// A line of the file, made by the program itself.
pub(super) fn line(name: &str, password: &str) -> String {
    let mut command = command();
    command.args(["hash-password", "--user", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn write(data: &Scratch, name: &str, text: &str) -> String {
    let path = data.path(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// A proxy whose only way to sign in is the file, unless `args` bring another.
pub(super) fn start(
    users: &str,
    groups: &str,
    servers: Option<&serde_json::Value>,
    upstream: u16,
    args: &[&str],
) -> Proxy {
    let (data, port) = (Arc::new(Scratch::new()), free_port());
    let mut command = command();
    let shared: Vec<String> = arguments(&data, port);
    let own = shared.iter().position(|word| word == "--password").unwrap();
    command.args(&shared[..own]).args(args);
    command.args(["--htpasswd-file", &write(&data, "users", users)]);
    if !groups.is_empty() {
        command.args(["--htgroup-file", &write(&data, "groups", groups)]);
    }
    match servers {
        Some(servers) => {
            command.args(["--servers", &write(&data, "mcp.json", &json!({ "mcpServers": servers }).to_string())])
        }
        None => command.arg(format!("http://127.0.0.1:{upstream}")),
    };
    Proxy::spawn(command, port, data)
}

fn sign_in(browser: &Browser<'_, Proxy>, target: &str, name: &str, password: &str) -> Reply {
    let page = browser.get(target);
    let request = hidden(&page, "request");
    browser.post(
        "/.auth/login",
        &[("request", &request), ("username", name), ("password", password), ("decision", "allow")],
    )
}

fn granted(proxy: &Proxy, client: &Client<'_, Proxy>, more: &[(&str, &str)], name: &str, password: &str) -> Tokens {
    let reply = sign_in(&Browser::new(proxy), &client.authorize(more), name, password);
    let location = reply.header("location").unwrap_or_else(|| panic!("{}", reply.text()));
    tokens(&client.redeem(&query(location)["code"]))
}

fn subject(upstream: &FakeUpstream) -> String {
    upstream.last().header("x-forwarded-user").unwrap_or_default().to_string()
}

#[test]
fn each_name_is_a_user_of_its_own() {
    let upstream = FakeUpstream::ok();
    let users = line("alice", "wonderland") + &line("bob", "builder");
    let proxy = start(&users, "", None, upstream.port, &[]);
    let (client, browser) = (Client::public(&proxy), Browser::new(&proxy));
    let page = browser.get(&client.authorize(&[])).text();
    assert!(page.contains("for=\"username\"") && !page.contains("value=\"owner\""), "the page asks for a name");
    for (name, password) in [("alice", "builder"), ("carol", "wonderland"), ("", "wonderland"), ("Alice", "wonderland")]
    {
        let reply = sign_in(&browser, &client.authorize(&[]), name, password);
        assert_eq!(reply.status, 403, "{name}");
        assert!(reply.text().contains("That name and password don't fit") || name.is_empty(), "{}", reply.text());
    }
    let alice = granted(&proxy, &client, &[], "alice", "wonderland");
    assert_eq!(call(&proxy, &alice.access).status, 200);
    assert_eq!(subject(&upstream), "htpasswd:alice");
    let bob = granted(&proxy, &client, &[], " bob ", "builder");
    assert_eq!(call(&proxy, &bob.access).status, 200);
    assert_eq!(subject(&upstream), "htpasswd:bob");
    let log = proxy.log();
    assert!(log.contains("\"user\":\"htpasswd:alice\""));
    assert!(
        !log.contains("carol") && !log.contains("wonderland"),
        "what stands in the field of the name may be a password"
    );
}

#[test]
fn a_shared_password_stands_beside_the_names() {
    let upstream = FakeUpstream::ok();
    let proxy = start(&line("alice", "wonderland"), "", None, upstream.port, &["--password", PASSWORD]);
    let client = Client::public(&proxy);
    let owner = granted(&proxy, &client, &[], "", PASSWORD);
    call(&proxy, &owner.access);
    assert_eq!(subject(&upstream), "password");
    let reply = sign_in(&Browser::new(&proxy), &client.authorize(&[]), "alice", PASSWORD);
    assert_eq!(reply.status, 403, "it is nobody's own password");
    let alice = granted(&proxy, &client, &[], "alice", "wonderland");
    call(&proxy, &alice.access);
    assert_eq!(subject(&upstream), "htpasswd:alice");
}

#[test]
fn who_is_taken_out_or_changes_the_password_is_signed_out_and_the_others_are_not() {
    let upstream = FakeUpstream::ok();
    let (alice, bob, carol) = (line("alice", "one"), line("bob", "two"), line("carol", "three"));
    let proxy = start(&(alice.clone() + &bob + &carol), "", None, upstream.port, &[]);
    let client = Client::public(&proxy);
    let grant = |name, password| granted(&proxy, &client, &[], name, password);
    let (a, b, c) = (grant("alice", "one"), grant("bob", "two"), grant("carol", "three"));
    let browser = Browser::new(&proxy);
    let page = browser.get("/.auth/login");
    browser.post("/.auth/login", &[("request", &hidden(&page, "request")), ("username", "bob"), ("password", "two")]);
    assert!(browser.get("/.auth/login").text().contains("You are signed in"));
    write(&proxy.data, "users", &(alice + &line("carol", "four")));
    proxy.signal("HUP");
    eventually("bob is out", || call(&proxy, &b.access).status == 401);
    assert_eq!(client.refresh(&b.refresh).error(), "invalid_grant");
    assert!(!browser.get("/.auth/login").text().contains("You are signed in"));
    assert_eq!((call(&proxy, &c.access).status, call(&proxy, &a.access).status), (401, 200));
    assert_eq!(client.refresh(&c.refresh).error(), "invalid_grant", "another password is another credential");
    assert!(!client.refresh(&a.refresh).text().contains("error"));
    // The lists have what can be used, and take the names of the file.
    let list = |words: &[&str]| proxy.order(words).unwrap().as_array().unwrap().len();
    assert_eq!((list(&["grants", "list"]), list(&["users", "list"])), (1, 1));
    assert_eq!((list(&["grants", "list", "--user", "alice"]), list(&["grants", "list", "--user", "carol"])), (1, 0));
    grant("carol", "four");
    // A file with an error changes nothing.
    write(&proxy.data, "users", "alice:{SHA}x\n");
    proxy.signal("HUP");
    proxy.has_logged("line 1: the hash of 'alice' is not a bcrypt hash");
    write(&proxy.data, "users", "# being written\n");
    proxy.signal("HUP");
    proxy.has_logged("there is no user in it");
    assert_eq!(call(&proxy, &a.access).status, 200);
}

#[test]
fn a_second_user_with_narrower_rules_sees_only_what_is_his() {
    let upstream = FakeUpstream::ok();
    let url = json!({ "url": format!("http://127.0.0.1:{}/mcp", upstream.port) });
    let with = |allow: serde_json::Value| {
        let mut server = url.clone();
        server["proxy"] = json!({ "allow": allow });
        server
    };
    let servers = json!({
        "notes": url,
        "ledger": with(json!({ "groups": ["finance"] })),
        "diary": with(json!({ "users": ["alice"] })),
        "lab": with(json!({ "patterns": ["b*"] })),
    });
    let users = line("alice", "one") + &line("bob", "two");
    let proxy = start(&users, "finance: alice carol\n", Some(&servers), 0, &[]);
    let client = Client::public(&proxy);
    let choices = |name: &str, password: &str| -> Vec<String> {
        let browser = Browser::new(&proxy);
        let page = browser.get(&client.authorize(&[]));
        let fields = [("request", hidden(&page, "request")), ("username", name.into()), ("password", password.into())];
        let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let html = browser.post("/.auth/login", &fields).text();
        let boxes = html.split("name=\"server\" value=\"").skip(1);
        boxes.map(|rest| rest.split('"').next().unwrap().to_string()).collect()
    };
    assert_eq!(choices("alice", "one"), ["diary", "ledger", "notes"]);
    assert_eq!(choices("bob", "two"), ["lab", "notes"]);
    // The page of the house has a card for each of his, and for no other.
    let browser = Browser::new(&proxy);
    let html = |browser: &Browser<'_, Proxy>| browser.get_page("/").text();
    assert!(html(&browser).contains("Sign in to see which of them you may use") && !html(&browser).contains("notes"));
    let page = browser.get("/.auth/login");
    browser.post("/.auth/login", &[("request", &hidden(&page, "request")), ("username", "bob"), ("password", "two")]);
    let cards = html(&browser);
    for (name, is_his) in [("notes", true), ("lab", true), ("ledger", false), ("diary", false)] {
        assert_eq!(cards.contains(&format!("{}/{name}/mcp", proxy.origin())), is_his, "{name}");
    }
    assert!(cards.contains("claude mcp add --transport http notes") && cards.contains("vscode:mcp/install?"));
    // He is refused what is hers, and gets what is his.
    let ledger = format!("{}/ledger/mcp", proxy.origin());
    let browser = Browser::new(&proxy);
    let page = sign_in(&browser, &client.authorize(&[("resource", &ledger)]), "bob", "two");
    assert!(page.status == 403 && page.text().contains("This account may not use ledger"), "{}", page.text());
    let notes = format!("{}/notes/mcp", proxy.origin());
    let bob = granted(&proxy, &client, &[("resource", &notes)], "bob", "two");
    let bearer = format!("Bearer {}", bob.access);
    let get = |path: &str| proxy.send("GET", path, &[("Authorization", &bearer)], b"").status;
    assert_eq!((get("/notes/mcp"), get("/ledger/mcp"), get("/diary/mcp")), (200, 401, 401));
    // The groups change: what alice has of the ledger ends with the next refresh.
    let alice = granted(&proxy, &client, &[("resource", &ledger)], "alice", "one");
    write(&proxy.data, "groups", "finance: bob\n");
    proxy.signal("HUP");
    proxy.has_logged("the settings were read again");
    assert_eq!(client.refresh(&alice.refresh).error(), "invalid_grant");
    assert_eq!(choices("bob", "two"), ["lab", "ledger", "notes"]);
}

#[test]
fn guesses_at_a_name_are_slowed_and_leave_its_user_alone() {
    let upstream = FakeUpstream::ok();
    let users = line("alice", "wonderland") + &line("bob", "builder");
    let proxy = start(&users, "", None, upstream.port, &["--trusted-proxies", "127.0.0.1"]);
    let client = Client::public(&proxy);
    let owner = Browser::new(&proxy);
    assert_eq!(sign_in(&owner, &client.authorize(&[]), "alice", "wonderland").status, 303);
    let guess = |i: u32, name: &str| {
        let browser = Browser::new(&proxy);
        let page = browser.get(&client.authorize(&[]));
        let cookies: Vec<String> = browser.cookies.borrow().iter().map(|(n, v)| format!("{n}={v}")).collect();
        let address = format!("198.{}.{}.1", 18 + i / 200, i % 200);
        let body = crate::support::flow::encode(&[
            ("request", &hidden(&page, "request")),
            ("username", name),
            ("password", "x"),
            ("decision", "allow"),
        ]);
        let fields = [
            ("Cookie", cookies.join("; ")),
            ("X-Forwarded-For", address),
            ("Origin", proxy.origin()),
            ("Content-Type", "application/x-www-form-urlencoded".into()),
        ];
        let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        proxy.send("POST", "/.auth/login", &fields, body.as_bytes()).status
    };
    let answers: Vec<u16> = (0..40).map(|i| guess(i * 17, "alice")).collect();
    assert!(answers[..20].iter().all(|status| *status == 403), "{answers:?}");
    assert!(answers.contains(&429), "{answers:?}");
    assert_eq!(guess(3_000, "bob"), 403, "another name is not slowed");
    let target = client.authorize(&[("prompt", "login")]);
    assert_eq!(sign_in(&owner, &target, "alice", "wonderland").status, 303, "a browser that she has signed in with");
}
