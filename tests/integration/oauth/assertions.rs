//! Assertions of trusted issuers: identity assertions (ID-JAG) and tokens of workloads, and the ways to get them wrong.

use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::flow::{FORM, call, encode};
use crate::support::idp::FakeOidc;
use crate::support::proxy::{Proxy, Scratch, arguments, command, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn write(data: &Scratch, issuers: &Value) -> String {
    let path = data.path("issuers.json");
    std::fs::write(&path, json!({ "issuers": issuers }).to_string()).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// A proxy before `upstream` that trusts `issuers`.
fn start(upstream: &FakeUpstream, issuers: &Value) -> Proxy {
    let (data, port) = (std::sync::Arc::new(Scratch::new()), free_port());
    let file = write(&data, issuers);
    let mut command = command();
    command.args(arguments(&data, port)).args(["--trusted-issuers", &file]);
    command.arg(format!("http://127.0.0.1:{}", upstream.port));
    Proxy::spawn(command, port, data)
}

fn exchange(proxy: &Proxy, assertion: &str, pairs: &[(&str, &str)]) -> Reply {
    let all: Vec<_> =
        [("grant_type", JWT_BEARER), ("assertion", assertion)].into_iter().chain(pairs.iter().copied()).collect();
    proxy.send("POST", "/.idp/token", &[FORM], encode(&all).as_bytes())
}

fn access(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.json().get("refresh_token").is_none());
    reply.json()["access_token"].as_str().unwrap().to_string()
}

struct Enterprise {
    upstream: FakeUpstream,
    issuer: FakeOidc,
    proxy: Proxy,
    secret: String,
}

impl Enterprise {
    fn start() -> Enterprise {
        let (upstream, issuer) = (FakeUpstream::ok(), FakeOidc::start(now));
        let entry = json!({"corp": {"issuer": issuer.issuer(), "kinds": ["enterprise"], "emailDomains": ["example.com"],
            "claims": {"id": "/email"}, "rules": [{"claims": {"sub": "u-*"}}]}});
        let proxy = start(&upstream, &entry);
        let made = proxy.order(&["clients", "add", "agent", "--grant-type", "jwt-bearer"]).unwrap();
        let secret = made["client_secret"].as_str().unwrap().to_string();
        Enterprise { upstream, issuer, proxy, secret }
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "oauth-id-jag+jwt", "kid": self.issuer.state().header()["kid"]})
    }

    fn claims(&self) -> Value {
        json!({"iss": self.issuer.issuer(), "sub": "u-alice", "aud": self.proxy.origin(), "client_id": "agent", "jti": "j1",
            "resource": format!("{}/mcp", self.proxy.origin()), "scope": "mcp", "iat": now(), "exp": now() + 300,
            "email": "alice@example.com", "email_verified": true, "groups": ["engineering"]})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.issuer.state().sign(header.clone(), claims)
    }

    fn send(&self, assertion: &str) -> Reply {
        exchange(&self.proxy, assertion, &[("client_id", "agent"), ("client_secret", &self.secret)])
    }
}

#[test]
fn an_identity_assertion_becomes_a_token_for_its_user_client_and_resource() {
    let world = Enterprise::start();
    let assertion = world.sign(&world.header(), &world.claims());
    let token = access(&world.send(&assertion));
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!(claims["aud"], format!("{}/mcp", world.proxy.origin()));
    assert_eq!(claims["client_id"], "agent");
    assert_eq!(call(&world.proxy, &token).status, 200);
    let user = format!("oidc:{}:u-alice", world.issuer.issuer());
    let received = world.upstream.last();
    assert_eq!(received.header("x-forwarded-user"), Some(user.as_str()));
    assert_eq!(received.header("x-forwarded-email"), Some("alice@example.com"));
    assert_eq!(received.header("x-forwarded-groups"), Some("engineering"));
    assert_eq!(received.header("x-forwarded-provider"), Some("corp"));
    // It stands in for a refresh token: good again until it expires, and one grant all the same.
    access(&world.send(&assertion));
    let listed = world.proxy.order(&["grants", "list"]).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), listed[0]["issuer"].as_str()), (1, Some("corp")), "{listed}");
    // The owner ends it: neither the token nor that assertion is good any more, but one that is issued later.
    assert_eq!(world.proxy.order(&["grants", "revoke", "--user", &user]).unwrap()["revoked"], 1);
    assert_eq!(call(&world.proxy, &token).status, 401);
    assert_eq!(world.send(&assertion).error(), "invalid_grant");
    let mut later = world.claims();
    later["iat"] = (now() + 30).into();
    access(&world.send(&world.sign(&world.header(), &later)));
}

#[test]
fn an_identity_assertion_that_is_wrong_in_any_way_is_refused() {
    let world = Enterprise::start();
    world.proxy.order(&["clients", "add", "robot"]).unwrap();
    let other = world.proxy.order(&["clients", "add", "other", "--grant-type", "jwt-bearer"]).unwrap();
    type Change = fn(&mut Value);
    let wrong: [(&str, &str, Change); 21] = [
        ("issuer", "invalid_grant", |c| c["iss"] = "https://elsewhere.example".into()),
        ("no issuer", "invalid_grant", |c| drop(c.as_object_mut().unwrap().remove("iss"))),
        ("audience", "invalid_grant", |c| c["aud"] = "https://elsewhere.example".into()),
        ("the token endpoint", "invalid_grant", |c| {
            c["aud"] = format!("{}/.idp/token", c["aud"].as_str().unwrap()).into()
        }),
        ("two audiences", "invalid_grant", |c| c["aud"] = json!([c["aud"], "https://elsewhere.example"])),
        ("no audience", "invalid_grant", |c| drop(c.as_object_mut().unwrap().remove("aud"))),
        ("client", "invalid_grant", |c| c["client_id"] = "other".into()),
        ("no client", "invalid_grant", |c| drop(c.as_object_mut().unwrap().remove("client_id"))),
        ("no subject", "invalid_grant", |c| drop(c.as_object_mut().unwrap().remove("sub"))),
        ("a subject that no rule fits", "invalid_target", |c| c["sub"] = "guest".into()),
        ("expired", "invalid_grant", |c| c["exp"] = (now() - 120).into()),
        ("good for years", "invalid_grant", |c| c["exp"] = (now() + 1_000_000_000).into()),
        ("good for ever", "invalid_grant", |c| c["exp"] = u64::MAX.into()),
        ("no expiry", "invalid_grant", |c| drop(c.as_object_mut().unwrap().remove("exp"))),
        ("no issue time", "invalid_grant", |c| drop(c.as_object_mut().unwrap().remove("iat"))),
        ("the future", "invalid_grant", |c| c["iat"] = (now() + 600).into()),
        ("not before", "invalid_grant", |c| c["nbf"] = (now() + 600).into()),
        ("no id", "invalid_grant", |c| drop(c.as_object_mut().unwrap().remove("jti"))),
        ("another scope", "invalid_scope", |c| c["scope"] = "admin".into()),
        ("no scope at all", "invalid_scope", |c| c["scope"] = "".into()),
        ("resource", "invalid_target", |c| c["resource"] = "https://elsewhere.example/mcp".into()),
    ];
    for (what, error, change) in wrong {
        let mut claims = world.claims();
        change(&mut claims);
        let reply = world.send(&world.sign(&world.header(), &claims));
        assert_eq!((reply.status, reply.error().as_str()), (400, error), "{what}: {}", reply.text());
    }
    let claims = world.claims();
    let with = |header: Value| world.send(&world.sign(&header, &claims)).error();
    for typ in ["JWT", "at+jwt", "oauth-id-jag", "oauth-id-jag+jwt2"] {
        // Without its type it is no identity assertion, and this issuer may vouch for no workloads.
        assert_ne!(with(json!({"alg": "ES256", "typ": typ})), "", "{typ}");
    }
    assert_eq!(with(json!({"alg": "ES256", "typ": "oauth-id-jag+jwt", "crit": ["x"]})), "invalid_grant");
    assert_eq!(with(json!({"alg": "RS256", "typ": "oauth-id-jag+jwt"})), "invalid_grant");
    let good = world.sign(&world.header(), &claims);
    let mut forged = good.clone();
    forged.replace_range(good.len() - 4.., "AAAA");
    assert_eq!(world.send(&forged).error(), "invalid_grant");
    // Who presents it.
    let as_client = |pairs: &[(&str, &str)]| exchange(&world.proxy, &good, pairs);
    let other_secret = other["client_secret"].as_str().unwrap();
    assert_eq!(as_client(&[]).error(), "invalid_request", "nobody");
    assert_eq!(as_client(&[("client_id", "agent")]).error(), "invalid_client", "without a secret");
    assert_eq!(as_client(&[("client_id", "agent"), ("client_secret", "x")]).error(), "invalid_client");
    assert_eq!(
        as_client(&[("client_id", "other"), ("client_secret", other_secret)]).error(),
        "invalid_grant",
        "another client"
    );
    let public = crate::support::flow::Client::public(&world.proxy);
    let mut claims = world.claims();
    claims["client_id"] = public.id.as_str().into();
    let reply = exchange(&world.proxy, &world.sign(&world.header(), &claims), &[("client_id", &public.id)]);
    assert_eq!((reply.status, reply.error().as_str()), (401, "invalid_client"), "a public client");
    // What the request asks for narrows, and never widens.
    let narrow = |pairs: &[(&str, &str)]| {
        let all = [&[("client_id", "agent"), ("client_secret", world.secret.as_str())], pairs].concat();
        exchange(&world.proxy, &good, &all)
    };
    let mcp = format!("{}/mcp", world.proxy.origin());
    assert_eq!(narrow(&[("resource", &mcp), ("scope", "mcp")]).status, 200);
    assert_eq!(narrow(&[("resource", &world.proxy.origin())]).error(), "invalid_target");
    assert_eq!(narrow(&[("scope", "admin")]).error(), "invalid_scope");
    // An address counts only if it is verified and in a domain of the issuer.
    for (email, verified) in [("alice@elsewhere.example", true), ("alice@example.com", false)] {
        let mut claims = world.claims();
        (claims["email"], claims["email_verified"]) = (email.into(), verified.into());
        claims["jti"] = email.into();
        let token = access(&world.send(&world.sign(&world.header(), &claims)));
        assert_eq!(call(&world.proxy, &token).status, 200);
        assert_eq!(world.upstream.last().header("x-forwarded-email"), None, "{email} {verified}");
    }
}

#[test]
fn an_identity_assertion_is_good_in_no_other_place() {
    let world = Enterprise::start();
    let assertion = world.sign(&world.header(), &world.claims());
    assert_eq!(call(&world.proxy, &assertion).status, 401, "as an access token");
    let client = crate::support::flow::Client::public(&world.proxy);
    assert_eq!(client.refresh(&assertion).error(), "invalid_grant");
    assert_eq!(client.redeem(&assertion).error(), "invalid_grant");
    let as_client = encode(&[
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", &assertion),
    ]);
    assert_eq!(world.proxy.send("POST", "/.idp/token", &[FORM], as_client.as_bytes()).error(), "invalid_client");
    let tokens = client.tokens();
    for other in [&tokens.access, &tokens.refresh] {
        assert_eq!(world.send(other).status, 400);
        assert_eq!(exchange(&world.proxy, other, &[]).error(), "invalid_grant");
    }
}

fn ci(issuer: &FakeOidc) -> Value {
    json!({"ci": {"issuer": issuer.issuer(), "kinds": ["workload"], "tokenLifetime": "5m",
        "rules": [{"claims": {"sub": "repo:example/*", "repository": ["example/app", "example/lib"]}}]}})
}

fn job(issuer: &FakeOidc, audience: &str) -> Value {
    json!({"iss": issuer.issuer(), "sub": "repo:example/app:ref:refs/heads/main", "repository": "example/app", "aud": audience,
        "iat": now(), "exp": now() + 300})
}

#[test]
fn a_workload_gets_a_token_by_its_claims_without_a_client() {
    let (upstream, issuer) = (FakeUpstream::ok(), FakeOidc::start(now));
    let proxy = start(&upstream, &ci(&issuer));
    let sign = |claims: &Value| issuer.state().sign(json!({"alg": "ES256", "typ": "JWT"}), claims);
    for audience in [proxy.origin(), format!("{}/.idp/token", proxy.origin())] {
        let reply =
            exchange(&proxy, &sign(&job(&issuer, &audience)), &[("resource", &format!("{}/mcp", proxy.origin()))]);
        assert_eq!(reply.json()["expires_in"], 300, "{}", reply.text());
        assert_eq!(call(&proxy, &access(&reply)).status, 200);
    }
    let user = "workload:ci:repo:example/app:ref:refs/heads/main";
    assert_eq!(upstream.last().header("x-forwarded-user"), Some(user));
    type Change = fn(&mut Value);
    let wrong: [(&str, &str, Change); 8] = [
        ("another repository", "invalid_target", |c| c["repository"] = "example/other".into()),
        ("another owner", "invalid_target", |c| c["sub"] = "repo:evil/example/app".into()),
        ("a claim is missing", "invalid_target", |c| drop(c.as_object_mut().unwrap().remove("repository"))),
        ("audience", "invalid_grant", |c| c["aud"] = "https://elsewhere.example".into()),
        ("two audiences", "invalid_grant", |c| c["aud"] = json!([c["aud"], "x"])),
        ("expired", "invalid_grant", |c| c["exp"] = (now() - 120).into()),
        ("no subject", "invalid_grant", |c| c["sub"] = "".into()),
        ("issuer", "invalid_grant", |c| c["iss"] = "https://elsewhere.example".into()),
    ];
    for (what, error, change) in wrong {
        let mut claims = job(&issuer, &proxy.origin());
        change(&mut claims);
        assert_eq!(exchange(&proxy, &sign(&claims), &[]).error(), error, "{what}");
    }
    let good = job(&issuer, &proxy.origin());
    let with_type = |typ: &str| issuer.state().sign(json!({"alg": "ES256", "typ": typ}), &good);
    assert_eq!(exchange(&proxy, &with_type("at+jwt"), &[]).error(), "invalid_grant");
    assert_ne!(exchange(&proxy, &with_type("oauth-id-jag+jwt"), &[]).status, 200);
    assert_eq!(
        exchange(&proxy, &sign(&good), &[("client_secret", "x"), ("client_id", "x")]).error(),
        "invalid_request"
    );
    assert_eq!(exchange(&proxy, "", &[]).error(), "invalid_request");
    // The issuer has rotated its keys since: the new ones are found, and the old ones are not believed.
    let old = sign(&good);
    access(&exchange(&proxy, &old, &[]));
}

#[test]
fn a_reload_changes_whom_an_issuer_may_name() {
    let (upstream, issuer) = (FakeUpstream::ok(), FakeOidc::start(now));
    let proxy = start(&upstream, &ci(&issuer));
    let claims = job(&issuer, &proxy.origin());
    let assertion = issuer.state().sign(json!({"alg": "ES256"}), &claims);
    let token = access(&exchange(&proxy, &assertion, &[]));
    let mut entry = ci(&issuer);
    entry["ci"]["rules"] = json!([{"claims": {"sub": "repo:example/other*"}}]);
    write(&proxy.data, &entry);
    proxy.order(&["reload"]).unwrap();
    assert_eq!(call(&proxy, &token).status, 401, "its rules are others now");
    assert_eq!(exchange(&proxy, &assertion, &[]).error(), "invalid_target");
    entry["ci"]["kinds"] = json!(["robot"]);
    write(&proxy.data, &entry);
    assert!(proxy.order(&["reload"]).unwrap_err().contains("robot"));
    assert_eq!(exchange(&proxy, &assertion, &[]).error(), "invalid_target", "what was there before stays");
}

#[test]
fn strangers_tokens_do_not_make_the_proxy_ask_an_issuer_for_keys_again_and_again() {
    let (upstream, issuer) = (FakeUpstream::ok(), FakeOidc::start(now));
    let proxy = start(&upstream, &ci(&issuer));
    let strange = FakeOidc::start(now);
    for _ in 0..20 {
        let token = strange.state().sign(json!({"alg": "ES256", "kid": "strange"}), &job(&issuer, &proxy.origin()));
        assert_eq!(exchange(&proxy, &token, &[]).error(), "invalid_grant");
    }
    let asked = issuer.server.received().iter().filter(|r| r.target == "/jwks").count();
    assert!(asked <= 2, "the issuer was asked {asked} times");
}

fn refused_at_start(issuers: &Value, more: &[&str]) -> String {
    let data = Scratch::new();
    let file = write(&data, issuers);
    let mut command = command();
    command.args(["-e", "https://mcp.example.com", "--no-auto-tls", "--trusted-issuers", &file]).args(more);
    let done = command.arg("http://127.0.0.1:1").output().unwrap();
    assert!(!done.status.success(), "{done:?}");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[test]
fn issuers_that_could_name_users_of_others_are_refused_at_the_start() {
    let entry = |issuer: &str| json!({"one": {"issuer": issuer, "kinds": ["enterprise"], "rules": [{}]}});
    let said = refused_at_start(&entry("https://mcp.example.com"), &["--password", "x"]);
    assert!(said.contains("is this server itself"), "{said}");
    for (issuer, provider) in [
        ("https://idp.example.com", "https://idp.example.com:8443"),
        ("https://idp.example.com:8443", "https://idp.example.com"),
        ("https://idp.example.com", "https://idp.example.com:8443/realms/a"),
    ] {
        let url = format!("{provider}/.well-known/openid-configuration");
        let oidc = ["--oidc-configuration-url", &url, "--oidc-client-id", "a", "--oidc-client-secret", "b"];
        let said = refused_at_start(&entry(issuer), &[&oidc[..], &["--oidc-allowed-users", "a@example.com"]].concat());
        assert!(said.contains("--oidc-configuration-url (OIDC_CONFIGURATION_URL) differ only in a port"), "{said}");
    }
}

#[test]
fn assertions_are_in_no_log() {
    let world = Enterprise::start();
    let good = world.sign(&world.header(), &world.claims());
    let mut claims = world.claims();
    claims["sub"] = "guest".into();
    let bad = world.sign(&world.header(), &claims);
    let token = access(&world.send(&good));
    world.send(&bad);
    world.proxy.has_logged("a token request was refused");
    let log = world.proxy.log();
    for secret in [&good, &bad, &token, &world.secret] {
        assert!(!log.contains(secret.rsplit('.').next().unwrap()), "the log has a secret");
    }
}
