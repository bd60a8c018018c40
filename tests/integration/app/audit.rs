//! The audit log: each event that matters for security, each request to an MCP server, and no secret.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use mcp_auth_proxy::observe::events::{FIELDS, KINDS};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::flow::{Browser, Client, VERIFIER, call, encode, hidden, query, register, tokens};
use crate::support::proxy::{PASSWORD, Proxy, Scratch, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Transport, request};

pub(super) struct Audited {
    pub(super) proxy: Proxy,
    path: String,
}

impl Audited {
    pub(super) fn start(upstream: &FakeUpstream, more: &[&str]) -> Audited {
        let data = Arc::new(Scratch::new());
        let path = data.path("audit.log");
        let args = [&["--audit-log", &path], more].concat();
        Audited { proxy: Proxy::start_in(data, free_port(), upstream.port, &args), path }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// The lines of this event.
    fn all(&self, event: &str) -> Vec<Value> {
        let lines = self.text();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Value| line["event"] == event)
            .collect()
    }

    /// The last line of an event; waits until there are `count`.
    fn nth(&self, event: &str, count: usize) -> Value {
        eventually(&format!("the audit log has {event} {count} times"), || self.all(event).len() >= count);
        self.all(event)[count - 1].clone()
    }

    /// The last line of an event that has these fields; waits for it.
    pub(super) fn has(&self, event: &str, fields: Value) -> Value {
        let matches = |line: &Value| fields.as_object().unwrap().iter().all(|(name, value)| &line[name] == value);
        let mut found = None;
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(&format!("{event} with {fields}"), || {
                found = self.all(event).into_iter().rfind(matches);
                found.is_some()
            });
        }));
        assert!(done.is_ok(), "{event} with {fields} is not in: {}", self.text());
        let line = found.unwrap();
        let definition = KINDS.iter().map(|kind| kind.definition()).find(|known| known.name == event).unwrap();
        for (name, value) in
            line.as_object().unwrap().iter().filter(|(name, _)| !matches!(name.as_str(), "time" | "event"))
        {
            let (_, is_number, _) = FIELDS.iter().find(|(known, ..)| known == name).unwrap();
            assert_eq!(value.is_u64(), *is_number, "{line}");
            assert!(definition.fields.contains(&name.as_str()) || name == "omitted", "{line}");
        }
        line
    }
}

const CALL: &[u8] =
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{"path":"s3cret.txt"}}}"#;

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn what_happens_on_the_way_to_a_tool_is_written_down() {
    let upstream = FakeUpstream::ok();
    let audited = Audited::start(&upstream, &[]);
    let proxy = &audited.proxy;
    audited.has("started", json!({"version": env!("CARGO_PKG_VERSION")}));
    let client = Client::named(proxy, "Notes app");
    let named = json!({"client": client.id, "client_name": "Notes app", "address": "127.0.0.1"});
    let with = |more: Value| {
        let mut all = named.as_object().unwrap().clone();
        all.extend(more.as_object().unwrap().clone());
        Value::Object(all)
    };
    audited.has("client_registered", named.clone());
    let browser = Browser::new(proxy);
    let reply = browser.sign_in(&client.authorize(&[]), "guessed-one");
    assert_eq!(reply.status, 403, "{}", reply.text());
    audited.has("sign_in_failed", json!({"address": "127.0.0.1"}));
    let reply = browser.sign_in(&client.authorize(&[]), PASSWORD);
    let code = query(reply.header("location").unwrap()).remove("code").unwrap();
    audited.has("signed_in", with(json!({"user": "password", "request": reply.header("x-request-id").unwrap()})));
    let consent = audited.has("consent_given", with(json!({"user": "password"})));
    let first = tokens(&client.redeem(&code));
    let grant = json!({"user": "password", "grant": consent["grant"]});
    audited.has("tokens_issued", with(grant.clone()));
    let second = tokens(&client.refresh(&first.refresh));
    audited.has("tokens_refreshed", with(grant.clone()));
    let reply = proxy.send("POST", "/mcp", &[("Authorization", &bearer(&second.access))], CALL);
    let line = audited.nth("mcp_request", 1);
    assert_eq!(line["request"], reply.header("x-request-id").unwrap());
    assert_eq!(
        (&line["mcp_name"], &line["status"], &line["user"]),
        (&json!("read_file"), &json!(200), &json!("password"))
    );
    assert!(line.get("arguments").is_none() && audited.text().lines().all(|line| line.starts_with(r#"{"time":""#)));
    // The old one again, when the new one has been used, is a thief's.
    let third = tokens(&client.refresh(&second.refresh));
    assert_eq!(call(proxy, &third.access).status, 200);
    eventually("the reuse is noticed", || {
        client.refresh(&first.refresh).status == 400 && call(proxy, &third.access).status == 401
    });
    audited.has("refresh_token_reused", with(grant));
    audited.has("bearer_token_refused", json!({"reason": "the token has been revoked"}));
    let twice = client.code();
    assert_eq!((client.redeem(&twice).status, client.redeem(&twice).status), (200, 400));
    audited.has("code_reused", named.clone());
    assert_eq!(client.refresh("invented").status, 400);
    audited.has(
        "token_request_refused",
        json!({"client": client.id, "grant_type": "refresh_token", "error": "invalid_grant"}),
    );

    // Without consent, and back out of it.
    let page = browser.get(&client.authorize(&[("prompt", "login")]));
    browser.post("/.auth/login", &[("request", &hidden(&page, "request")), ("decision", "deny")]);
    audited.has("consent_denied", named.clone());
    let kept = client.tokens();
    let other = Client::named(proxy, "Other app");
    let revoke = |client: &str| {
        let body = encode(&[("client_id", client), ("token", &kept.refresh)]);
        proxy.send("POST", "/.idp/revoke", &[crate::support::flow::FORM], body.as_bytes()).status
    };
    assert_eq!((revoke(&other.id), revoke(&client.id)), (400, 200));
    audited.has("revocation_refused", json!({"client": other.id}));
    audited.has("token_revoked", named.clone());
    let lines = audited.text();
    for secret in [
        &first.access,
        &first.refresh,
        &second.access,
        &second.refresh,
        &kept.refresh,
        &code,
        PASSWORD,
        VERIFIER,
        "s3cret.txt",
        "guessed-one",
    ] {
        assert!(!lines.contains(secret), "{secret} is in the audit log");
        // Nor a part of it: the signature alone would do for some.
        assert!(!lines.contains(secret.rsplit('.').next().unwrap()), "a part of {secret} is in the audit log");
    }
}

#[test]
fn what_strangers_try_is_written_down_but_not_without_end() {
    let upstream = FakeUpstream::ok();
    let audited = Audited::start(&upstream, &[]);
    let proxy = &audited.proxy;
    let mut connection = proxy.connect();
    connection.write(request("GET", "/mcp", "evil.example", &[], b""));
    assert_eq!(connection.reply(false).unwrap().status, 421);
    audited.has("host_refused", json!({"host": "evil.example"}));
    assert_eq!(proxy.send("POST", "/mcp", &[("Origin", "https://evil.example")], CALL).status, 403);
    audited.has("origin_refused", json!({"origin": "https://evil.example"}));
    register(proxy, &json!({"redirect_uris": ["javascript:alert(1)"]}));
    audited.has("registration_refused", json!({"error": "invalid_redirect_uri"}));
    let client = Client::public(proxy);
    let browser = Browser::new(proxy);
    let refused = browser.get(&client.authorize(&[("code_challenge_method", "plain")]));
    assert_eq!(refused.status, 400, "{}", refused.text());
    audited.has("authorization_refused", json!({"client": client.id, "error": "invalid_request"}));
    let forged = [crate::support::flow::FORM, ("Origin", "https://evil.example")];
    proxy.send("POST", "/.auth/logout", &forged, b"form=x");
    audited.has("form_refused", json!({"origin": "https://evil.example"}));
    for _ in 0..300 {
        proxy.send("POST", "/mcp", &[("Authorization", "Bearer invented")], CALL);
    }
    audited.has("bearer_token_refused", json!({"address": "127.0.0.1"}));
    let written = audited.all("bearer_token_refused");
    assert!((50..200).contains(&written.len()), "{}", written.len());
    std::thread::sleep(std::time::Duration::from_millis(250));
    proxy.send("POST", "/mcp", &[("Authorization", "Bearer invented")], CALL);
    eventually("what was left out is counted", || {
        let lines = audited.all("bearer_token_refused");
        let omitted: u64 = lines.iter().filter_map(|line| line["omitted"].as_u64()).sum();
        lines.len() as u64 + omitted >= 301
    });
    // Guessing.
    for _ in 0..40 {
        let page = browser.get(&client.authorize(&[]));
        browser.post(
            "/.auth/login",
            &[("request", &hidden(&page, "request")), ("password", "guess"), ("decision", "allow")],
        );
        if !audited.all("sign_in_throttled").is_empty() {
            break;
        }
    }
    assert!(
        audited.has("sign_in_throttled", json!({"reason": "too many wrong passwords"}))["seconds"].as_u64() > Some(0)
    );
}

#[test]
fn what_the_owner_and_the_user_do_is_written_down() {
    let upstream = FakeUpstream::ok();
    let mut audited = Audited::start(&upstream, &["--api-keys"]);
    let proxy = &audited.proxy;
    proxy.order(&["clients", "add", "nightly"]).unwrap();
    audited.has("operator_added_client", json!({"client": "nightly"}));
    proxy.order(&["clients", "remove", "nightly"]).unwrap();
    audited.has("operator_removed_client", json!({"client": "nightly", "grants": 0}));
    let key = proxy.order(&["keys", "add", "backup"]).unwrap();
    audited.has("operator_added_key", json!({"user": "key:backup"}));
    let key = key["key"].as_str().unwrap().to_string();
    assert_eq!(call(proxy, &key).status, 200);
    proxy.order(&["keys", "revoke", "backup"]).unwrap();
    audited.has("operator_revoked_key", json!({"user": "key:backup"}));
    let client = Client::public(proxy);
    let browser = Browser::new(proxy);
    let reply = browser.sign_in(&client.authorize(&[]), PASSWORD);
    tokens(&client.redeem(&query(reply.header("location").unwrap())["code"]));
    let page = browser.get("/.auth/account");
    let (form, session) = (hidden(&page, "form"), hidden(&page, "session"));
    let act = |more: &[(&str, &str)]| {
        browser.post("/.auth/account", &[&[("form", form.as_str()), ("session", &session)], more].concat())
    };
    act(&[("action", "disconnect"), ("client", &client.id)]);
    audited.has("access_disconnected", json!({"user": "password", "client": client.id, "grants": 1}));
    act(&[("action", "sign-out-others")]);
    audited.has("browsers_signed_out", json!({"user": "password"}));
    let form = hidden(&browser.get("/.auth/login"), "form");
    browser.post("/.auth/logout", &[("form", &form)]);
    audited.has("signed_out", json!({"user": "password"}));
    client.tokens();
    proxy.order(&["grants", "revoke", "--all"]).unwrap();
    audited.has("operator_revoked_grants", json!({"grants": 1}));
    client.tokens();
    proxy.order(&["users", "sign-out", "password"]).unwrap();
    audited.has("operator_signed_out", json!({"user": "password"}));
    proxy.order(&["keys-rotate"]).unwrap();
    audited.has("keys_replaced", json!({}));
    proxy.order(&["keys-rotate", "--compromised"]).unwrap();
    audited.has("keys_compromised", json!({}));
    assert!(!audited.text().contains(&key));
    audited.proxy.signal("TERM");
    audited.proxy.wait();
    audited.has("stopped", json!({}));
}

#[test]
fn a_right_password_after_many_wrong_ones_is_told_of() {
    let upstream = FakeUpstream::ok();
    let audited = Audited::start(&upstream, &[]);
    let client = Client::named(&audited.proxy, "Guesser");
    for (failures, is_told) in [(3, false), (4, true)] {
        let browser = Browser::new(&audited.proxy);
        for _ in 0..failures {
            browser.sign_in(&client.authorize(&[]), "wrong");
        }
        assert_eq!(browser.sign_in(&client.authorize(&[]), PASSWORD).status, 303);
        let line = audited.has("sign_in_failed", json!({"client": client.id, "reason": "wrong password"}));
        assert_eq!(line["address"], "127.0.0.1");
        audited.nth("signed_in", if is_told { 2 } else { 1 });
        assert_eq!(audited.all("signed_in_after_failures").len(), usize::from(is_told), "{failures}");
    }
    audited.has("signed_in_after_failures", json!({"user": "password", "client": client.id, "failures": 4}));
}

#[test]
fn a_server_that_goes_and_comes_is_told_of_once_each() {
    let is_there = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let answers = is_there.clone();
    let upstream = FakeUpstream::start(move |_, out| match answers.load(std::sync::atomic::Ordering::SeqCst) {
        true => crate::support::upstream::text(out, "200 OK", "", "ok"),
        false => drop(out.shutdown(std::net::Shutdown::Both)),
    });
    let audited = Audited::start(&upstream, &[]);
    let token = Client::public(&audited.proxy).tokens().access;
    for (there, status) in [(true, 200), (false, 502), (true, 200)] {
        is_there.store(there, std::sync::atomic::Ordering::SeqCst);
        assert_eq!([(); 3].map(|()| call(&audited.proxy, &token).status), [status; 3]);
    }
    audited.has("server_up", json!({}));
    audited.has("server_down", json!({"reason": "it ended the connection without an answer"}));
    assert_eq!((audited.all("server_down").len(), audited.all("server_up").len()), (1, 1));
}

#[test]
fn a_key_that_is_used_from_two_places_is_told_of_once_for_each() {
    let upstream = FakeUpstream::ok();
    let audited = Audited::start(&upstream, &["--api-keys", "--trusted-proxies", "127.0.0.1"]);
    let key = audited.proxy.order(&["keys", "add", "script"]).unwrap()["key"].as_str().unwrap().to_string();
    let uses = |proxy: &Proxy, address: &str| {
        let headers = [("Authorization", bearer(&key)), ("X-Forwarded-For", address.to_string())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(proxy.send("POST", "/mcp", &headers, CALL).status, 200);
    };
    for _ in 0..5 {
        uses(&audited.proxy, "192.0.2.1");
        uses(&audited.proxy, "198.51.100.9");
        uses(&audited.proxy, "2001:db8::1");
        uses(&audited.proxy, "2001:db8::2");
    }
    audited.nth("mcp_request", 20);
    audited.has("key_used_elsewhere", json!({"user": "key:script", "previous": "192.0.2.1"}));
    let lines = audited.all("key_used_elsewhere");
    let from: Vec<_> = lines.iter().map(|line| (line["previous"].clone(), line["address"].clone())).collect();
    let expected = [("192.0.2.1", "198.51.100.9"), ("198.51.100.9", "2001:db8::1")];
    assert_eq!(from, expected.map(|(previous, address)| (json!(previous), json!(address))));
}

#[test]
fn arguments_are_there_only_if_they_are_wanted() {
    let upstream = FakeUpstream::ok();
    let audited = Audited::start(&upstream, &["--audit-arguments"]);
    let token = bearer(&Client::public(&audited.proxy).tokens().access);
    let odd = "{\n\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"x\",\n\"arguments\":{\"a\":\n\"\u{202e}\\n\"}}}";
    for body in [CALL, odd.as_bytes(), b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}"] {
        audited.proxy.send("POST", "/mcp", &[("Authorization", &token)], body);
    }
    for (body, method) in [
        (format!("[{}]", std::str::from_utf8(CALL).unwrap()), "batch"),
        (std::str::from_utf8(CALL).unwrap().replace(r#""name":"#, r#""Name":"other","name":"#), "ambiguous"),
    ] {
        let headers = [("Authorization", token.as_str()), ("Mcp-Method", "tools/list"), ("Mcp-Name", "harmless")];
        audited.proxy.send("POST", "/mcp", &headers, body.as_bytes());
        eventually(method, || audited.all("mcp_request").iter().any(|line| line["mcp_method"] == method));
        assert!(!audited.text().contains("harmless"), "a header field is not the message");
    }
    audited.nth("mcp_request", 5);
    let lines = audited.all("mcp_request");
    let arguments: Vec<_> = lines.iter().take(3).map(|line| line["arguments"].clone()).collect();
    assert_eq!(arguments, [json!({"path": "s3cret.txt"}), json!({"a": "\u{202e}\n"}), Value::Null]);
    assert!(!audited.text().contains('\u{202e}'), "what could turn the line around is escaped");
}

#[test]
fn a_full_disk_stops_serving_only_if_the_audit_is_required_and_heals() {
    let upstream = FakeUpstream::ok();
    for is_required in [false, true] {
        let data = Arc::new(Scratch::new());
        let path = data.path("audit.log");
        let full = data.path("full");
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        let mut args = vec!["--audit-log", path.as_str()];
        if is_required {
            args.push("--audit-required");
        }
        let proxy = Proxy::start_in(data, free_port(), upstream.port, &args);
        let token = Client::public(&proxy).tokens().access;
        let before = upstream.received().len();
        std::fs::rename(&path, format!("{path}.1")).unwrap();
        std::os::unix::fs::symlink(&full, &path).unwrap();
        proxy.signal("HUP");
        // The line of this one can't be written.
        assert_eq!(call(&proxy, &token).status, 200);
        proxy.has_logged("--audit-log (AUDIT_LOG) can't be written");
        let refused = call(&proxy, &token);
        if is_required {
            assert_eq!(
                (refused.status, refused.error().as_str()),
                (503, "temporarily_unavailable"),
                "{}",
                refused.text()
            );
            assert!(refused.header("retry-after").is_some() && upstream.received().len() == before + 1);
            assert_eq!(Browser::new(&proxy).get("/.auth/login").status, 503, "nobody signs in unseen");
        } else {
            assert_eq!(refused.status, 200);
        }
        assert_eq!(proxy.send("GET", "/.idp/healthz", &[], b"").status, 200);
        std::fs::remove_file(&path).unwrap();
        proxy.has_logged("--audit-log (AUDIT_LOG) is written again");
        eventually("it serves again", || call(&proxy, &token).status == 200);
        let text = std::fs::read_to_string(&path).unwrap();
        // What happened meanwhile has waited.
        assert!(text.lines().filter(|line| line.contains(r#""event":"mcp_request""#)).count() >= 1, "{text}");
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
    }
}

#[test]
fn a_reader_that_stops_is_trouble_too_and_a_file_that_can_not_be_opened_fails_the_reload() {
    let upstream = FakeUpstream::ok();
    let data = Arc::new(Scratch::new());
    let path = data.path("audit.pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let args = ["--audit-log", path.as_str(), "--audit-required"];
    let proxy = Proxy::start_in(data, free_port(), upstream.port, &args);
    let token = Client::public(&proxy).tokens().access;
    // What fits into the pipe is no trouble.
    assert_eq!(call(&proxy, &token).status, 200);
    eventually("requests are refused", || call(&proxy, &token).status == 503);
    drop(reader);
    let refused = proxy.order(&["reload"]).unwrap_err();
    assert!(refused.contains("--audit-log (AUDIT_LOG) can't be opened"), "{refused}");
    std::fs::remove_file(&path).unwrap();
    proxy.order(&["reload"]).unwrap();
    eventually("it serves again", || call(&proxy, &token).status == 200);
}

#[test]
fn options_of_an_audit_log_that_is_not_there_are_an_error() {
    for (args, said) in [
        (&["--audit-arguments"][..], "--audit-arguments (AUDIT_ARGUMENTS)"),
        (&["--audit-required"], "--audit-required (AUDIT_REQUIRED)"),
        (&["--audit-log", "/nowhere/at/all"], "--audit-log (AUDIT_LOG): /nowhere/at/all can't be opened"),
        (&["--audit-log", "/tmp/x.log", "--access-log", "/tmp/x.log"], "the same file"),
    ] {
        let data = Scratch::new();
        let mut command = crate::support::proxy::command();
        command.args(crate::support::proxy::arguments(&data, free_port())).args(args).arg("http://127.0.0.1:1");
        let done = command.output().unwrap();
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && text.contains(said), "{args:?}: {text}");
    }
}

#[test]
fn every_event_is_named_by_a_test() {
    fn sources(folder: &Path, out: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => sources(&entry, out),
                false if entry.extension().is_some_and(|e| e == "rs") => {
                    out.push_str(&std::fs::read_to_string(&entry).unwrap());
                }
                false => {}
            }
        }
    }
    let mut tests = String::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration")), &mut tests);
    tests.retain(|c| !c.is_whitespace());
    let asserted = |name: &str| {
        let ways = [format!(".has(\"{name}\""), format!("told(\"{name}\""), format!("\"event\":\"{name}\"")];
        ways.iter().any(|way| tests.contains(way))
    };
    let missing: BTreeSet<_> = KINDS.iter().map(|kind| kind.definition().name).filter(|name| !asserted(name)).collect();
    assert!(missing.is_empty(), "no test asserts these events: {missing:?}");
}
