//! The token and revocation endpoints, with the attacks on each.

use serde_json::json;

use crate::support::flow::{Client, REDIRECT, VERIFIER, call, encode, tokens};
use crate::support::proxy::Proxy;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

#[test]
fn a_code_becomes_tokens_that_work() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::public(&proxy);
    let reply = client.redeem(&client.code());
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let answer = reply.json();
    assert_eq!((answer["token_type"].as_str(), answer["scope"].as_str()), (Some("Bearer"), Some("mcp")));
    let tokens = tokens(&reply);
    assert_eq!(tokens.expires_in, 3_600);
    assert_eq!(call(&proxy, &tokens.access).status, 200);
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("password"));
    assert_eq!(upstream.last().header("x-forwarded-client"), Some(client.id.as_str()));
}

#[test]
fn a_code_is_good_once_and_its_second_use_ends_the_grant() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::public(&proxy);
    let code = client.code();
    let first = tokens(&client.redeem(&code));
    assert_eq!(client.redeem(&code).error(), "invalid_grant");
    assert_eq!(client.refresh(&first.refresh).error(), "invalid_grant");
    let refused = call(&proxy, &first.access);
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().contains("revoked"));
}

#[test]
fn a_code_that_somebody_else_presents_is_refused_and_not_used_up() {
    let proxy = Proxy::start(1, &[]);
    let (client, other) = (Client::public(&proxy), Client::named(&proxy, "other"));
    let code = client.code();
    let with = |changes: &[(&str, &str)]| {
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        for (name, value) in changes {
            pairs.retain(|(n, _)| n != name);
            pairs.push((name, value));
        }
        client.token_request(&pairs).error()
    };
    assert_eq!(other.redeem(&code).error(), "invalid_grant");
    let wrong = "x".repeat(50);
    assert_eq!(with(&[("code_verifier", &wrong)]), "invalid_grant");
    assert_eq!(with(&[("code_verifier", "")]), "invalid_request");
    assert_eq!(with(&[("redirect_uri", "http://127.0.0.1:5001/callback")]), "invalid_grant");
    assert_eq!(with(&[("redirect_uri", "")]), "invalid_grant");
    assert_eq!(with(&[("resource", "https://elsewhere.example")]), "invalid_target");
    assert_eq!(with(&[("grant_type", "password")]), "unsupported_grant_type");
    assert_eq!(with(&[("grant_type", "")]), "invalid_request");
    assert_eq!(with(&[("code", &format!("{code}x"))]), "invalid_grant");
    assert_eq!(with(&[("code", "")]), "invalid_request");
    assert_eq!(client.redeem(&code).status, 200, "the right one still works");
}

#[test]
fn confidential_clients_prove_themselves_in_either_way() {
    let proxy = Proxy::start(1, &[]);
    let register = |method: &str| {
        Client::register(&proxy, json!({"redirect_uris": [REDIRECT], "token_endpoint_auth_method": method}))
    };
    let (basic, post) = (register("client_secret_basic"), register("client_secret_post"));
    assert_eq!(post.redeem(&post.code()).status, 200);
    let code = basic.code();
    let body = encode(&[
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ]);
    let send = |id: &str, secret: &str| {
        use base64::Engine;
        let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}")));
        proxy.send(
            "POST",
            "/.idp/token",
            &[("Authorization", &value), ("Content-Type", "application/x-www-form-urlencoded")],
            body.as_bytes(),
        )
    };
    let right = basic.secret.clone().unwrap();
    for (id, secret) in [
        (basic.id.as_str(), "wrong"),
        (&basic.id, ""),
        (&basic.id, post.secret.as_deref().unwrap()),
        ("unknown", &right),
        (&post.id, &right),
    ] {
        let reply = send(id, secret);
        assert_eq!((reply.status, reply.error().as_str()), (401, "invalid_client"), "{id}");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Basic"));
    }
    assert_eq!(send(&basic.id, &right).status, 200);
    let without = Client { secret: None, id: basic.id.clone(), transport: &proxy, redirect: REDIRECT.into() };
    let reply = without.redeem(&code);
    assert_eq!((reply.status, reply.error().as_str()), (401, "invalid_client"));
}

#[test]
fn no_token_passes_in_anothers_place() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::public(&proxy);
    let code = client.code();
    let own = client.tokens();
    for (wrong, what) in [(&code, "code"), (&own.refresh, "refresh token")] {
        assert_eq!(call(&proxy, wrong).status, 401, "a {what} is no access token");
    }
    for (wrong, what) in [(&code, "code"), (&own.access, "access token")] {
        assert_eq!(client.refresh(wrong).error(), "invalid_grant", "a {what} is no refresh token");
    }
    for (wrong, what) in [(&own.refresh, "refresh token"), (&own.access, "access token")] {
        assert_eq!(client.redeem(wrong).error(), "invalid_grant", "a {what} is no code");
    }
    // Another server that shares the secret is another audience.
    let secret = std::fs::read_to_string(proxy.data.path("data/secret")).unwrap();
    let (scratch, port) =
        (std::sync::Arc::new(crate::support::proxy::Scratch::new()), crate::support::proxy::free_port());
    let mut command = crate::support::proxy::command();
    command
        .args(crate::support::proxy::arguments(&scratch, port))
        .arg(format!("http://127.0.0.1:{}", upstream.port))
        .env("AUTH_HMAC_SECRET", secret);
    let twin = Proxy::spawn(command, port, scratch);
    assert_eq!(call(&twin, &own.access).status, 401);
    let there = Client { id: Client::public(&twin).id, transport: &twin, secret: None, redirect: REDIRECT.into() };
    assert_eq!(there.refresh(&own.refresh).error(), "invalid_grant");
    assert_eq!(call(&proxy, &own.access).status, 200);
}

#[test]
fn a_refresh_token_used_twice_within_grace_returns_the_same_successor() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::public(&proxy);
    let first = client.tokens();
    let replies: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| tokens(&client.refresh(&first.refresh)))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|t| t.refresh == replies[0].refresh));
    assert!(replies.iter().all(|t| call(&proxy, &t.access).status == 200));
    assert_eq!(client.refresh(&replies[0].refresh).status, 200);
}

#[test]
fn an_older_refresh_token_ends_the_grant_of_one_device_and_not_the_others() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let client = Client::public(&proxy);
    let (laptop, phone) = (client.tokens(), client.tokens());
    let second = tokens(&client.refresh(&laptop.refresh));
    let third = tokens(&client.refresh(&second.refresh));
    assert_eq!(client.refresh(&laptop.refresh).error(), "invalid_grant");
    assert_eq!(client.refresh(&third.refresh).error(), "invalid_grant", "the line has ended");
    assert_eq!(call(&proxy, &third.access).status, 401);
    proxy.has_logged("an old refresh token was used again");
    assert_eq!(call(&proxy, &phone.access).status, 200);
    assert_eq!(client.refresh(&phone.refresh).status, 200);
}

#[test]
fn refresh_tokens_belong_to_their_client() {
    let proxy = Proxy::start(1, &[]);
    let (client, other) = (Client::public(&proxy), Client::named(&proxy, "other"));
    let own = client.tokens();
    assert_eq!(other.refresh(&own.refresh).error(), "invalid_grant");
    assert_eq!(client.refresh(&own.refresh).status, 200, "the attempt cost the owner nothing");
}

#[test]
fn revocation_ends_a_grant_for_its_own_client_only() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let (client, other) = (Client::public(&proxy), Client::named(&proxy, "other"));
    let revoke = |client: &Client<'_, Proxy>, token: &str| {
        let body = encode(&[("token", token), ("client_id", &client.id)]);
        proxy
            .send("POST", "/.idp/revoke", &[("Content-Type", "application/x-www-form-urlencoded")], body.as_bytes())
            .status
    };
    let (a, b) = (client.tokens(), client.tokens());
    // RFC 7009 section 2.1: refused, and the client is told.
    assert_eq!((revoke(&other, &a.refresh), revoke(&other, &a.access)), (400, 400));
    assert_eq!(revoke(&client, "nonsense"), 200);
    assert_eq!(call(&proxy, &a.access).status, 200);
    assert_eq!(revoke(&client, &a.refresh), 200);
    assert_eq!(revoke(&client, &b.access), 200);
    for tokens in [a, b] {
        assert_eq!(call(&proxy, &tokens.access).status, 401);
        assert_eq!(client.refresh(&tokens.refresh).error(), "invalid_grant");
    }
    let unknown = encode(&[("token", "x"), ("client_id", "nobody")]);
    assert_eq!(
        proxy
            .send("POST", "/.idp/revoke", &[("Content-Type", "application/x-www-form-urlencoded")], unknown.as_bytes())
            .status,
        401
    );
}

#[test]
fn forms_are_bounded_and_each_parameter_stands_once() {
    let proxy = Proxy::start(1, &[]);
    let send = |content_type: &str, body: &[u8]| {
        let reply = proxy.send("POST", "/.idp/token", &[("Content-Type", content_type)], body);
        (reply.status, reply.error())
    };
    let form = "application/x-www-form-urlencoded";
    assert_eq!(send(form, b"grant_type=a&grant_type=b").1, "invalid_request");
    assert_eq!(send("application/json", b"{}").1, "invalid_request");
    assert_eq!(send(form, "x=".repeat(50_000).as_bytes()).0, 413);
    assert_eq!(send(form, b"").1, "invalid_request");
    assert_eq!(send(form, &[0xff, b'=', 0xff]).1, "invalid_request");
    assert_eq!(proxy.send("GET", "/.idp/token", &[], b"").status, 405);
}
