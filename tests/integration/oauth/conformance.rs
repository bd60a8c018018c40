//! Rules of the specifications that no other test shows; docs/conformance.md says which test shows which.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::flow::{Browser, Client, FORM, REDIRECT, VERIFIER, call, encode, query, tokens};
use crate::support::proxy::{PASSWORD, Proxy};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[test]
fn with_two_redirect_uris_the_request_names_one() {
    let proxy = Proxy::start(1, &[]);
    let uris = ["https://app.example/one", "https://app.example/two"];
    let client = Client::register(&proxy, json!({"redirect_uris": uris, "token_endpoint_auth_method": "none"}));
    let page = proxy.send("GET", &client.authorize(&[("redirect_uri", "")]), &[], b"");
    assert_eq!((page.status, page.header("location")), (400, None));
    assert_eq!(proxy.send("GET", &client.authorize(&[("redirect_uri", uris[1])]), &[], b"").status, 200);
}

#[test]
fn credentials_in_the_query_do_not_count() {
    let proxy = Proxy::start(1, &[]);
    let made = proxy.order(&["clients", "add", "robot"]).unwrap();
    let query = encode(&[("client_id", "robot"), ("client_secret", made["client_secret"].as_str().unwrap())]);
    let reply = proxy.send("POST", &format!("/.idp/token?{query}"), &[FORM], b"grant_type=client_credentials");
    assert_eq!((reply.status, reply.error().as_str()), (400, "invalid_request"));
}

#[test]
fn parameters_that_nobody_knows_are_ignored() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let reply = Browser::new(&proxy).sign_in(&client.authorize(&[("audience", "x"), ("display", "popup")]), PASSWORD);
    let code = query(reply.header("location").unwrap()).remove("code").unwrap();
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
        ("audience", "x"),
    ];
    assert_eq!(client.token_request(&pairs).status, 200);
}

#[test]
fn no_scope_is_given_that_there_is_not() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let reply = Browser::new(&proxy).sign_in(&client.authorize(&[("scope", "mcp admin offline_access")]), PASSWORD);
    let code = query(reply.header("location").unwrap()).remove("code").unwrap();
    let answer = client.redeem(&code).json();
    assert_eq!(
        (answer["scope"].as_str(), &claims(answer["access_token"].as_str().unwrap())["scope"]),
        (Some("mcp"), &json!("mcp"))
    );
    let refresh = answer["refresh_token"].as_str().unwrap();
    let answer =
        client.token_request(&[("grant_type", "refresh_token"), ("refresh_token", refresh), ("scope", "mcp admin")]);
    assert_eq!(answer.json()["scope"], "mcp");
}

#[test]
fn descriptions_of_errors_are_printable_ascii_without_quotes() {
    let proxy = Proxy::start(1, &[]);
    for body in [
        "%C3%A4=1&%C3%A4=2",
        "%22=1&%22=2",
        "%5C=1&%5C=2",
        "%0A=1&%0A=2",
        "client_id=%C3%A4&grant_type=%22",
        "grant_type=refresh_token&client_id=%22",
    ] {
        let reply = proxy.send("POST", "/.idp/token", &[FORM], body.as_bytes());
        let text = reply.json()["error_description"].as_str().unwrap().to_string();
        assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\'), "{body}: {text}");
    }
}

#[test]
fn a_replay_with_something_wrong_ends_nothing() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let (client, other) = (Client::public(&proxy), Client::named(&proxy, "other"));
    let code = client.code();
    let tokens = tokens(&client.redeem(&code));
    let wrong = "x".repeat(50);
    let replay = |client: &Client<'_, Proxy>, verifier: &str, redirect: &str| {
        client.token_request(&[
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ])
    };
    assert_eq!(replay(&client, &wrong, REDIRECT).error(), "invalid_grant");
    assert_eq!(replay(&client, VERIFIER, "http://127.0.0.1:1/other").error(), "invalid_grant");
    assert_eq!(replay(&other, VERIFIER, REDIRECT).error(), "invalid_grant");
    assert_eq!(call(&proxy, &tokens.access).status, 200);
    assert_eq!(client.refresh(&tokens.refresh).status, 200);
}

#[test]
fn the_scheme_is_read_in_any_case() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let token = Client::public(&proxy).tokens().access;
    for scheme in ["bEaReR", "BEARER", "bearer"] {
        let field = format!("{scheme} {token}");
        assert_eq!(proxy.send("GET", "/mcp", &[("Authorization", &field)], b"").status, 200, "{scheme}");
    }
}

#[test]
fn a_code_is_in_no_referer() {
    let proxy = Proxy::start(1, &[]);
    let reply = Browser::new(&proxy).sign_in(&Client::public(&proxy).authorize(&[]), PASSWORD);
    assert!(reply.header("location").unwrap().contains("code="));
    assert_eq!(
        (reply.header("referrer-policy"), reply.header("cache-control")),
        (Some("no-referrer"), Some("no-store"))
    );
}

#[test]
fn documents_are_json_and_what_they_list_is_what_there_is() {
    let proxy = Proxy::start(1, &[]);
    let get = |path: &str| proxy.send("GET", path, &[], b"");
    for path in [
        "oauth-authorization-server",
        "openid-configuration",
        "oauth-protected-resource",
        "oauth-protected-resource/mcp",
        "jwks.json",
    ] {
        let reply = get(&format!("/.well-known/{path}"));
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{path}");
    }
    let resource = get("/.well-known/oauth-protected-resource/mcp").json();
    assert_eq!(
        (&resource["scopes_supported"], &resource["bearer_methods_supported"]),
        (&json!(["mcp"]), &json!(["header"]))
    );
    let metadata = get("/.well-known/oauth-authorization-server").json();
    let lists = metadata.as_object().unwrap().iter().filter_map(|(name, value)| Some((name, value.as_array()?)));
    assert!(lists.clone().all(|(_, list)| !list.is_empty()));
    for (name, endpoint) in metadata.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint")) {
        let path = endpoint.as_str().unwrap().strip_prefix(&proxy.origin()).unwrap();
        assert_ne!(get(path).status, 404, "{name}");
    }
    // What is listed gets an error of its own, and what is not listed says so.
    let listed = metadata["grant_types_supported"].as_array().unwrap();
    for grant in [
        "authorization_code",
        "refresh_token",
        "client_credentials",
        "password",
        "implicit",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:token-exchange",
    ] {
        let reply = proxy.send("POST", "/.idp/token", &[FORM], encode(&[("grant_type", grant)]).as_bytes());
        assert_eq!(reply.error() != "unsupported_grant_type", listed.contains(&json!(grant)), "{grant}");
    }
}

#[test]
fn each_token_has_the_claims_of_its_profile() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::public(&proxy);
    let token = client.tokens().access;
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(header, json!({"alg": "HS256", "typ": "at+jwt"}));
    let claims = claims(&token);
    assert_eq!(
        (claims["iss"].as_str(), claims["sub"].as_str(), claims["client_id"].as_str()),
        (Some(proxy.origin().as_str()), Some("password"), Some(client.id.as_str()))
    );
    assert_eq!((claims["aud"].as_str(), claims["scope"].as_str()), (Some(proxy.origin().as_str()), Some("mcp")));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3_600);
    assert_ne!(claims["jti"], self::claims(&client.tokens().access)["jti"]);
}

#[test]
fn a_registration_without_a_method_gets_a_secret() {
    let proxy = Proxy::start(1, &[]);
    let answer = crate::support::flow::register(&proxy, &json!({"redirect_uris": [REDIRECT]})).json();
    assert_eq!(
        (answer["token_endpoint_auth_method"].as_str(), answer["client_secret"].as_str().map(str::len)),
        (Some("client_secret_basic"), Some(43))
    );
    assert!(!answer["client_id"].as_str().unwrap().contains("://"), "no registered id looks like that of a document");
}

#[test]
fn revocation_authenticates_the_client_and_ignores_hints() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::register(
        &proxy,
        json!({"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_post"}),
    );
    let secret = client.secret.as_deref().unwrap();
    let revoke = |pairs: &[(&str, &str)]| proxy.send("POST", "/.idp/revoke", &[FORM], encode(pairs).as_bytes());
    let tokens = client.tokens();
    let id = client.id.as_str();
    assert_eq!(revoke(&[("client_id", id), ("token", &tokens.refresh)]).status, 401);
    assert_eq!(revoke(&[("client_id", id), ("client_secret", "wrong"), ("token", &tokens.refresh)]).status, 401);
    assert_eq!(revoke(&[("client_id", id), ("client_secret", secret)]).error(), "invalid_request");
    assert_eq!(call(&proxy, &tokens.access).status, 200);
    for hint in ["access_token", "nobody-knows"] {
        let tokens = client.tokens();
        assert_eq!(
            revoke(&[
                ("client_id", id),
                ("client_secret", secret),
                ("token", &tokens.refresh),
                ("token_type_hint", hint)
            ])
            .status,
            200
        );
        assert_eq!(call(&proxy, &tokens.access).status, 401, "{hint}");
    }
}

#[test]
fn introspection_agrees_with_the_resource_at_each_step() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let made = proxy.order(&["clients", "add", "asker", "--introspect"]).unwrap();
    let secret = made["client_secret"].as_str().unwrap();
    let ask = |token: &str, hint: &str| {
        let pairs = [("client_id", "asker"), ("client_secret", secret), ("token", token), ("token_type_hint", hint)];
        let reply = proxy.send("POST", "/.idp/introspect", &[FORM], encode(&pairs).as_bytes());
        assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
        reply.json()
    };
    let client = Client::public(&proxy);
    let first = client.tokens();
    let answer = ask(&first.access, "refresh_token");
    let of_token = claims(&first.access);
    for name in ["scope", "client_id", "exp", "iat", "sub", "aud", "iss", "jti"] {
        assert_eq!(answer[name], of_token[name], "{name}");
    }
    let is_good = |token: &str| (ask(token, "access_token")["active"] == true, call(&proxy, token).status == 200);
    assert_eq!(is_good(&first.access), (true, true));
    proxy.order(&["grants", "revoke", "--all"]).unwrap();
    assert_eq!(is_good(&first.access), (false, false));
    assert_eq!(is_good("x.y.z"), (false, false));
    assert_eq!(proxy.send("GET", "/.idp/introspect", &[], b"").status, 405);
    let nobody = proxy.send("POST", "/.idp/introspect", &[FORM, ("Authorization", "Basic eDp5")], b"token=x");
    assert_eq!((nobody.status, nobody.header("www-authenticate").is_some()), (401, true));
    assert!(!proxy.log().contains(&first.access));
}

#[test]
fn the_page_shows_the_host_that_access_goes_to() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::register(
        &proxy,
        json!({"redirect_uris": ["https://callback.app.example/x"], "token_endpoint_auth_method": "none", "client_name": "App"}),
    );
    let page = proxy.send("GET", &client.authorize(&[]), &[], b"").text();
    let row = page.split("Access goes to").nth(1).unwrap().split("</div>").next().unwrap().to_string();
    assert!(row.contains("callback.") && row.contains("app.example"), "{row}");
}
