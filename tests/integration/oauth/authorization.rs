//! Registration and the authorization endpoint, with the attacks on each.

use serde_json::json;

use crate::support::eventually;
use crate::support::flow::{Browser, Client, REDIRECT, VERIFIER, challenge, encode, hidden, query, register};
use crate::support::proxy::{PASSWORD, Proxy};
use crate::support::wire::{Reply, Transport};

fn location(reply: &Reply) -> String {
    assert_eq!(reply.status, 303, "{}", reply.text());
    reply.header("location").unwrap().to_string()
}

#[test]
fn a_registration_answers_with_what_clients_look_for() {
    let proxy = Proxy::start(1, &[]);
    let public = register(
        &proxy,
        &json!({"client_name": "x", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "scope": "mcp offline_access profile"}),
    );
    let answer = public.json();
    assert_eq!(public.status, 201);
    assert_eq!(public.header("cache-control"), Some("no-store"));
    assert_eq!(answer["redirect_uris"], json!([REDIRECT]));
    assert_eq!(answer["grant_types"], json!(["authorization_code", "refresh_token"]));
    assert_eq!(answer["response_types"], json!(["code"]));
    assert_eq!(answer["token_endpoint_auth_method"], "none");
    assert_eq!(answer["application_type"], "native");
    assert_eq!(answer["scope"], "mcp offline_access");
    assert!(answer["client_secret"].is_null());
    let confidential = register(
        &proxy,
        &json!({"redirect_uris": ["https://a/cb"], "token_endpoint_auth_method": "client_secret_post"}),
    )
    .json();
    for name in ["client_id", "client_secret"] {
        let value = confidential[name].as_str().unwrap();
        assert!(
            value.len() >= 20 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
            "{name}"
        );
    }
    assert_eq!(confidential["client_secret_expires_at"], 0);
}

#[test]
fn registering_again_gives_the_same_client_and_writes_nothing() {
    let proxy = Proxy::start(1, &[]);
    let ids: Vec<String> = (0..150).map(|_| Client::public(&proxy).id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "150 registrations of one address pass, since only the first is one");
    proxy.has_logged("a client registered");
    assert_eq!(proxy.log().matches("a client registered").count(), 1);
}

#[test]
fn registrations_of_one_address_have_a_rate_and_bad_ones_are_refused() {
    let proxy = Proxy::start(1, &[]);
    let statuses: Vec<u16> = (0..130)
        .map(|i| register(&proxy, &json!({"client_name": i.to_string(), "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"})).status)
        .collect();
    assert!(statuses[..100].iter().all(|s| *s == 201));
    assert!(statuses.contains(&429), "{statuses:?}");
    for uri in [
        "javascript:alert(1)",
        "http://evil.example/",
        "https://u@a/",
        "https://a/#f",
        "https://a/*",
        "https://a\\b/",
        "data:x",
        "file:///x",
    ] {
        let reply = register(&proxy, &json!({"redirect_uris": [REDIRECT, uri]}));
        assert_eq!((reply.status, reply.error().as_str()), (400, "invalid_redirect_uri"), "{uri}");
    }
    let json_type = ("Content-Type", "application/json; charset=utf-8");
    let deep = format!("{{\"redirect_uris\":{}", "[".repeat(10_000));
    for body in ["", "[]", "{", "null", deep.as_str()] {
        let reply = proxy.send("POST", "/.idp/register", &[json_type], body.as_bytes());
        assert_eq!(reply.status, 400, "{}", &body[..body.len().min(20)]);
    }
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(100_000));
    assert_eq!(proxy.send("POST", "/.idp/register", &[json_type], huge.as_bytes()).status, 413);
    // What any page can send without asking is no registration.
    let good = json!({"redirect_uris": [REDIRECT]}).to_string();
    for fields in [&[][..], &[("Content-Type", "text/plain")], &[("Content-Type", "application/x-www-form-urlencoded")]]
    {
        assert_eq!(proxy.send("POST", "/.idp/register", fields, good.as_bytes()).status, 415, "{fields:?}");
    }
}

#[test]
fn one_page_signs_in_and_consents() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::named(&proxy, "<script>Client & Co\u{202e}");
    let browser = Browser::new(&proxy);
    let page = browser.get(&client.authorize(&[("resource", &format!("{}/mcp", proxy.origin()))]));
    let html = page.text();
    assert!(
        html.contains("&lt;script&gt;Client &amp; Co") && !html.contains("<script") && !html.contains('\u{202e}'),
        "{html}"
    );
    assert!(html.contains("a program on this computer") && html.contains("Any program on this computer can ask"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("form-action 'self' http://127.0.0.1:5000;"),
        "{policy}"
    );
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    assert_eq!(page.header("referrer-policy"), Some("same-origin"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let answer = browser
        .post("/.auth/login", &[("request", &hidden(&page, "request")), ("password", PASSWORD), ("decision", "allow")]);
    let answer = query(&location(&answer));
    assert_eq!(answer["state"], "s t&te");
    assert_eq!(answer["iss"], proxy.origin());
    assert!(answer["code"].len() > 40);
}

#[test]
fn get_may_be_repeated_and_two_applications_may_sign_in_side_by_side() {
    let proxy = Proxy::start(1, &[]);
    let (a, b) = (Client::named(&proxy, "a"), Client::named(&proxy, "b"));
    let browser = Browser::new(&proxy);
    let pages: Vec<Reply> = [&a, &b, &a].iter().map(|c| browser.get(&c.authorize(&[]))).collect();
    for (client, page) in [&a, &b].iter().zip(&pages) {
        let reply = browser.post(
            "/.auth/login",
            &[("request", &hidden(page, "request")), ("password", PASSWORD), ("decision", "allow")],
        );
        let code = query(&location(&reply))["code"].clone();
        assert_eq!(client.redeem(&code).status, 200);
    }
    // FastMCP fetches the URL itself before it opens the browser.
    assert_eq!(proxy.send("GET", &a.authorize(&[]), &[], b"").status, 200);
}

#[test]
fn until_client_and_redirect_uri_are_proven_nothing_is_redirected() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::register(
        &proxy,
        json!({"redirect_uris": ["https://app.example/cb"], "token_endpoint_auth_method": "none"}),
    );
    let get = |target: &str| proxy.send("GET", target, &[], b"");
    let evil = [
        "https://evil.example/cb",
        "https://app.example/cb/",
        "https://app.example/cb?x",
        "https://app.example.evil/cb",
        "https://app.example@evil/cb",
        "http://app.example/cb",
        "https://APP.example/cb/..",
        "javascript:alert(1)",
        "//app.example/cb",
    ];
    let mut targets: Vec<String> = evil.iter().map(|uri| client.authorize(&[("redirect_uri", uri)])).collect();
    targets.push(client.authorize(&[("client_id", "unknown")]));
    targets.push("/.idp/auth".into());
    targets.push(format!("{}&client_id=x", client.authorize(&[])));
    targets.push(format!("{}&redirect_uri=https%3A%2F%2Fevil.example", client.authorize(&[])));
    for target in targets {
        let reply = get(&target);
        assert_eq!((reply.status, reply.header("location")), (400, None), "{target}");
        assert!(reply.text().contains("<h1>"));
    }
}

#[test]
fn errors_of_a_proven_client_go_to_its_redirect_uri_with_state_and_iss() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let short = "x".repeat(42);
    for (change, code) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("response_type", ""), "invalid_request"),
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge", short.as_str()), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge_method", ""), "invalid_request"),
        (("resource", "https://elsewhere.example/mcp"), "invalid_target"),
        (("response_mode", "fragment"), "invalid_request"),
        (("request", "x"), "request_not_supported"),
        (("prompt", "none"), "login_required"),
    ] {
        let page = proxy.send("GET", &client.authorize(&[change]), &[], b"");
        assert_eq!(page.status, 400, "{change:?}");
        let to = page.text().split("href=\"").find(|part| part.starts_with(REDIRECT)).unwrap().to_string();
        let to = to.split('"').next().unwrap().replace("&amp;", "&");
        let answer = query(&to);
        assert!(to.starts_with(REDIRECT), "{to}");
        assert_eq!(
            (answer["error"].as_str(), answer["state"].as_str(), answer["iss"].as_str()),
            (code, "s t&te", proxy.origin().as_str()),
            "{change:?}"
        );
    }
}

#[test]
fn loopback_ports_may_differ_and_a_sole_redirect_uri_may_be_left_out() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::register(
        &proxy,
        json!({"redirect_uris": ["http://localhost/callback"], "token_endpoint_auth_method": "none"}),
    );
    for uri in ["http://localhost:54321/callback", "http://127.0.0.1:1/callback"] {
        assert_eq!(proxy.send("GET", &client.authorize(&[("redirect_uri", uri)]), &[], b"").status, 200, "{uri}");
    }
    let reply = Browser::new(&proxy).sign_in(&client.authorize(&[("redirect_uri", "")]), PASSWORD);
    let code = query(&location(&reply))["code"].clone();
    let grant = [("grant_type", "authorization_code"), ("code", &code), ("code_verifier", VERIFIER)];
    assert_eq!(client.token_request(&grant).status, 200);
}

#[test]
fn denying_needs_no_password_and_tells_the_client() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let browser = Browser::new(&proxy);
    let page = browser.get(&client.authorize(&[]));
    let reply =
        browser.post("/.auth/login", &[("request", &hidden(&page, "request")), ("password", ""), ("decision", "deny")]);
    let answer = query(&location(&reply));
    assert_eq!((answer["error"].as_str(), answer["iss"].as_str()), ("access_denied", proxy.origin().as_str()));
}

#[test]
fn a_session_leads_to_consent_which_is_remembered_for_web_redirects_only() {
    let proxy = Proxy::start(1, &[]);
    let web = Client::register(
        &proxy,
        json!({"client_name": "web", "redirect_uris": ["https://app.example/cb"], "token_endpoint_auth_method": "none"}),
    );
    let local = Client::public(&proxy);
    let private =
        Client::register(&proxy, json!({"redirect_uris": ["cursor://x/cb"], "token_endpoint_auth_method": "none"}));
    let browser = Browser::new(&proxy);
    location(&browser.sign_in(&local.authorize(&[]), PASSWORD));

    let consent = browser.get(&web.authorize(&[]));
    assert!(consent.text().contains("Signed in as") && !consent.text().contains("type=\"password\""));
    assert!(consent.header("content-security-policy").unwrap().contains("form-action 'self' https://app.example;"));
    let decide = |page: &Reply, decision: &str| {
        browser.post("/.idp/auth", &[("request", &hidden(page, "request")), ("decision", decision)])
    };
    assert_eq!(query(&location(&decide(&consent, "deny")))["error"], "access_denied");
    assert_eq!(browser.get(&web.authorize(&[])).status, 200, "a denial is not remembered as consent");
    assert!(query(&location(&decide(&consent, "allow"))).contains_key("code"));
    assert!(query(&location(&browser.get(&web.authorize(&[])))).contains_key("code"), "remembered");
    assert_eq!(browser.get(&web.authorize(&[("prompt", "consent")])).status, 200);
    assert_eq!(browser.get(&web.authorize(&[("prompt", "login")])).status, 200);
    // Each word of a list counts (OpenID Connect Core 1.0 section 3.1.2.1).
    let asked = |prompt: &str| browser.get(&web.authorize(&[("prompt", prompt)]));
    let again = asked("login consent");
    assert!(again.status == 200 && again.text().contains("type=\"password\""), "{}", again.text());
    let choice = asked("select_account");
    assert!(choice.status == 200 && choice.text().contains("Signed in as"), "{}", choice.text());
    let contradiction = asked("none login");
    assert!(contradiction.status == 400 && contradiction.text().contains("prompt"), "{}", contradiction.text());

    for client in [&local, &private] {
        let page = browser.get(&client.authorize(&[]));
        assert!(location(&decide(&page, "allow")).contains("code="));
        assert_eq!(browser.get(&client.authorize(&[])).status, 200, "any program could be behind {}", client.redirect);
    }
    let page = browser.get(&local.authorize(&[]));
    let switched = decide(&page, "switch");
    assert!(switched.status == 200 && switched.text().contains("type=\"password\""));
    assert!(browser.get(&local.authorize(&[])).text().contains("type=\"password\""), "the session has ended");
}

#[test]
fn consent_belongs_to_one_client_and_its_redirect_host() {
    let proxy = Proxy::start(1, &[]);
    let register = |uris: serde_json::Value, name: &str| {
        Client::register(
            &proxy,
            json!({"client_name": name, "redirect_uris": uris, "token_endpoint_auth_method": "none"}),
        )
    };
    let good = register(json!(["https://app.example/cb", "https://other.example/cb"]), "good");
    let twin = register(json!(["https://app.example/cb", "https://evil.example/cb"]), "good");
    let browser = Browser::new(&proxy);
    location(&browser.sign_in(&good.authorize(&[]), PASSWORD));
    assert_eq!(browser.get(&good.authorize(&[])).status, 303);
    assert_eq!(
        browser.get(&good.authorize(&[("redirect_uri", "https://other.example/cb")])).status,
        200,
        "another host"
    );
    assert_eq!(browser.get(&twin.authorize(&[])).status, 200, "another client with the same name and host");
}

#[test]
fn a_decision_is_bound_to_the_browser_that_saw_the_page() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let (victim, attacker) = (Browser::new(&proxy), Browser::new(&proxy));
    location(&victim.sign_in(&client.authorize(&[]), PASSWORD));
    // The attacker's own page, sent through the victim's browser.
    let forged = hidden(&attacker.get(&client.authorize(&[])), "request");
    for (path, fields) in [
        ("/.idp/auth", vec![("request", forged.as_str()), ("decision", "allow")]),
        ("/.auth/login", vec![("request", &forged), ("password", PASSWORD), ("decision", "allow")]),
        ("/.auth/login", vec![("request", &forged), ("decision", "deny")]),
        ("/.idp/auth", vec![("request", "x"), ("decision", "allow")]),
        ("/.idp/auth", vec![("decision", "allow")]),
        ("/.auth/logout", vec![("form", &forged)]),
    ] {
        let reply = victim.post(path, &fields);
        assert_eq!((reply.status, reply.header("location")), (400, None), "{path} {fields:?}");
    }
    // The victim's own page, sent by another site.
    let own = hidden(&victim.get(&client.authorize(&[])), "request");
    let cookies: Vec<String> = victim.cookies.borrow().iter().map(|(n, v)| format!("{n}={v}")).collect();
    for origin in ["https://evil.example", "null"] {
        let headers = [
            ("Cookie", cookies.join("; ")),
            ("Content-Type", "application/x-www-form-urlencoded".into()),
            ("Origin", origin.into()),
        ];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let body = format!("request={own}&decision=allow");
        assert_eq!(proxy.send("POST", "/.idp/auth", &headers, body.as_bytes()).status, 400, "{origin}");
    }
}

#[test]
fn the_code_challenge_is_that_of_the_request() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let other = challenge("another-verifier-of-forty-three-characters-ok");
    let reply = Browser::new(&proxy).sign_in(&client.authorize(&[("code_challenge", &other)]), PASSWORD);
    let code = query(&location(&reply))["code"].clone();
    assert_eq!(client.redeem(&code).error(), "invalid_grant");
}

#[test]
fn a_faulty_request_of_an_untrusted_web_client_gets_a_page_and_no_redirect() {
    let proxy = Proxy::start(1, &[]);
    let metadata = json!({"redirect_uris": ["https://evil.example/x"], "token_endpoint_auth_method": "none"});
    let client = Client::register(&proxy, metadata);
    for change in
        [("code_challenge", ""), ("prompt", "none"), ("resource", "https://elsewhere.example"), ("response_type", "x")]
    {
        let reply = proxy.send("GET", &client.authorize(&[change]), &[], b"");
        assert_eq!((reply.status, reply.header("location")), (400, None), "{change:?}");
        assert!(reply.text().contains("href=\"https://evil.example/x?error="), "the way back is a link");
    }
    // Whom one user has let in is a stranger to everybody else.
    let browser = Browser::new(&proxy);
    let code = query(&location(&browser.sign_in(&client.authorize(&[]), PASSWORD)))["code"].clone();
    let faulty = client.authorize(&[("code_challenge", "")]);
    assert_eq!(browser.get(&faulty).status, 400, "the code has not been redeemed");
    let granted = crate::support::flow::tokens(&client.redeem(&code));
    let told = location(&browser.get(&faulty));
    assert!(told.starts_with("https://evil.example/x?error=invalid_request"), "this very user trusts it");
    let page = proxy.send("GET", &faulty, &[], b"");
    assert_eq!((page.status, page.header("location")), (400, None));
    assert!(page.text().contains("code_challenge is missing"), "the page says what is wrong");
    let id = page.header("x-request-id").unwrap();
    assert!(page.text().contains(&format!("request {id}")), "and by which name the log has it");
    let is_named = |line: &str| line.contains("code_challenge is missing") && line.contains(id);
    eventually("the log has the request", || proxy.log().lines().any(is_named));
    // The trust ends with the grant.
    let form = encode(&[("client_id", &client.id), ("token", &granted.refresh)]);
    let fields = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(proxy.send("POST", "/.idp/revoke", &fields, form.as_bytes()).status, 200);
    assert_eq!(browser.get(&faulty).status, 400);
}

/// Schemes that wrap another URL or lead to a part of the system.
#[test]
fn wrappers_and_handlers_of_the_system_are_no_redirect_uris() {
    let proxy = Proxy::start(1, &[]);
    for uri in [
        "jnlp:https://evil.example/x",
        "unheard-of:https://evil.example/",
        "unheard-of://http://evil.example/",
        "rtsp://evil.example/",
        "applescript://x",
    ] {
        let metadata = json!({"redirect_uris": [uri], "token_endpoint_auth_method": "none"});
        assert_eq!(register(&proxy, &metadata).error(), "invalid_redirect_uri", "{uri}");
    }
    for uri in ["cursor://anysphere.cursor-retrieval/oauth/callback", "com.example.app:/callback", "vscode://x.y/cb"] {
        let metadata = json!({"redirect_uris": [uri], "token_endpoint_auth_method": "none"});
        assert_eq!(register(&proxy, &metadata).status, 201, "{uri}");
    }
    for uri in [
        "microsoft-edge:https://evil.example",
        "ms-msdt:/id",
        "search-ms:query=x",
        "search:x",
        "feed:https://evil.example",
        "ms-officecmd:x",
        "shell:startup",
        "view-source:https://evil.example",
        "web+x:y",
        "intent://x#y",
        "x-web-search://?x",
        "googlechrome://evil.example",
    ] {
        let reply = register(&proxy, &json!({"redirect_uris": [uri], "token_endpoint_auth_method": "none"}));
        assert_eq!((reply.status, reply.error().as_str()), (400, "invalid_redirect_uri"), "{uri}");
    }
    for uri in ["cursor://anysphere.cursor-mcp/oauth/callback", "vscode://x/y", "com.example.app:/cb", "msteams:/x"] {
        let reply = register(&proxy, &json!({"redirect_uris": [uri], "token_endpoint_auth_method": "none"}));
        assert_eq!(reply.status, 201, "{uri}: {}", reply.text());
    }
    // Not even for a program on this machine is there a redirect before a page.
    let metadata = json!({"redirect_uris": ["cursor://x/cb"], "token_endpoint_auth_method": "none"});
    let client = Client::register(&proxy, metadata);
    let reply = proxy.send("GET", &client.authorize(&[("response_type", "x")]), &[], b"");
    assert_eq!((reply.status, reply.header("location")), (400, None));
}

/// The warning follows where this answer goes, whatever else is registered.
#[test]
fn a_dummy_redirect_uri_does_not_take_the_warning_away() {
    let proxy = Proxy::start(1, &[]);
    let uris = ["https://dummy.example/cb", REDIRECT, "cursor://x/cb"];
    let client = Client::register(&proxy, json!({"redirect_uris": uris, "token_endpoint_auth_method": "none"}));
    for (uri, warns) in uris.iter().zip([false, true, true]) {
        let page = proxy.send("GET", &client.authorize(&[("redirect_uri", uri)]), &[], b"").text();
        assert_eq!(page.contains("Any program on this computer can ask"), warns, "{uri}");
    }
}

/// One page and one user lead to a few codes at a time.
#[test]
fn a_page_sent_in_again_and_again_leads_to_a_few_grants() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let browser = Browser::new(&proxy);
    location(&browser.sign_in(&client.authorize(&[]), PASSWORD));
    let allow = |request: &str| browser.post("/.idp/auth", &[("request", request), ("decision", "allow")]).status;
    let page = hidden(&browser.get(&client.authorize(&[])), "request");
    let statuses: Vec<u16> = (0..50).map(|_| allow(&page)).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 303).count(), 3, "{statuses:?}");
    assert_eq!(statuses[49], 400);
    let statuses: Vec<u16> = (0..60).map(|_| allow(&hidden(&browser.get(&client.authorize(&[])), "request"))).collect();
    let given = statuses.iter().filter(|s| **s == 303).count();
    assert!((20..=30).contains(&given) && statuses[59] == 429, "{statuses:?}");
    proxy.has_logged("too many authorization codes wait");
}

/// The newcomer's line: a browser without cookies is told what to do.
#[test]
fn blocked_cookies_lead_to_a_page_with_a_way_on() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let page = Browser::new(&proxy).get(&client.authorize(&[]));
    let form = [("request", hidden(&page, "request")), ("password", PASSWORD.into()), ("decision", "allow".into())];
    let form: Vec<(&str, &str)> = form.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let reply = Browser::new(&proxy).post("/.auth/login", &form);
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("Allow cookies for localhost"), "{}", reply.text());
}

#[test]
fn a_sign_in_that_the_client_asked_for_can_not_be_replaced_by_a_session() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let browser = Browser::new(&proxy);
    location(&browser.sign_in(&client.authorize(&[]), PASSWORD));
    let page = browser.get(&client.authorize(&[("prompt", "login")]));
    let reply = browser.post("/.idp/auth", &[("request", &hidden(&page, "request")), ("decision", "allow")]);
    assert!(reply.status == 200 && reply.text().contains("type=\"password\""));
}

#[test]
fn a_registration_is_small() {
    let proxy = Proxy::start(1, &[]);
    let uris: Vec<String> = (0..16).map(|i| format!("https://a.example/{i}{}", "x".repeat(1_000))).collect();
    let reply = register(&proxy, &json!({"redirect_uris": uris}));
    assert_eq!((reply.status, reply.error().as_str()), (400, "invalid_redirect_uri"));
}
