//! The account page: a user sees what was allowed and ends it; nobody else does.

use super::htpasswd::{line, start};
use crate::support::flow::{Browser, Client, Tokens, call, hidden, query, tokens};
use crate::support::proxy::{PASSWORD, Proxy};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

use serde_json::json;

fn submit<T: Transport>(
    browser: &Browser<'_, T>,
    page: &crate::support::wire::Reply,
    more: &[(&str, &str)],
) -> crate::support::wire::Reply {
    let (form, session) = (hidden(page, "form"), hidden(page, "session"));
    browser.post("/.auth/account", &[&[("form", form.as_str()), ("session", session.as_str())], more].concat())
}

/// Signs in or consents, and redeems the code.
fn allow(browser: &Browser<'_, Proxy>, client: &Client<'_, Proxy>) -> Tokens {
    let page = browser.get(&client.authorize(&[]));
    let location = match page.text().contains("name=\"password\"") {
        true => browser.post("/.auth/login", &[("request", &hidden(&page, "request")), ("password", PASSWORD)]),
        false => browser.post("/.idp/auth", &[("request", &hidden(&page, "request")), ("decision", "allow")]),
    };
    let code = query(location.header("location").unwrap()).remove("code").unwrap();
    tokens(&client.redeem(&code))
}

/// Whatever the order in which they are carried out: a code that needed no person is worth nothing after the end.
#[test]
fn no_remembered_consent_outlives_a_disconnection_that_races_with_its_use() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let browser = Browser::new(&proxy);
    for round in 0..5 {
        let client = Client::register(
            &proxy,
            json!({"client_name": format!("App {round}"), "redirect_uris": ["https://app.example/callback"], "token_endpoint_auth_method": "none"}),
        );
        allow(&browser, &client);
        let early = browser.get(&client.authorize(&[]));
        assert_eq!(early.status, 303, "the consent is remembered");
        let page = browser.get("/.auth/account");
        let answers = std::thread::scope(|scope| {
            let uses = (0..2).map(|at| {
                let (cookies, proxy, target) = (browser.cookies.clone(), &proxy, client.authorize(&[]));
                scope.spawn(move || {
                    std::thread::sleep(std::time::Duration::from_micros(300 * round * at));
                    Browser { transport: proxy, cookies }.get(&target)
                })
            });
            let uses: Vec<_> = uses.collect();
            let ended = match round % 2 {
                0 => submit(&browser, &page, &[("action", "disconnect"), ("client", &client.id)]).status,
                _ => u16::from(proxy.order(&["grants", "revoke", "--client", &client.id]).is_ok()) * 200,
            };
            assert_eq!(ended, 200);
            uses.into_iter().map(|used| used.join().unwrap()).collect::<Vec<_>>()
        });
        for answer in answers.iter().chain([&early]).filter(|answer| answer.status == 303) {
            let code = query(answer.header("location").unwrap()).remove("code").unwrap();
            assert_eq!(client.redeem(&code).error(), "invalid_grant", "round {round}");
        }
    }
}

#[test]
fn a_user_disconnects_an_application_in_two_clicks() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let (first, second) = (Client::named(&proxy, "Notes <b>app</b>"), Client::named(&proxy, "Other"));
    let browser = Browser::new(&proxy);
    let (one, two) = (allow(&browser, &first), allow(&browser, &second));
    assert_eq!(call(&proxy, &one.access).status, 200);
    assert!(browser.get("/.auth/login").text().contains("/.auth/account"), "the page of who is signed in leads there");
    let page = browser.get("/.auth/account");
    let text = page.text();
    assert!(text.contains("Notes &lt;b&gt;app&lt;/b&gt;") && text.contains("Other"), "{text}");
    assert!(text.contains("from 127.0.0.1") && text.contains("not yet"), "{text}");
    let done = submit(&browser, &page, &[("action", "disconnect"), ("client", &first.id)]);
    assert_eq!(done.status, 200);
    assert!(done.text().contains("Its next request is refused") && !done.text().contains("Notes"), "{}", done.text());
    assert_eq!(call(&proxy, &one.access).status, 401);
    assert_eq!(first.refresh(&one.refresh).error(), "invalid_grant");
    assert_eq!(call(&proxy, &two.access).status, 200);
    let done = submit(&browser, &done, &[("action", "disconnect-all")]);
    assert!(done.text().contains("No application has access"), "{}", done.text());
    assert_eq!(call(&proxy, &two.access).status, 401);
}

#[test]
fn browsers_are_listed_and_signed_out() {
    let proxy = Proxy::start(1, &[]);
    let sign_in = || {
        let browser = Browser::new(&proxy);
        let page = browser.get("/.auth/login");
        browser.post("/.auth/login", &[("request", &hidden(&page, "request")), ("password", PASSWORD)]);
        browser
    };
    let (here, there, third) = (sign_in(), sign_in(), sign_in());
    let page = here.get("/.auth/account");
    assert_eq!(page.text().matches("value=\"sign-out\"").count(), 2);
    let done = submit(&here, &page, &[("action", "sign-out"), ("browser", &hidden(&page, "browser"))]);
    assert!(done.text().contains("The browser is signed out"), "{}", done.text());
    let left = [&there, &third].iter().filter(|b| b.get("/.auth/account").status == 200).count();
    assert_eq!(left, 1);
    let done = submit(&here, &done, &[("action", "sign-out-others")]);
    assert_eq!(done.status, 200);
    for gone in [there, third] {
        assert_eq!(gone.get("/.auth/account").header("location"), Some("/.auth/login"));
    }
    assert_eq!(here.get("/.auth/account").status, 200);
}

#[test]
fn nobody_ends_what_another_user_has_allowed() {
    let upstream = FakeUpstream::ok();
    let users = line("alice", "a-password") + &line("bob", "b-password");
    let proxy = start(&users, "", None, upstream.port, &[]);
    let client = Client::public(&proxy);
    let sign_in = |name: &str, password: &str| {
        let browser = Browser::new(&proxy);
        let page = browser.get(&client.authorize(&[]));
        let fields = [("request", hidden(&page, "request")), ("username", name.into()), ("password", password.into())];
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let reply = browser.post("/.auth/login", &fields);
        let code =
            query(reply.header("location").unwrap_or_else(|| panic!("{}", reply.text()))).remove("code").unwrap();
        let tokens = tokens(&client.redeem(&code));
        drop(reply);
        (browser.cookies.take(), tokens)
    };
    let (alice, of_alice) = sign_in("alice", "a-password");
    let (bob, of_bob) = sign_in("bob", "b-password");
    let browser = |cookies| Browser { transport: &proxy, cookies: std::cell::RefCell::new(cookies) };
    let (alice, bob) = (browser(alice), browser(bob));
    let (page_a, page_b) = (alice.get("/.auth/account"), bob.get("/.auth/account"));
    // The same application, and another's page, form, session or browser.
    submit(&bob, &page_b, &[("action", "disconnect"), ("client", &client.id)]);
    assert_eq!(call(&proxy, &of_alice.access).status, 200);
    assert_eq!(call(&proxy, &of_bob.access).status, 401);
    assert_eq!(submit(&bob, &page_a, &[("action", "disconnect-all")]).status, 400);
    let mixed = [
        ("form", hidden(&page_b, "form")),
        ("session", hidden(&page_a, "session")),
        ("action", "disconnect-all".into()),
    ];
    let mixed: Vec<(&str, &str)> = mixed.iter().map(|(n, v)| (*n, v.as_str())).collect();
    assert_eq!(bob.post("/.auth/account", &mixed).status, 400);
    let browser_of_alice = hidden(&page_a, "session");
    submit(&bob, &page_b, &[("action", "sign-out"), ("browser", &browser_of_alice)]);
    assert_eq!(alice.get("/.auth/account").status, 200, "alice stays signed in");
    // Without a session, from another site, and with the wrong method.
    assert_eq!(Browser::new(&proxy).get("/.auth/account").status, 303);
    let foreign = [("Cookie", String::new()), ("Origin", "https://evil.example".to_string())];
    let cookies: Vec<String> = alice.cookies.borrow().iter().map(|(n, v)| format!("{n}={v}")).collect();
    let headers = [
        ("Cookie", cookies.join("; ")),
        foreign[1].clone(),
        ("Content-Type", "application/x-www-form-urlencoded".into()),
    ];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let body = format!("form={}&session={}&action=disconnect-all", hidden(&page_a, "form"), hidden(&page_a, "session"));
    assert_eq!(proxy.send("POST", "/.auth/account", &headers, body.as_bytes()).status, 400);
    assert_eq!(call(&proxy, &of_alice.access).status, 200);
    let policy = page_a.header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self';"), "{policy}");
}
