//! Signing in and out: cookies, sessions, the throttle.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::support::eventually;
use crate::support::flow::{Browser, Client, call, encode, hidden, tokens};
use crate::support::proxy::{PASSWORD, Proxy, Scratch, arguments, command, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport};

fn try_password(browser: &Browser<'_, Proxy>, page: &Reply, password: &str) -> Reply {
    browser
        .post("/.auth/login", &[("request", &hidden(page, "request")), ("password", password), ("decision", "allow")])
}

#[test]
fn a_wrong_password_shows_the_page_again_and_signs_nobody_in() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let browser = Browser::new(&proxy);
    let page = browser.get(&client.authorize(&[]));
    for wrong in ["", "a-guess", &PASSWORD[1..], &format!("{PASSWORD} "), "\0"] {
        let reply = try_password(&browser, &page, wrong);
        assert_eq!(reply.status, 403, "{wrong:?}");
        assert!(reply.text().contains("role=\"alert\"") && reply.text().contains("aria-invalid=\"true\""));
        assert!(!reply.headers.iter().any(|(_, v)| v.contains("session")), "{wrong:?}");
    }
    proxy.has_logged("a sign-in failed");
    assert!(!proxy.log().contains("a-guess"), "a password that was tried is in the log");
}

#[test]
fn guessing_meets_growing_delays_and_the_owners_browser_does_not() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let owner = Browser::new(&proxy);
    assert_eq!(owner.sign_in(&client.authorize(&[]), PASSWORD).status, 303);

    let stranger = Browser::new(&proxy);
    let page = stranger.get(&client.authorize(&[]));
    let replies: Vec<Reply> = (0..8).map(|i| try_password(&stranger, &page, &format!("guess {i}"))).collect();
    assert!(replies[..5].iter().all(|r| r.status == 403));
    assert!(replies[5..].iter().all(|r| r.status == 429 && r.header("retry-after").is_some()));
    assert_eq!(
        try_password(&stranger, &page, PASSWORD).status,
        429,
        "the right one too, or guesses would be told apart"
    );
    // Another browser at the same address is a stranger as well.
    let newcomer = Browser::new(&proxy);
    let page = newcomer.get(&client.authorize(&[]));
    assert_eq!(try_password(&newcomer, &page, PASSWORD).status, 429);

    let page = owner.get(&client.authorize(&[("prompt", "login")]));
    assert_eq!(try_password(&owner, &page, PASSWORD).status, 303);
}

#[test]
fn a_session_is_new_at_each_sign_in_and_ends_with_sign_out() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let browser = Browser::new(&proxy);
    let session = |b: &Browser<'_, Proxy>| {
        b.cookies.borrow().iter().find(|(n, _)| n.ends_with("_session")).map(|(_, v)| v.clone())
    };
    browser.sign_in(&client.authorize(&[]), PASSWORD);
    let first = session(&browser).unwrap();
    browser.sign_in(&client.authorize(&[("prompt", "login")]), PASSWORD);
    let second = session(&browser).unwrap();
    assert_ne!(first, second);

    let page = browser.get("/.auth/login");
    assert!(page.text().contains("You are signed in"));
    let out = browser.post("/.auth/logout", &[("form", &hidden(&page, "form"))]);
    assert!(out.status == 200 && out.text().contains("You are signed out"));
    assert_eq!(session(&browser), None);
    for old in [first, second] {
        let name =
            browser.cookies.borrow().keys().find(|n| n.ends_with("_browser")).unwrap().replace("_browser", "_session");
        browser.cookies.borrow_mut().insert(name, old);
        assert!(browser.get("/.auth/login").text().contains("type=\"password\""), "the old cookie is worth nothing");
    }
    assert_eq!(browser.get("/.auth/logout").status, 303, "GET signs nobody out");
}

#[test]
fn signing_in_without_a_client_works_and_is_proof_against_forgery() {
    let proxy = Proxy::start(1, &[]);
    let browser = Browser::new(&proxy);
    let reply = browser.sign_in("/.auth/login", PASSWORD);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/.auth/login")));
    let other = Browser::new(&proxy);
    let forged = hidden(&other.get("/.auth/login"), "request");
    assert_eq!(browser.post("/.auth/login", &[("request", &forged), ("password", PASSWORD)]).status, 400);
}

#[test]
fn cookies_are_named_after_the_issuer_and_kept_from_scripts_and_other_sites() {
    let upstream = FakeUpstream::ok();
    let plain = Proxy::start(upstream.port, &[]);
    let (scratch, port) = (std::sync::Arc::new(Scratch::new()), free_port());
    let mut over_tls = command();
    over_tls.args(arguments(&scratch, port)).args([
        "--external-url",
        "https://mcp.example.com",
        "--no-auto-tls",
        "http://127.0.0.1:1",
    ]);
    let over_tls = Proxy::spawn(over_tls, port, scratch);
    let cookie = |proxy: &Proxy| proxy.send("GET", "/.auth/login", &[], b"").header("set-cookie").unwrap().to_string();
    let (a, b) = (cookie(&plain), cookie(&over_tls));
    assert!(a.starts_with("mcp_") && !a.contains("Secure"), "{a}");
    assert!(b.starts_with("__Host-mcp_") && b.contains("; Secure"), "{b}");
    for text in [&a, &b] {
        assert!(text.contains("; Path=/; HttpOnly; SameSite=Lax") && !text.contains("Domain"), "{text}");
    }
    let name = |text: &str| text.split('=').next().unwrap().trim_start_matches("__Host-").to_string();
    assert_ne!(name(&a), name(&b));
}

#[test]
fn changing_the_password_ends_what_it_began() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::public(&proxy);
    let browser = Browser::new(&proxy);
    browser.sign_in(&client.authorize(&[]), PASSWORD);
    let before = client.tokens();
    let (id, cookies) = (client.id.clone(), browser.cookies.borrow().clone());

    let proxy = proxy.crash_and_restart(upstream.port, &["--password", "another one"]);
    let client =
        Client { transport: &proxy, id: id.clone(), secret: None, redirect: crate::support::flow::REDIRECT.into() };
    assert_eq!(call(&proxy, &before.access).status, 401);
    let browser = Browser::new(&proxy);
    *browser.cookies.borrow_mut() = cookies.clone();
    assert!(browser.get(&client.authorize(&[])).text().contains("type=\"password\""));

    // Nor does setting it again bring back what it began, also what nobody presented meanwhile.
    let proxy = proxy.crash_and_restart(upstream.port, &[]);
    let client = Client { transport: &proxy, id, secret: None, redirect: crate::support::flow::REDIRECT.into() };
    assert_eq!(call(&proxy, &before.access).status, 401);
    let browser = Browser::new(&proxy);
    *browser.cookies.borrow_mut() = cookies;
    assert!(browser.get(&client.authorize(&[])).text().contains("type=\"password\""));
    assert_eq!(
        client.refresh(&before.refresh).error(),
        "invalid_grant",
        "changing it back does not bring the grant back"
    );
}

#[test]
fn a_password_hash_signs_in_beside_the_password() {
    let hash = bcrypt::hash("the hashed one", 4).unwrap();
    let proxy = Proxy::start(1, &["--password-hash", &hash]);
    let client = Client::public(&proxy);
    for password in [PASSWORD, "the hashed one"] {
        assert_eq!(Browser::new(&proxy).sign_in(&client.authorize(&[]), password).status, 303);
    }
    assert_eq!(Browser::new(&proxy).sign_in(&client.authorize(&[]), &hash).status, 403, "the hash is no password");
}

#[test]
fn password_checks_hold_up_neither_tokens_nor_one_another_for_long() {
    // A cost that keeps the cores busy for seconds; the queue has room for one.
    let hash = bcrypt::hash("slow", 4).unwrap().replace("$04$", "$14$");
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &["--password-hash", &hash, "--password-queue", "1"]);
    let client = Client::register(
        &proxy,
        json!({"client_name": "busy", "redirect_uris": ["http://127.0.0.1/"], "token_endpoint_auth_method": "none"}),
    );
    let token = client.tokens().access;
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().unwrap().get();
        let guesses: Vec<_> = (0..cores + 4)
            .map(|_| {
                let (proxy, client) = (&proxy, &client);
                scope.spawn(move || Browser::new(proxy).sign_in(&client.authorize(&[]), "wrong").status)
            })
            .collect();
        for _ in 0..50 {
            assert_eq!(call(&proxy, &token).status, 200);
        }
        let statuses: Vec<u16> = guesses.into_iter().map(|g| g.join().unwrap()).collect();
        assert!(statuses.contains(&503), "{statuses:?}");
    });
    proxy.has_logged(r#""event":"sign_in_queue_full""#);
}

#[test]
fn the_log_tells_what_happened_and_no_secret() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(
        upstream.port,
        &["--proxy-bearer-token", "upstream-secret-token", "--proxy-headers", "X-Key:header-secret"],
    );
    let client = Client::register(&proxy, json!({"client_name": "2026", "redirect_uris": ["https://a.example/cb"]}));
    let browser = Browser::new(&proxy);
    browser.sign_in(&client.authorize(&[("state", "state-secret")]), "wrong-password-secret");
    let code = client.code();
    let first = tokens(&client.redeem(&code));
    let second = tokens(&client.refresh(&first.refresh));
    proxy.send(
        "GET",
        "/mcp?access_token=query-secret",
        &[("Authorization", &format!("Bearer {}", second.access))],
        b"body-secret",
    );
    call(&proxy, "token-secret");
    // The last request of all: once it is in the log, everything before it is.
    proxy.send("GET", "/.well-known/the-end", &[], b"");
    proxy.has_logged("the-end");
    let log = proxy.log();
    for event in [
        "a client registered",
        "a sign-in failed",
        "signed in",
        "the user allowed access to the client",
        "tokens were issued",
        "tokens were refreshed",
        "ready",
    ] {
        assert!(log.contains(event), "{event} is missing in\n{log}");
    }
    // Whoever reads it knows clients by their names; a name of digits is a text all the same.
    let lines: Vec<serde_json::Value> = log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    for event in [
        "a client registered",
        "signed in",
        "the user allowed access to the client",
        "tokens were issued",
        "tokens were refreshed",
    ] {
        let line = lines.iter().find(|l| l["message"] == event).unwrap();
        assert_eq!(line["client_name"], "2026", "{line}");
    }
    let cookies = browser.cookies.borrow();
    let mut secrets = vec![
        PASSWORD,
        "wrong-password-secret",
        "upstream-secret-token",
        "header-secret",
        "state-secret",
        "query-secret",
        "body-secret",
        "token-secret",
        &code,
        &first.access,
        &first.refresh,
        &second.access,
        &second.refresh,
        client.secret.as_deref().unwrap(),
        crate::support::flow::VERIFIER,
    ];
    secrets.extend(cookies.values().map(String::as_str));
    let master = std::fs::read_to_string(proxy.data.path("data/secret")).unwrap();
    secrets.push(master.trim());
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(!log.contains('\u{1b}') && log.lines().all(|l| l.starts_with('{') && l.ends_with('}')), "{log}");
}

/// Strangers' attempts, however many, hold the owner's browser up for a check of theirs and no longer.
#[test]
fn a_known_browser_signs_in_while_strangers_fill_the_queue() {
    let hash = bcrypt::hash("something slow", 12).unwrap();
    let proxy = Proxy::start(1, &["--password-hash", &hash, "--password-queue", "2", "--trusted-proxies", "127.0.0.1"]);
    let client = Client::public(&proxy);
    let owner = Browser::new(&proxy);
    assert_eq!(owner.sign_in(&client.authorize(&[]), PASSWORD).status, 303);
    owner.cookies.borrow_mut().retain(|name, _| !name.ends_with("_session"));
    let (over, busy) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..12u32 {
            let (proxy, over, busy) = (&proxy, &over, &busy);
            scope.spawn(move || {
                let page = Browser::new(proxy);
                let request = hidden(&page.get("/.auth/login"), "request");
                let cookie =
                    page.cookies.borrow().iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ");
                let form = encode(&[("request", request.as_str()), ("password", "a guess")]);
                let mut next = 0u32;
                while !over.load(Ordering::SeqCst) {
                    next += 1;
                    // Another address each time, so that none is slowed down.
                    let from = format!("10.{}.{}.{}", thread, next >> 8, next & 255);
                    let fields = [
                        ("Content-Type", "application/x-www-form-urlencoded"),
                        ("Cookie", cookie.as_str()),
                        ("X-Forwarded-For", from.as_str()),
                    ];
                    if proxy.send("POST", "/.auth/login", &fields, form.as_bytes()).status == 503 {
                        busy.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        eventually("strangers find the queue full", || busy.load(Ordering::SeqCst) > 10);
        for _ in 0..4 {
            let page = owner.get("/.auth/login");
            let form = [("request", hidden(&page, "request")), ("password", PASSWORD.to_string())];
            let reply = owner.post("/.auth/login", &form.each_ref().map(|(n, v)| (*n, v.as_str())));
            owner.cookies.borrow_mut().retain(|name, _| !name.ends_with("_session"));
            if reply.status != 303 {
                over.store(true, Ordering::SeqCst);
            }
            assert_eq!(reply.status, 303, "{}", reply.text());
        }
        over.store(true, Ordering::SeqCst);
    });
}

/// A reverse proxy that nobody has named is told of, once.
#[test]
fn a_reverse_proxy_that_is_not_named_is_told_of() {
    let proxy = Proxy::start(1, &[]);
    for _ in 0..3 {
        proxy.send("GET", "/.auth/login", &[("X-Forwarded-For", "203.0.113.9")], b"");
    }
    proxy
        .has_logged("a reverse proxy is in front of this one that is not named in --trusted-proxies (TRUSTED_PROXIES)");
    assert_eq!(proxy.log().matches("a reverse proxy is in front").count(), 1);
    let named = Proxy::start(1, &["--trusted-proxies", "127.0.0.1"]);
    named.send("GET", "/.auth/login", &[("X-Forwarded-For", "203.0.113.9")], b"");
    assert!(!named.log().contains("a reverse proxy is in front"));
}
