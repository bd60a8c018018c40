//! Clients that act for themselves, resource servers that ask about tokens, and API keys, with the attacks on each.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::flow::{Client, FORM, call, encode};
use crate::support::proxy::Proxy;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn token(proxy: &Proxy, pairs: &[(&str, &str)]) -> Reply {
    let all: Vec<_> = [("grant_type", "client_credentials")].into_iter().chain(pairs.iter().copied()).collect();
    proxy.send("POST", "/.idp/token", &[FORM], encode(&all).as_bytes())
}

fn access(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["access_token"].as_str().unwrap().to_string()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A client's key pair, with its JWK set in a file.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Signer {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Signer(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap())
    }

    fn jwks(&self) -> Value {
        let point = self.0.public_key().as_ref();
        json!({"keys": [{"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])}]})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn add(proxy: &Proxy, name: &str, jwks: &Value, more: &[&str]) {
    let file = proxy.data.path(&format!("{name}.json"));
    std::fs::write(&file, jwks.to_string()).unwrap();
    let words = [&["clients", "add", name, "--jwks-file", &file], more].concat();
    assert_eq!(proxy.order(&words).unwrap()["client_id"], name);
}

#[test]
fn a_client_of_the_operator_gets_tokens_for_itself() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let made = proxy.order(&["clients", "add", "nightly", "--token-lifetime", "10m"]).unwrap();
    let (id, secret) = (made["client_id"].as_str().unwrap(), made["client_secret"].as_str().unwrap());
    assert_eq!((id, secret.len()), ("nightly", 43));
    let reply = token(&proxy, &[("client_id", id), ("client_secret", secret)]);
    let answer = reply.json();
    assert_eq!((answer["expires_in"].as_u64(), answer.get("refresh_token")), (Some(600), None), "{answer}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(call(&proxy, &access(&reply)).status, 200);
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("client:nightly"));
    // HTTP Basic, with and without percent-encoding.
    let basic = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
    let with_basic =
        |body: &str| proxy.send("POST", "/.idp/token", &[FORM, ("Authorization", &basic)], body.as_bytes());
    assert_eq!(with_basic("grant_type=client_credentials&scope=mcp").status, 200);
    assert_eq!(with_basic("grant_type=client_credentials&scope=admin").error(), "invalid_scope");
    assert_eq!(
        with_basic("grant_type=client_credentials&resource=https%3A%2F%2Felsewhere.example").error(),
        "invalid_target"
    );
    assert_eq!(with_basic("grant_type=refresh_token&refresh_token=x").error(), "invalid_grant");
    // The secret is stored nowhere, and the log does not have it.
    assert!(!proxy.log().contains(secret));
    let wrong = token(&proxy, &[("client_id", id), ("client_secret", "wrong")]);
    assert_eq!((wrong.status, wrong.error().as_str()), (401, "invalid_client"));
    assert_eq!(token(&proxy, &[("client_id", id)]).error(), "invalid_client");
    assert_eq!(token(&proxy, &[("client_id", "unknown"), ("client_secret", secret)]).error(), "invalid_client");
}

#[test]
fn clients_that_registered_themselves_get_no_tokens_for_themselves() {
    let proxy = Proxy::start(1, &[]);
    let client = Client::register(
        &proxy,
        json!({"redirect_uris": ["https://app.example/callback"], "token_endpoint_auth_method": "client_secret_post"}),
    );
    let reply = client.token_request(&[("grant_type", "client_credentials")]);
    assert_eq!((reply.status, reply.error().as_str()), (400, "unauthorized_client"));
    let public = Client::public(&proxy);
    assert_eq!(public.token_request(&[("grant_type", "client_credentials")]).error(), "unauthorized_client");
    // And a client that acts for itself can't ask a person.
    let made = proxy.order(&["clients", "add", "robot"]).unwrap();
    let robot = Client { id: made["client_id"].as_str().unwrap().into(), ..Client::public(&proxy) };
    let page = proxy.send("GET", &robot.authorize(&[]), &[], b"");
    assert_eq!(page.status, 400);
    assert!(page.header("location").is_none(), "{page:?}");
}

#[test]
fn removing_a_client_ends_its_tokens_at_once() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let made = proxy.order(&["clients", "add", "nightly"]).unwrap();
    let secret = made["client_secret"].as_str().unwrap();
    let credentials = [("client_id", "nightly"), ("client_secret", secret)];
    let first = access(&token(&proxy, &credentials));
    let listed = proxy.order(&["grants", "list", "--client", "nightly"]).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), listed[0]["user"].as_str()), (1, Some("client:nightly")));
    // The owner ends the grant: the token is refused, and the client gets another.
    let grant = listed[0]["grant"].as_str().unwrap();
    assert_eq!(proxy.order(&["grants", "revoke", grant]).unwrap()["revoked"], 1);
    assert_eq!(call(&proxy, &first).status, 401);
    let second = access(&token(&proxy, &credentials));
    assert_eq!(call(&proxy, &second).status, 200);
    assert_eq!(proxy.order(&["clients", "remove", "nightly"]).unwrap()["grants"], 1);
    assert_eq!(call(&proxy, &second).status, 401);
    assert_eq!(token(&proxy, &credentials).error(), "invalid_client");
    // Over a restart, too.
    let proxy = proxy.crash_and_restart(upstream.port, &[]);
    assert_eq!(call(&proxy, &second).status, 401);
    assert!(proxy.order(&["clients", "remove", "nightly"]).unwrap_err().contains("no client"));
}

#[test]
fn a_client_proves_itself_by_its_key_and_each_assertion_is_good_once() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let (signer, other) = (Signer::new(), Signer::new());
    add(&proxy, "builder", &signer.jwks(), &[]);
    add(&proxy, "other", &other.jwks(), &[]);
    let header = json!({"alg": "ES256", "typ": "JWT"});
    let issuer = proxy.origin();
    let claims = |jti: &str| json!({"iss": "builder", "sub": "builder", "aud": issuer, "jti": jti, "iat": now(), "exp": now() + 60});
    let send = |proxy: &Proxy, assertion: &str| {
        token(proxy, &[("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)])
    };
    let good = signer.sign(&header, &claims("1"));
    assert_eq!(call(&proxy, &access(&send(&proxy, &good))).status, 200);
    assert_eq!(send(&proxy, &good).error(), "invalid_client", "a second time");
    let mut at_endpoint = claims("2");
    at_endpoint["aud"] = json!([format!("{issuer}/.idp/token")]);
    assert_eq!(send(&proxy, &signer.sign(&header, &at_endpoint)).status, 200);
    // Over a restart, too.
    let proxy = proxy.crash_and_restart(upstream.port, &[]);
    assert_eq!(send(&proxy, &good).error(), "invalid_client", "a second time after a restart");

    type Change = fn(&mut Value);
    let wrong: [(&str, Change); 12] = [
        ("audience", |c| c["aud"] = "https://elsewhere.example".into()),
        ("two audiences", |c| c["aud"] = json!([c["aud"], "https://elsewhere.example"])),
        ("no audience", |c| drop(c.as_object_mut().unwrap().remove("aud"))),
        ("expired", |c| c["exp"] = (now() - 120).into()),
        ("too long", |c| c["exp"] = (now() + 3_600).into()),
        ("no expiry", |c| drop(c.as_object_mut().unwrap().remove("exp"))),
        ("the future", |c| c["iat"] = (now() + 600).into()),
        ("not before", |c| c["nbf"] = (now() + 600).into()),
        ("no id", |c| drop(c.as_object_mut().unwrap().remove("jti"))),
        ("issuer", |c| c["iss"] = "other".into()),
        ("subject", |c| c["sub"] = "other".into()),
        ("somebody unknown", |c| (c["iss"], c["sub"]) = ("nobody".into(), "nobody".into())),
    ];
    for (at, (what, change)) in wrong.iter().enumerate() {
        let mut claims = claims(&format!("wrong-{at}"));
        change(&mut claims);
        let reply = send(&proxy, &signer.sign(&header, &claims));
        assert_eq!((reply.status, reply.error().as_str()), (401, "invalid_client"), "{what}: {}", reply.text());
    }
    let refused = |what: &str, assertion: &str| assert_eq!(send(&proxy, assertion).error(), "invalid_client", "{what}");
    let typed = json!({"alg": "ES256", "typ": "oauth-id-jag+jwt"});
    refused("the type of an identity assertion", &signer.sign(&typed, &claims("8")));
    refused("another's key", &other.sign(&header, &claims("3")));
    refused("no algorithm", &format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims("4"))));
    refused("critical", &signer.sign(&json!({"alg": "ES256", "crit": ["x"]}), &claims("5")));
    // With the public key as the secret of an HMAC.
    let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(&claims("6")));
    let key = hmac::Hmac::<sha2::Sha256>::new_from_slice(signer.0.public_key().as_ref()).unwrap();
    use hmac::{KeyInit, Mac};
    let mac = key.chain_update(signed.as_bytes()).finalize().into_bytes();
    refused("another algorithm", &format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac)));
    for garbage in ["x", "a.b.c", "..", "e30.e30.e30"] {
        refused(garbage, garbage);
    }
    let twice = token(
        &proxy,
        &[
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", &signer.sign(&header, &claims("7"))),
            ("client_secret", "x"),
        ],
    );
    assert_eq!(twice.error(), "invalid_request");
    let named = token(
        &proxy,
        &[
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", &signer.sign(&header, &claims("8"))),
            ("client_id", "other"),
        ],
    );
    assert_eq!(named.error(), "invalid_client");
    let bare = token(&proxy, &[("client_assertion", &signer.sign(&header, &claims("9")))]);
    assert_eq!(bare.error(), "invalid_request", "without the type");
    assert_eq!(send(&proxy, &signer.sign(&header, &claims("10"))).status, 200, "the right one still works");
}

#[test]
fn ed25519_keys_work_and_private_keys_are_refused() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    add(&proxy, "ed", &json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}), &[]);
    let claims = json!({"iss": "ed", "sub": "ed", "aud": proxy.origin(), "jti": "1", "exp": now() + 60});
    let signed = format!("{}.{}", part(&json!({"alg": "EdDSA"})), part(&claims));
    let assertion = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    let reply = token(&proxy, &[("client_assertion_type", ASSERTION_TYPE), ("client_assertion", &assertion)]);
    assert_eq!(call(&proxy, &access(&reply)).status, 200);
    let file = proxy.data.path("private.json");
    std::fs::write(&file, json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "d": "AAAA"}]}).to_string())
        .unwrap();
    let refused = proxy.order(&["clients", "add", "leaky", "--jwks-file", &file]).unwrap_err();
    assert!(refused.contains("private key"), "{refused}");
}

/// Introspection: what an operator's resource server is told about a token.
fn introspect(proxy: &Proxy, id: &str, secret: &str, token: &str) -> Reply {
    let pairs = [("client_id", id), ("client_secret", secret), ("token", token)];
    proxy.send("POST", "/.idp/introspect", &[FORM], encode(&pairs).as_bytes())
}

#[test]
fn introspection_tells_resource_servers_only_and_about_good_tokens_only() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &["--api-keys"]);
    let made = proxy.order(&["clients", "add", "files-server", "--introspect"]).unwrap();
    let secret = made["client_secret"].as_str().unwrap();
    let robot = proxy.order(&["clients", "add", "robot"]).unwrap();
    let robot_secret = robot["client_secret"].as_str().unwrap();
    let client = Client::public(&proxy);
    let tokens = client.tokens();
    let ask = |token: &str| introspect(&proxy, "files-server", secret, token);
    let answer = ask(&tokens.access).json();
    assert_eq!(
        (answer["active"].as_bool(), answer["sub"].as_str(), answer["client_id"].as_str()),
        (Some(true), Some("password"), Some(client.id.as_str()))
    );
    assert_eq!((answer["token_type"].as_str(), answer["scope"].as_str()), (Some("Bearer"), Some("mcp")));
    let key = proxy.order(&["keys", "add", "script"]).unwrap();
    let answer = ask(key["key"].as_str().unwrap()).json();
    assert_eq!((answer["active"].as_bool(), answer["sub"].as_str()), (Some(true), Some("key:script")));
    assert_eq!(answer["aud"], json!([format!("{}/mcp", proxy.origin())]));
    // Of anything that is no good access token, it learns nothing.
    let nothing = json!({"active": false});
    for text in [tokens.refresh.as_str(), "x", "map_x", "a.b.c"] {
        let reply = ask(text);
        assert_eq!((reply.status, reply.json()), (200, nothing.clone()), "{text}");
    }
    // Nobody else may ask.
    let client_form = encode(&[("client_id", client.id.as_str()), ("token", &tokens.access)]);
    let reply = proxy.send("POST", "/.idp/introspect", &[FORM], client_form.as_bytes());
    assert_eq!(reply.error(), "unauthorized_client");
    assert_eq!(introspect(&proxy, "robot", robot_secret, &tokens.access).error(), "unauthorized_client");
    assert_eq!(introspect(&proxy, "files-server", robot_secret, &tokens.access).status, 401);
    assert_eq!(introspect(&proxy, "files-server", secret, "").error(), "invalid_request");
    // It can't get tokens for itself.
    assert_eq!(
        token(&proxy, &[("client_id", "files-server"), ("client_secret", secret)]).error(),
        "unauthorized_client"
    );
    // A revoked token is not active.
    let revoke = encode(&[("client_id", client.id.as_str()), ("token", &tokens.access)]);
    assert_eq!(proxy.send("POST", "/.idp/revoke", &[FORM], revoke.as_bytes()).status, 200);
    assert_eq!(ask(&tokens.access).json(), nothing);
}

#[test]
fn an_api_key_acts_as_itself_until_it_is_revoked() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &["--api-keys"]);
    let made = proxy.order(&["keys", "add", "backup", "--expires", "1d"]).unwrap();
    let key = made["key"].as_str().unwrap().to_string();
    assert!(key.starts_with("map_") && key.len() == 53, "{key}");
    assert_eq!(call(&proxy, &key).status, 200);
    assert_eq!(upstream.last().header("x-forwarded-user"), Some("key:backup"));
    assert!(upstream.last().header("authorization").is_none());
    let listed = proxy.order(&["keys", "list"]).unwrap();
    assert_eq!((listed[0]["name"].as_str(), listed[0]["last_used_from"].as_str()), (Some("backup"), Some("127.0.0.1")));
    assert!(listed[0].get("key").is_none() && listed[0].get("digest").is_none(), "{listed}");
    // Keys are refused wherever another credential belongs, and others where a key belongs.
    let mut wrong = key.clone();
    wrong.replace_range(10..11, if &key[10..11] == "a" { "b" } else { "a" });
    for bad in [wrong.as_str(), &key[..52], "map_", &key.to_uppercase()] {
        let reply = call(&proxy, bad);
        assert_eq!(reply.status, 401, "{bad}");
        assert!(reply.header("www-authenticate").unwrap().contains("invalid_token"), "{bad}");
    }
    let client = Client::public(&proxy);
    assert_eq!(client.refresh(&key).error(), "invalid_grant");
    assert_eq!(client.redeem(&key).error(), "invalid_grant");
    assert_eq!(proxy.send("GET", &format!("/mcp?access_token={key}"), &[], b"").status, 401, "never in the query");
    assert!(proxy.order(&["keys", "add", "backup"]).unwrap_err().contains("already"));
    let proxy = proxy.crash_and_restart(upstream.port, &["--api-keys"]);
    assert_eq!(call(&proxy, &key).status, 200, "it outlives a restart");
    proxy.order(&["keys", "revoke", "backup"]).unwrap();
    assert_eq!(call(&proxy, &key).status, 401);
    assert!(!proxy.log().contains(&key[4..]), "the log has the key");
}

#[test]
fn api_keys_are_off_unless_asked_for() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &["--api-keys"]);
    let key = proxy.order(&["keys", "add", "script"]).unwrap()["key"].as_str().unwrap().to_string();
    let proxy = proxy.crash_and_restart(upstream.port, &[]);
    assert_eq!(call(&proxy, &key).status, 401);
    assert!(proxy.order(&["keys", "add", "other"]).unwrap_err().contains("--api-keys (API_KEYS)"));
}

#[test]
fn registration_can_be_closed_and_narrowed() {
    let register = |proxy: &Proxy, uris: &[&str]| {
        crate::support::flow::register(proxy, &json!({"redirect_uris": uris, "token_endpoint_auth_method": "none"}))
    };
    let metadata = |proxy: &Proxy| proxy.send("GET", "/.well-known/oauth-authorization-server", &[], b"").json();
    let off = Proxy::start(1, &["--registration", "off"]);
    let reply = register(&off, &["https://claude.ai/api/mcp/auth_callback"]);
    assert_eq!((reply.status, reply.error().as_str()), (403, "access_denied"));
    assert!(metadata(&off).get("registration_endpoint").is_none());
    let args =
        ["--registration", "allowlist", "--registration-redirect-uris", "https://claude.ai/api/*,http://localhost/*"];
    let some = Proxy::start(1, &args);
    assert_eq!(register(&some, &["https://claude.ai/api/mcp/auth_callback"]).status, 201);
    assert_eq!(register(&some, &["http://localhost:4711/callback"]).status, 201);
    for uris in [&["https://evil.example/"][..], &["http://localhost/x", "https://evil.example/"], &["cursor://x/y"]] {
        assert_eq!(register(&some, uris).error(), "invalid_redirect_uri", "{uris:?}");
    }
    assert!(metadata(&some)["registration_endpoint"].is_string());
    // With registration off, a client of the operator still connects.
    let made = off
        .order(&["clients", "add", "claude", "--redirect-uri", "https://claude.ai/api/mcp/auth_callback", "--public"])
        .unwrap();
    let client = Client {
        transport: &off,
        id: made["client_id"].as_str().unwrap().into(),
        secret: None,
        redirect: "https://claude.ai/api/mcp/auth_callback".into(),
    };
    let page = off.send("GET", &client.authorize(&[]), &[], b"").text();
    assert!(page.contains("claude wants to use") && !page.contains("unverified"), "{page}");
    client.tokens();
}

#[test]
fn metadata_says_what_works() {
    let proxy = Proxy::start(1, &[]);
    let metadata = proxy.send("GET", "/.well-known/oauth-authorization-server", &[], b"").json();
    assert_eq!(metadata["client_id_metadata_document_supported"], true);
    assert_eq!(
        metadata["token_endpoint_auth_methods_supported"],
        json!(["none", "client_secret_basic", "client_secret_post", "private_key_jwt"])
    );
    assert_eq!(metadata["token_endpoint_auth_signing_alg_values_supported"], json!(["ES256", "RS256", "EdDSA"]));
    assert_eq!(metadata["grant_types_supported"], json!(["authorization_code", "refresh_token", "client_credentials"]));
    assert!(metadata.get("authorization_grant_profiles_supported").is_none());
    assert_eq!(metadata["introspection_endpoint"], format!("{}/.idp/introspect", proxy.origin()));
    let closed = Proxy::start(1, &["--no-cimd"]);
    let metadata = closed.send("GET", "/.well-known/oauth-authorization-server", &[], b"").json();
    assert_eq!(metadata["client_id_metadata_document_supported"], false);
}

#[test]
fn a_document_at_an_address_of_our_own_is_not_fetched() {
    let proxy = Proxy::start(1, &["--cimd-allowed-domains", "example.com,localtest.example"]);
    let client = |id: &str| Client {
        transport: &proxy,
        id: id.into(),
        secret: None,
        redirect: "https://app.example/callback".into(),
    };
    for (id, reason) in [
        ("https://127.0.0.1/client.json", "can&#39;t be the URL of a document"),
        ("https://[::1]/client.json", "can&#39;t be the URL of a document"),
        ("https://localhost/client.json", "can&#39;t be the URL of a document"),
        ("https://example.com:8443/client.json", "port is not 443"),
        ("https://example.com/", "no path"),
        ("https://evil.example/client.json", "are not accepted"),
        ("https://notexample.com/client.json", "are not accepted"),
    ] {
        let page = proxy.send("GET", &client(id).authorize(&[]), &[], b"");
        assert_eq!(page.status, 400, "{id}");
        let text = page.text().replace("&#x27;", "&#39;").replace('\'', "&#39;");
        assert!(text.contains(reason), "{id}: {text}");
        assert!(page.header("location").is_none());
    }
    // Nothing is fetched for a request that is wrong anyway, so the reason is not the document.
    let page =
        proxy.send("GET", &client("https://example.com/x").authorize(&[("code_challenge_method", "plain")]), &[], b"");
    assert!(page.text().contains("S256"), "{}", page.text());
    let token = client("https://example.com/x").token_request(&[
        ("grant_type", "authorization_code"),
        ("code", "x"),
        ("code_verifier", "x"),
    ]);
    assert_eq!((token.status, token.error().as_str()), (401, "invalid_client"));
}
