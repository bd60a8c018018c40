//! What a token is for: the parameter `resource` (RFC 8707) and the audience of access tokens (RFC 9068).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::flow::{Browser, Client, REDIRECT, Tokens, VERIFIER, encode, hidden, query, tokens};
use crate::support::proxy::{PASSWORD, Proxy};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport, request};

/// A code for the resources at `paths`.
fn code(proxy: &Proxy, client: &Client<'_, Proxy>, paths: &[&str]) -> String {
    let urls: Vec<String> = paths.iter().map(|path| format!("{}{path}", proxy.origin())).collect();
    let asked: Vec<_> = urls.iter().map(|url| ("resource", url.as_str())).collect();
    let target = format!("{}&{}", client.authorize(&[]), encode(&asked));
    let reply = Browser::new(proxy).sign_in(&target, PASSWORD);
    query(reply.header("location").unwrap()).remove("code").unwrap()
}

fn granted(proxy: &Proxy, client: &Client<'_, Proxy>, paths: &[&str]) -> Tokens {
    tokens(&client.redeem(&code(proxy, client, paths)))
}

fn audience(token: &str) -> Value {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["aud"].clone()
}

/// A request whose target is sent as it stands.
fn get(proxy: &Proxy, token: &str, target: &str) -> Reply {
    let mut connection = proxy.connect();
    let token = format!("Bearer {token}");
    connection.write(request("GET", target, &proxy.host(), &[("Authorization", &token)], b""));
    connection.reply(false).unwrap()
}

#[test]
fn the_audience_is_what_was_asked_for() {
    let proxy = Proxy::start(FakeUpstream::ok().port, &[]);
    let (client, origin) = (Client::public(&proxy), proxy.origin());
    assert_eq!(audience(&granted(&proxy, &client, &[]).access), json!(origin));
    for path in ["", "/", "/mcp", "/mcp/", "/mcp?x=1"] {
        assert_eq!(audience(&granted(&proxy, &client, &[path]).access), json!(format!("{origin}{path}")));
    }
    let two = granted(&proxy, &client, &["/wiki", "/files", "/wiki"]);
    assert_eq!(audience(&two.access), json!([format!("{origin}/files"), format!("{origin}/wiki")]));
    // What the metadata names is what the token is for.
    let metadata = proxy.send("GET", "/.well-known/oauth-protected-resource/files/mcp", &[], b"").json();
    assert_eq!(metadata["resource"], audience(&granted(&proxy, &client, &["/files/mcp"]).access));
}

#[test]
fn a_token_is_refused_outside_its_audience_in_every_spelling() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::public(&proxy);
    let token = granted(&proxy, &client, &["/files/mcp"]).access;
    for inside in ["/files/mcp", "/files/mcp/", "/files/mcp?x=/wiki/mcp", "/files/mcp/messages"] {
        assert_eq!(get(&proxy, &token, inside).status, 200, "{inside}");
    }
    let seen = upstream.received().len();
    for outside in [
        "/",
        "/mcp",
        "/files",
        "/wiki/mcp",
        "/files/mcpx",
        "/files/mcp.json",
        "/files/mcp;x",
        "/FILES/mcp",
        "/files/MCP",
        "/files//mcp",
        "//files/mcp",
        "/files%2fmcp",
        "/%66iles/mcp",
        "/files/mcp%00",
        "/wiki/../files/mcp",
        "/?/files/mcp",
    ] {
        let reply = get(&proxy, &token, outside);
        let challenge = reply.header("www-authenticate").unwrap_or_default().to_string();
        assert!(reply.status == 401 && challenge.contains("error=\"invalid_token\""), "{outside}: {reply:?}");
    }
    let challenge = get(&proxy, &token, "/wiki/mcp").header("www-authenticate").unwrap().to_string();
    assert!(challenge.contains("/.well-known/oauth-protected-resource/wiki/mcp\""), "{challenge}");
    // What leads out of the audience after decoding reaches no server either.
    for escape in
        ["/files/mcp/../../wiki/mcp", "/files/mcp/%2e%2e/%2e%2e/wiki", "/files/mcp/..%2fwiki", "/files/mcp/%00"]
    {
        assert_eq!(get(&proxy, &token, escape).status, 400, "{escape}");
    }
    assert_eq!(upstream.received().len(), seen, "the upstream server saw none of them");
}

#[test]
fn a_refresh_narrows_one_access_token_and_never_widens() {
    let proxy = Proxy::start(FakeUpstream::ok().port, &[]);
    let (client, origin) = (Client::public(&proxy), proxy.origin());
    let refresh = |token: &str, path: &str| {
        let url = format!("{origin}{path}");
        client.token_request(&[("grant_type", "refresh_token"), ("refresh_token", token), ("resource", &url)])
    };
    let first = granted(&proxy, &client, &["/files", "/wiki/mcp"]);
    for wider in ["", "/", "/wiki", "/other", "/filesx"] {
        assert_eq!(refresh(&first.refresh, wider).error(), "invalid_target", "{wider}");
    }
    let narrowed = tokens(&refresh(&first.refresh, "/files/mcp"));
    assert_eq!(audience(&narrowed.access), json!(format!("{origin}/files/mcp")));
    assert_eq!(get(&proxy, &narrowed.access, "/wiki/mcp").status, 401);
    let whole = tokens(&client.refresh(&narrowed.refresh));
    assert_eq!(audience(&whole.access), json!([format!("{origin}/files"), format!("{origin}/wiki/mcp")]));
    assert_eq!(get(&proxy, &whole.access, "/wiki/mcp").status, 200);
    // An old token ends the grant even if its request could not be answered.
    assert_eq!(refresh(&first.refresh, "/other").error(), "invalid_grant");
    assert_eq!(client.refresh(&whole.refresh).error(), "invalid_grant");
}

#[test]
fn a_code_is_redeemed_for_less_but_not_for_more() {
    let proxy = Proxy::start(FakeUpstream::ok().port, &[]);
    let (client, origin) = (Client::public(&proxy), proxy.origin());
    let code = code(&proxy, &client, &["/files"]);
    let redeem = |path: &str| {
        let url = format!("{origin}{path}");
        client.token_request(&[
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
            ("resource", &url),
        ])
    };
    for wider in ["", "/", "/wiki"] {
        assert_eq!(redeem(wider).error(), "invalid_target", "{wider}");
    }
    let tokens = tokens(&redeem("/files/mcp"));
    assert_eq!(audience(&tokens.access), json!(format!("{origin}/files/mcp")));
    assert_eq!(redeem("/wiki").error(), "invalid_grant", "a second use is recognized whatever it asks for");
    assert_eq!(client.refresh(&tokens.refresh).error(), "invalid_grant");
}

#[test]
fn a_remembered_consent_is_for_the_same_resources() {
    let proxy = Proxy::start(1, &[]);
    let metadata = json!({"redirect_uris": ["https://app.example/cb"], "token_endpoint_auth_method": "none"});
    let client = Client::register(&proxy, metadata);
    let browser = Browser::new(&proxy);
    let target = |path: &str| client.authorize(&[("resource", &format!("{}{path}", proxy.origin()))]);
    assert_eq!(browser.sign_in(&target("/files"), PASSWORD).status, 303);
    assert_eq!(browser.get(&target("/files")).status, 303, "remembered");
    for other in ["/wiki", "/files/mcp", "/"] {
        assert_eq!(browser.get(&target(other)).status, 200, "{other}");
    }
    assert_eq!(browser.get(&client.authorize(&[])).status, 200, "nor for the whole origin");
    let both = format!("{}&{}", target("/files"), encode(&[("resource", &format!("{}/wiki", proxy.origin()))]));
    let page = browser.get(&both);
    assert_eq!(page.status, 200, "nor for more than that");
    // The consent page's own form can't be changed to another resource: it is signed.
    let form = hidden(&page, "request");
    assert_eq!(browser.post("/.idp/auth", &[("request", &form), ("decision", "allow"), ("resource", "x")]).status, 303);
    assert_eq!(browser.get(&both).status, 303);
}

#[test]
fn too_many_or_too_long_resources_are_refused() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let ask = |urls: &[String]| {
        let asked: Vec<_> = urls.iter().map(|url| ("resource", url.as_str())).collect();
        let target = format!("{}&{}&prompt=none", client.authorize(&[]), encode(&asked));
        proxy.send("GET", &target, &[], b"").text()
    };
    let urls = |count: usize| (0..count).map(|n| format!("{}/{n}", proxy.origin())).collect::<Vec<_>>();
    assert!(!ask(&urls(8)).contains("resource"));
    assert!(ask(&urls(9)).contains("more than 8 resources"));
    assert!(ask(&[format!("{}/{}", proxy.origin(), "x".repeat(512))]).contains("the resource is not a URL on"));
}
