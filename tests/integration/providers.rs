//! Sign-in at providers: who may enter, for how long, and what attackers try.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::context::Context;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::http::{Drain, Payload, Response};
use mcp_auth_proxy::identity::Principal;
use mcp_auth_proxy::login::providers::{configure_anew, recheck};
use mcp_auth_proxy::net::interrupt;
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::tokens::access::AccessToken;
use serde_json::{Value, json};

use super::support::eventually;
use super::support::flow::{Browser, Client, Tokens, call, hidden, query, tokens};
use super::support::idp::{CLIENT_ID, CLIENT_SECRET, FakeGitHub, FakeOidc, Forge, OidcState};
use super::support::local::Local;
use super::support::proxy::{PASSWORD, Proxy, Scratch, command, free_port};
use super::support::stdio::Published;
use super::support::upstream::FakeUpstream;
use super::support::wire::{Reply, Transport};

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// The application before an OpenID Connect provider; `change` adds the rules.
struct Provided {
    app: Local,
    idp: FakeOidc,
    clock: Arc<Clock>,
    settings: Settings,
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|i| i.to_string()).collect()
}

fn provided(change: impl FnOnce(&mut Settings)) -> Provided {
    let clock = Arc::new(Clock::manual(NOW));
    let of_idp = clock.clone();
    let idp = FakeOidc::start(move || of_idp.now());
    let mut settings = Settings {
        oidc_configuration_url: Some(idp.configuration_url()),
        oidc_client_id: Some(CLIENT_ID.into()),
        oidc_client_secret: Some(CLIENT_SECRET.into()),
        oidc_provider_name: "Example ID".into(),
        ..Settings::default()
    };
    change(&mut settings);
    let store = Box::new(EmbeddedStore::in_memory().unwrap());
    let app = Local::with_settings(settings.clone(), store, &Secret::generate(), clock.clone()).unwrap();
    Provided { app, idp, clock, settings }
}

fn for_alice() -> Provided {
    provided(|s| s.oidc_allowed_users = strings(&["ALICE@example.com"]))
}

/// Presses the provider's button on `page`; the URL that the browser is sent to.
fn choose<T: Transport>(browser: &Browser<'_, T>, page: &Reply, provider: &str) -> String {
    assert!(page.text().contains(&format!("value=\"{provider}\"")), "{}", page.text());
    let request = hidden(page, "request");
    let hop = browser.post("/.auth/login", &[("request", &request), ("provider", provider)]);
    assert_eq!(hop.status, 200, "{}", hop.text());
    hop.header("refresh").unwrap().strip_prefix("0;url=").unwrap().to_string()
}

fn come_back<T: Transport>(browser: &Browser<'_, T>, provider: &str, query: &[(String, String)]) -> Reply {
    let pairs: Vec<(&str, &str)> = query.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    browser.get(&format!("/.auth/{provider}/callback?{}", super::support::flow::encode(&pairs)))
}

impl Provided {
    /// A client asks, the person signs in at the provider; what the browser sees then.
    fn sign_in(&self, client: &Client<'_, Local>) -> Reply {
        let browser = Browser::new(&self.app);
        let page = browser.get(&client.authorize(&[]));
        let url = choose(&browser, &page, "oidc");
        come_back(&browser, "oidc", &self.idp.authorize(&url))
    }

    /// How often the provider's token endpoint was asked.
    fn token_requests(&self) -> usize {
        self.idp.server.received().iter().filter(|r| r.target == "/token").count()
    }

    fn replace_rules(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.clone();
        change(&mut settings);
        self.app.context().providers.replace_rules(&configure_anew(&settings).unwrap());
        recheck::look_after_streams(self.app.context());
    }

    fn tokens(&self, client: &Client<'_, Local>) -> Tokens {
        let reply = self.sign_in(client);
        assert_eq!(reply.status, 303, "{}", reply.text());
        let code = query(reply.header("location").unwrap()).remove("code").unwrap();
        tokens(&client.redeem(&code))
    }
}

#[test]
fn who_is_on_the_list_gets_in_and_others_are_told_who_they_are() {
    let p = for_alice();
    let client = Client::public(&p.app);
    let browser = Browser::new(&p.app);
    let page = browser.get(&client.authorize(&[]));
    // Consent stays before the provider: the page shows who asks and where the answer goes.
    assert!(page.text().contains("Sign in with Example ID and allow") && page.text().contains("test client"));
    assert!(!page.text().contains("type=\"password\""), "nobody could sign in so");
    let url = choose(&browser, &page, "oidc");
    // What is between client and proxy is not the provider's business.
    let asked = query(&url);
    assert_eq!(asked["scope"], "openid profile email");
    assert_eq!(asked["redirect_uri"], "http://localhost:8080/.auth/oidc/callback");
    assert!(!asked.contains_key("resource") && asked.contains_key("nonce"));
    let reply = come_back(&browser, "oidc", &p.idp.authorize(&url));
    assert_eq!(reply.status, 303, "{}", reply.text());
    let back = query(reply.header("location").unwrap());
    assert_eq!((back["state"].as_str(), back["iss"].as_str()), ("s t&te", "http://localhost:8080"));
    let tokens = tokens(&client.redeem(&back["code"]));
    assert_eq!(call(&p.app, &tokens.access).text().trim(), format!("oidc:{}:u-alice", p.idp.issuer()));
    // The browser has a session: the next client needs consent alone.
    let another = Client::named(&p.app, "another");
    assert!(browser.get(&another.authorize(&[])).text().contains("Signed in as <strong>alice@example.com"));

    p.idp.state().claims = json!({"sub": "u-bob", "email": "bob@<b>example.org", "email_verified": true});
    let reply = p.sign_in(&client);
    assert_eq!(reply.status, 403);
    assert!(reply.text().contains("bob@&lt;b&gt;example.org") && !reply.text().contains("allowed-users"));
    // Another account: the provider is asked to let the person choose, and the client's request is still there.
    let request = hidden(&reply, "request");
    let hop = browser.post("/.auth/login", &[("request", &request), ("provider", "oidc"), ("account", "another")]);
    assert_eq!(hop.status, 400, "of another browser");
    assert!(reply.text().contains("name=\"account\" value=\"another\""));
}

#[test]
fn every_kind_of_rule_lets_in_and_keeps_out() {
    type Change = fn(&mut Settings);
    let alice = json!({"sub": "a", "email": "alice@example.com", "email_verified": true, "oid": "Id-1",
        "groups": "engineering", "realm": {"roles": ["x", "mcp"]}});
    let cases: &[(Change, Value, bool)] = &[
        (|s| s.oidc_allowed_users_glob = strings(&["*@example.com"]), json!({}), true),
        (|s| s.oidc_allowed_users_glob = strings(&["*@example.com"]), json!({"email": "a@example.com.evil"}), false),
        (|s| s.oidc_allowed_users_glob = strings(&["*@EXAMPLE.com"]), json!({}), true),
        (|s| s.oidc_allowed_groups = strings(&["engineering"]), json!({}), true),
        (|s| s.oidc_allowed_groups = strings(&["Engineering"]), json!({}), false),
        (|s| s.oidc_allowed_groups = strings(&["engineering"]), json!({"groups": ["sales"]}), false),
        (|s| s.oidc_allowed_groups = strings(&["engineering"]), json!({"email": null, "email_verified": null}), true),
        (
            |s| {
                s.oidc_groups_field = "/realm/roles".into();
                s.oidc_allowed_groups = strings(&["mcp"]);
            },
            json!({}),
            true,
        ),
        (|s| s.oidc_allowed_attributes = strings(&["/realm/roles=mcp"]), json!({}), true),
        (|s| s.oidc_allowed_attributes = strings(&["/realm/roles=m"]), json!({}), false),
        (
            |s| {
                s.oidc_user_id_field = "/oid".into();
                s.oidc_allowed_users = strings(&["id-1"]);
            },
            json!({}),
            false,
        ),
        (
            |s| {
                s.oidc_user_id_field = "/oid".into();
                s.oidc_allowed_users = strings(&["Id-1"]);
            },
            json!({}),
            true,
        ),
        (|s| s.allow_any_user = true, json!({"email": "x@y", "email_verified": false}), true),
        // An address that the provider does not vouch for is nobody's.
        (|s| s.oidc_allowed_users = strings(&["alice@example.com"]), json!({"email_verified": false}), false),
        (|s| s.oidc_allowed_users = strings(&["alice@example.com"]), json!({"email_verified": "false"}), false),
        (|s| s.oidc_allowed_users = strings(&["alice@example.com"]), json!({"email_verified": "true"}), true),
        (|s| s.oidc_allowed_users = strings(&["alice@example.com"]), json!({"email_verified": null}), true),
        (
            |s| s.oidc_allowed_users = strings(&["alice@example.com"]),
            json!({"xms_edov": false, "email_verified": null}),
            false,
        ),
    ];
    for (change, claims, gets_in) in cases {
        let p = provided(*change);
        let mut all = alice.clone();
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        all.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        p.idp.state().claims = all;
        let reply = p.sign_in(&Client::public(&p.app));
        assert_eq!(reply.status, if *gets_in { 303 } else { 403 }, "{claims} {:?}", reply.text());
    }
}

#[test]
fn a_provider_of_many_tenants_lets_in_those_that_are_named() {
    let change = |s: &mut Settings| {
        s.oidc_allowed_users = strings(&["alice@example.com"]);
        s.oidc_allowed_tenants = strings(&["T-1"]);
    };
    let set = |p: &Provided, tenant: &str, more: Value| {
        let template = format!("{}/{{tenantid}}/v2.0", p.idp.issuer());
        let issuer = template.replace("{tenantid}", tenant);
        let mut state = p.idp.state();
        state.discovery = json!({"issuer": template});
        let mut claims = json!({"sub": "u", "tid": tenant, "iss": issuer, "email": "alice@example.com"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        state.claims = claims;
        state.userinfo = Some(json!({"sub": "u"}));
    };
    let status = |tenant: &str, more: Value| {
        let p = provided(change);
        set(&p, tenant, more);
        p.sign_in(&Client::public(&p.app)).status
    };
    assert_eq!(status("T-1", json!({"email_verified": true})), 303);
    assert_eq!(status("T-1", json!({"xms_edov": true})), 303);
    // Without a word an address may be anybody's: tenants write what they like.
    assert_eq!(status("T-1", json!({})), 403);
    assert_eq!(status("T-2", json!({"email_verified": true})), 400);
    // A tenant that claims another's issuer.
    let p = provided(change);
    set(&p, "T-2", json!({"email_verified": true, "tid": "T-1"}));
    assert_eq!(p.sign_in(&Client::public(&p.app)).status, 400);
    // Without a list of tenants it is of no use.
    let p = for_alice();
    set(&p, "T-1", json!({"email_verified": true}));
    let browser = Browser::new(&p.app);
    let page = browser.get("/.auth/login");
    assert_eq!(page.status, 502, "{}", page.text());
}

#[test]
fn a_token_that_is_not_good_signs_nobody_in() {
    fn with(change: fn(&mut Value)) -> Forge {
        Box::new(move |state, mut claims| {
            change(&mut claims);
            state.sign(state.header(), &claims)
        })
    }
    fn header(change: fn(&mut Value)) -> Forge {
        Box::new(move |state: &OidcState, claims| {
            let mut header = state.header();
            change(&mut header);
            state.sign(header, &claims)
        })
    }
    let hmac_with_public_key: Forge = Box::new(|state, claims| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(&claims));
        let mac = Hmac::<sha2::Sha256>::new_from_slice(&state.public_key()).unwrap().chain_update(&signed);
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    });
    let unsigned: Forge = Box::new(|_, claims| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims))
    });
    let cut: Forge = Box::new(|state, claims| {
        let token = state.sign(state.header(), &claims);
        format!("{}.", token.rsplit_once('.').unwrap().0)
    });
    let altered: Forge = Box::new(|state, claims| {
        let token = state.sign(state.header(), &claims);
        let mut parts: Vec<String> = token.split('.').map(String::from).collect();
        let mut claims = claims;
        claims["email"] = json!("root@example.com");
        parts[1] = URL_SAFE_NO_PAD.encode(claims.to_string());
        parts.join(".")
    });
    let forgeries: Vec<(&str, Forge)> = vec![
        ("no signature", unsigned),
        ("the public key as a secret", hmac_with_public_key),
        ("a cut signature", cut),
        ("other claims under the signature", altered),
        ("another algorithm for the key", header(|h| h["alg"] = json!("RS256"))),
        ("an unknown key", header(|h| h["kid"] = json!("other"))),
        ("critical extensions", header(|h| h["crit"] = json!(["x"]))),
        ("an issuer with a slash", with(|c| c["iss"] = json!(format!("{}/", c["iss"].as_str().unwrap())))),
        ("another issuer", with(|c| c["iss"] = json!("https://accounts.google.com"))),
        ("another audience", with(|c| c["aud"] = json!("other"))),
        ("many audiences and no authorized party", with(|c| c["aud"] = json!(["other", CLIENT_ID]))),
        ("another authorized party", with(|c| c["azp"] = json!("other"))),
        ("its end", with(|c| c["exp"] = json!(NOW - 61))),
        ("no end", with(|c| drop(c.as_object_mut().unwrap().remove("exp")))),
        ("the future", with(|c| c["iat"] = json!(NOW + 61))),
        ("not yet", with(|c| c["nbf"] = json!(NOW + 61))),
        ("no nonce", with(|c| drop(c.as_object_mut().unwrap().remove("nonce")))),
        ("another nonce", with(|c| c["nonce"] = json!("x"))),
        ("nobody", with(|c| drop(c.as_object_mut().unwrap().remove("sub")))),
        ("somebody else than userinfo", with(|c| c["sub"] = json!("u-root"))),
        ("another address than userinfo", with(|c| c["email"] = json!("root@example.com"))),
        ("nothing", Box::new(|_, _| String::new())),
        (
            "too much",
            Box::new(|state, claims| format!("{}{}", "A".repeat(100_000), state.sign(state.header(), &claims))),
        ),
    ];
    for (what, forge) in forgeries {
        let p = for_alice();
        p.idp.state().forge = Some(forge);
        let reply = p.sign_in(&Client::public(&p.app));
        assert_eq!(reply.status, 400, "{what}: {}", reply.text());
        assert!(reply.header("set-cookie").is_none_or(|c| !c.contains("session")), "{what}");
    }
    for (what, fine) in [
        ("a whole number with a fraction", with(|c| c["exp"] = json!(NOW as f64 + 300.0))),
        ("many audiences", with(|c| (c["aud"], c["azp"]) = (json!(["other", CLIENT_ID]), json!(CLIENT_ID)))),
        ("no key id", header(|h| drop(h.as_object_mut().unwrap().remove("kid")))),
    ] {
        let p = for_alice();
        p.idp.state().forge = Some(fine);
        assert_eq!(p.sign_in(&Client::public(&p.app)).status, 303, "{what}");
    }
}

#[test]
fn a_nonce_is_good_for_one_sign_in() {
    let p = for_alice();
    let client = Client::public(&p.app);
    let stolen = Arc::new(std::sync::Mutex::new(None::<String>));
    let kept = stolen.clone();
    p.idp.state().forge = Some(Box::new(move |state, claims| {
        let token = state.sign(state.header(), &claims);
        // The second sign-in is given the token of the first.
        kept.lock().unwrap().get_or_insert(token).clone()
    }));
    assert_eq!(p.sign_in(&client).status, 303);
    assert_eq!(p.sign_in(&client).status, 400);
}

#[test]
fn the_answer_belongs_to_the_browser_the_provider_and_the_moment() {
    let p = provided(|s| {
        s.oidc_allowed_users = strings(&["alice@example.com"]);
        s.github_client_id = Some(CLIENT_ID.into());
        s.github_client_secret = Some(CLIENT_SECRET.into());
        s.github_allowed_users = strings(&["alice"]);
    });
    let client = Client::public(&p.app);
    let (victim, attacker) = (Browser::new(&p.app), Browser::new(&p.app));
    let begin = |browser: &Browser<'_, Local>| {
        let page = browser.get(&client.authorize(&[]));
        p.idp.authorize(&choose(browser, &page, "oidc"))
    };
    let (of_victim, of_attacker) = (begin(&victim), begin(&attacker));
    let value = |query: &[(String, String)], name: &str| query.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let mix = |code: &str, state: &str| {
        vec![("code".to_string(), code.to_string()), ("state".to_string(), state.to_string())]
    };
    // The attacker's whole answer in the victim's browser: the victim would work in the attacker's name.
    assert_eq!(come_back(&victim, "oidc", &of_attacker).status, 400);
    // The attacker's code with the victim's state: PKCE and nonce are those of another sign-in.
    let injected = mix(&value(&of_attacker, "code"), &value(&of_victim, "state"));
    assert_eq!(come_back(&victim, "oidc", &injected).status, 400);
    // An answer at the callback of another provider.
    assert_eq!(come_back(&victim, "github", &of_victim).status, 400);
    // No state, or another artefact in its place.
    let page = victim.get(&client.authorize(&[]));
    let request = hidden(&page, "request");
    for state in ["", "x", request.as_str(), &value(&of_victim, "state")[1..]] {
        assert_eq!(come_back(&victim, "oidc", &mix(&value(&of_victim, "code"), state)).status, 400, "{state}");
    }
    assert_eq!(
        victim.post("/.auth/login", &[("request", &value(&of_victim, "state")), ("provider", "oidc")]).status,
        400
    );
    // Errors go to nobody before that is known either.
    let error = vec![("error".to_string(), "access_denied".to_string()), ("state".to_string(), "x".to_string())];
    assert_eq!(come_back(&victim, "oidc", &error).status, 400);
    // The answer of another issuer (RFC 9207).
    let mut foreign = begin(&victim);
    foreign.push(("iss".into(), "https://evil.example".into()));
    assert_eq!(come_back(&victim, "oidc", &foreign).status, 400);
    let mut named = begin(&victim);
    named.push(("iss".into(), p.idp.issuer()));
    assert_eq!(come_back(&victim, "oidc", &named).status, 303);
    // Too late.
    let slow = Browser::new(&p.app);
    let late = begin(&slow);
    p.clock.advance(16 * 60);
    assert_eq!(come_back(&slow, "oidc", &late).status, 400);
}

#[test]
fn an_issuer_that_says_that_it_names_itself_has_to() {
    let p = for_alice();
    p.idp.state().discovery = json!({"authorization_response_iss_parameter_supported": true});
    let client = Client::public(&p.app);
    assert_eq!(p.sign_in(&client).status, 400);
    let browser = Browser::new(&p.app);
    let page = browser.get(&client.authorize(&[]));
    let mut answer = p.idp.authorize(&choose(&browser, &page, "oidc"));
    answer.push(("iss".into(), p.idp.issuer()));
    assert_eq!(come_back(&browser, "oidc", &answer).status, 303);
}

#[test]
fn a_provider_that_says_no_is_not_quoted() {
    let p = for_alice();
    let client = Client::public(&p.app);
    let browser = Browser::new(&p.app);
    let answer = |error: &str| {
        let page = browser.get(&client.authorize(&[]));
        let asked = query(&choose(&browser, &page, "oidc"));
        [("error", error), ("error_description", "<script>alert(1)</script>"), ("state", &asked["state"])]
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .to_vec()
    };
    let reply = come_back(&browser, "oidc", &answer("access_denied"));
    assert_eq!(reply.status, 403);
    assert!(reply.text().contains("called off") && !reply.text().contains("alert(1)"));
    // Another try from there leads to the client all the same.
    let url = choose(&browser, &reply, "oidc");
    assert_eq!(come_back(&browser, "oidc", &p.idp.authorize(&url)).status, 303);
    let browser = Browser::new(&p.app);
    let page = browser.get(&client.authorize(&[]));
    let state = query(&choose(&browser, &page, "oidc")).remove("state").unwrap();
    let answer = [("error", "<b>server_error</b>"), ("state", &state)].map(|(n, v)| (n.into(), v.to_string()));
    let reply = come_back(&browser, "oidc", &answer);
    assert!(reply.status == 403 && !reply.text().contains("server_error"), "{}", reply.text());
}

#[test]
fn keys_that_were_replaced_are_looked_up() {
    let p = for_alice();
    let client = Client::public(&p.app);
    assert_eq!(p.sign_in(&client).status, 303);
    p.idp.rotate();
    // A look at the keys is worth it every few seconds only.
    eventually("the new key is found", || p.sign_in(&client).status == 303);
}

#[test]
fn the_secret_goes_where_the_provider_wants_it_of_this_client() {
    let p = for_alice();
    p.idp.state().discovery =
        json!({"token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"]});
    let client = Client::public(&p.app);
    for asked in [2, 3, 4] {
        assert_eq!(p.sign_in(&client).status, 303);
        assert_eq!(p.token_requests(), asked, "what was found out is kept");
    }
    p.idp.state().refused = Some("invalid_client");
    assert_eq!(p.sign_in(&client).status, 502);
}

#[test]
fn documents_that_are_wrong_or_too_large_are_refused() {
    for discovery in [
        json!({"token_endpoint": "http://idp.example.com/token"}),
        json!({"authorization_endpoint": "javascript:alert(1)"}),
        json!({"jwks_uri": null}),
        json!({"issuer": null}),
        json!({"x": "y".repeat(2 << 20)}),
    ] {
        let p = for_alice();
        p.idp.state().discovery = discovery;
        let reply = Browser::new(&p.app).get("/.auth/login");
        assert_eq!(reply.status, 502, "{}", reply.text());
    }
    let p = for_alice();
    p.idp.state().userinfo = Some(json!({"sub": "u-alice", "x": "y".repeat(2 << 20)}));
    assert_eq!(p.sign_in(&Client::public(&p.app)).status, 502);
}

#[test]
fn without_openid_userinfo_alone_decides() {
    let p = provided(|s| {
        s.oidc_scopes = strings(&["profile", "email"]);
        s.oidc_allowed_users = strings(&["alice@example.com"]);
    });
    p.idp.state().forge = Some(Box::new(|_, _| "not looked at".into()));
    p.idp.state().discovery = json!({"jwks_uri": null});
    assert_eq!(p.sign_in(&Client::public(&p.app)).status, 303);
    p.idp.state().userinfo = Some(json!({"sub": "u-alice", "email": "bob@example.com"}));
    assert_eq!(p.sign_in(&Client::public(&p.app)).status, 403);
}

#[test]
fn who_leaves_a_group_is_out_with_the_next_refresh() {
    let p = provided(|s| s.oidc_allowed_groups = strings(&["engineering"]));
    p.idp.state().refreshes = true;
    let client = Client::public(&p.app);
    let first = p.tokens(&client);
    p.clock.advance(HOUR - 60);
    let second = tokens(&client.refresh(&first.refresh));
    assert_eq!(call(&p.app, &second.access).status, 200);
    p.idp.state().claims["groups"] = json!(["alumni"]);
    // At once many refresh: the provider's own refresh token is used once.
    p.clock.advance(HOUR - 60);
    assert_eq!(client.refresh(&second.refresh).error(), "invalid_grant");
    // All of it has ended, the access token that was still good too.
    assert_eq!(call(&p.app, &second.access).status, 401);
    assert_eq!(p.sign_in(&client).status, 403);
    p.idp.state().claims["groups"] = json!(["engineering"]);
    p.tokens(&client);
}

#[test]
fn refreshes_at_once_ask_the_provider_once() {
    let p = provided(|s| s.oidc_allowed_groups = strings(&["engineering"]));
    p.idp.state().refreshes = true;
    let client = Client::public(&p.app);
    let first = p.tokens(&client);
    p.clock.advance(HOUR);
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|_| scope.spawn(|| client.refresh(&first.refresh).status)).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(answers, [200; 4]);
    assert_eq!(p.token_requests(), 2, "one code and one refresh");
}

#[test]
fn a_provider_that_is_down_is_believed_for_a_while() {
    let p = provided(|s| {
        s.oidc_allowed_groups = strings(&["engineering"]);
        s.oidc_scopes = strings(&["openid", "email", "offline_access"]);
        s.identity_lifetime = std::time::Duration::from_secs(DAY);
    });
    p.idp.state().refreshes = true;
    let client = Client::public(&p.app);
    let mut current = p.tokens(&client);
    p.idp.state().failure = Some(("500 Internal Server Error", "{}".into()));
    for _ in 0..23 {
        p.clock.advance(HOUR);
        current = tokens(&client.refresh(&current.refresh));
    }
    p.clock.advance(HOUR);
    // It is no verdict: the client keeps its token and tries again.
    let put_off = client.refresh(&current.refresh);
    assert_eq!((put_off.status, put_off.error().as_str()), (503, "temporarily_unavailable"));
    p.idp.state().failure = None;
    p.clock.advance(60);
    current = tokens(&client.refresh(&current.refresh));
    // That the proxy's own secret is wrong says nothing of the person; that the person's token is, does.
    p.idp.state().refused = Some("invalid_client");
    p.clock.advance(HOUR);
    current = tokens(&client.refresh(&current.refresh));
    p.idp.state().refused = Some("invalid_grant");
    p.clock.advance(HOUR);
    assert_eq!(client.refresh(&current.refresh).error(), "invalid_grant");
}

#[test]
fn what_a_provider_without_refresh_tokens_said_is_believed_for_a_while() {
    let p = provided(|s| {
        s.oidc_allowed_users = strings(&["alice@example.com"]);
        s.identity_lifetime = std::time::Duration::from_secs(DAY);
    });
    let client = Client::public(&p.app);
    let mut current = p.tokens(&client);
    let other = p.tokens(&client);
    for _ in 0..23 {
        p.clock.advance(HOUR);
        current = tokens(&client.refresh(&current.refresh));
    }
    p.clock.advance(2 * HOUR);
    // There is nothing to ask with: signing in again is what helps, and the client is told so.
    assert_eq!(client.refresh(&current.refresh).error(), "invalid_grant");
    p.tokens(&client);
    tokens(&client.refresh(&other.refresh));
}

#[test]
fn a_session_that_is_over_at_the_provider_is_no_verdict_but_its_word_ages() {
    let p = provided(|s| s.oidc_allowed_users = strings(&["alice@example.com"]));
    p.idp.state().refreshes = true;
    let client = Client::public(&p.app);
    let mut current = p.tokens(&client);
    p.idp.state().refused = Some("invalid_grant");
    for _ in 0..23 {
        p.clock.advance(HOUR);
        current = tokens(&client.refresh(&current.refresh));
    }
    assert_eq!(p.token_requests(), 2, "what is good for nothing is not tried again");
    p.clock.advance(2 * HOUR);
    assert_eq!(client.refresh(&current.refresh).error(), "invalid_grant");
}

fn lasting(groups: &[&str]) -> Provided {
    let p = provided(|s| {
        s.oidc_allowed_groups = strings(groups);
        s.oidc_scopes = strings(&["openid", "email", "offline_access"]);
    });
    p.idp.state().refreshes = true;
    p
}

#[test]
fn who_is_out_is_out_in_every_browser_and_client() {
    let p = lasting(&["engineering"]);
    let client = Client::public(&p.app);
    let browser = Browser::new(&p.app);
    let page = browser.get(&client.authorize(&[]));
    let url = choose(&browser, &page, "oidc");
    let back = come_back(&browser, "oidc", &p.idp.authorize(&url));
    let first = tokens(&client.redeem(&query(back.header("location").unwrap())["code"]));
    let mut second = p.tokens(&client);
    // A session lets in anew without the provider, for as long as an access token lasts.
    let again = |browser: &Browser<'_, Local>| browser.get(&client.authorize(&[])).text().contains("Signed in as");
    assert!(again(&browser));
    p.clock.advance(HOUR);
    assert!(again(&browser), "it was asked, and said yes");
    assert_eq!(p.token_requests(), 3);
    p.clock.advance(HOUR / 2);
    second = tokens(&client.refresh(&second.refresh));
    p.idp.state().claims["groups"] = json!(["alumni"]);
    p.clock.advance(HOUR - 1);
    assert!(again(&browser));
    assert_eq!(call(&p.app, &second.access).status, 200);
    assert_eq!(client.refresh(&first.refresh).error(), "invalid_grant");
    assert!(!again(&browser), "the session is good for nothing");
    assert_eq!(call(&p.app, &second.access).status, 401, "of another client, good until now");
    // Let in again, the person begins anew: who holds the old session or tokens does not come back with them.
    p.idp.state().claims["groups"] = json!(["engineering"]);
    p.clock.advance(60);
    p.tokens(&client);
    assert!(!again(&browser));
    assert_eq!(client.refresh(&first.refresh).error(), "invalid_grant");
    assert_eq!(client.refresh(&second.refresh).error(), "invalid_grant");
    // Likewise when the provider says no at a refresh.
    let p = lasting(&["engineering"]);
    let client = Client::public(&p.app);
    let browser = Browser::new(&p.app);
    let page = browser.get(&client.authorize(&[]));
    let url = choose(&browser, &page, "oidc");
    let back = come_back(&browser, "oidc", &p.idp.authorize(&url));
    let held = tokens(&client.redeem(&query(back.header("location").unwrap())["code"]));
    p.clock.advance(HOUR / 2);
    p.idp.state().refused = Some("invalid_grant");
    assert_eq!(client.refresh(&held.refresh).error(), "invalid_grant");
    assert!(browser.get(&client.authorize(&[])).text().contains("Sign in with Example ID"));
}

#[test]
fn a_glitch_at_the_provider_ends_nothing() {
    type Glitch = fn(&mut OidcState);
    let glitches: &[Glitch] = &[
        |s| s.failure = Some(("200 OK", "<h1>maintenance</h1>".into())),
        |s| s.failure = Some(("400 Bad Request", r#"{"error":"invalid_request"}"#.into())),
        |s| {
            s.forge = Some(Box::new(|s, mut claims| {
                claims["iat"] = json!(claims["iat"].as_u64().unwrap() + HOUR);
                s.sign(s.header(), &claims)
            }))
        },
        |s| {
            s.forge = Some(Box::new(|s, claims| {
                let mut header = s.header();
                header["kid"] = json!("next");
                s.sign(header, &claims)
            }))
        },
    ];
    for glitch in glitches {
        let p = lasting(&["engineering"]);
        let client = Client::public(&p.app);
        let mut current = p.tokens(&client);
        p.clock.advance(HOUR);
        glitch(&mut p.idp.state());
        current = tokens(&client.refresh(&current.refresh));
        p.idp.state().failure = None;
        p.idp.state().forge = None;
        p.clock.advance(HOUR);
        current = tokens(&client.refresh(&current.refresh));
        p.idp.state().claims["groups"] = json!([]);
        p.clock.advance(HOUR);
        assert_eq!(client.refresh(&current.refresh).error(), "invalid_grant");
    }
}

#[test]
fn a_client_that_goes_away_loses_no_refresh_token_of_the_provider() {
    let p = lasting(&["engineering"]);
    let client = Client::public(&p.app);
    let held = p.tokens(&client);
    p.clock.advance(HOUR);
    p.idp.state().forge = Some(Box::new(|s, claims| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        s.sign(s.header(), &claims)
    }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let served = Arc::new(listener.accept().unwrap().0);
    drop(socket);
    interrupt::on_behalf_of(served, Drain::new().unwrap(), || client.refresh(&held.refresh));
    assert!(!p.app.context().providers.all()[0].is_down());
    p.clock.advance(HOUR);
    tokens(&client.refresh(&held.refresh));
}

#[test]
fn a_provider_that_hangs_is_not_asked_for_each_of_many() {
    let p = lasting(&["engineering"]);
    let client = Client::public(&p.app);
    let held = p.tokens(&client);
    p.idp.state().failure = Some(("500 Internal Server Error", "{}".into()));
    p.clock.advance(HOUR);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| assert_eq!(client.refresh(&held.refresh).status, 200));
        }
    });
    assert_eq!(p.token_requests(), 2);
}

#[test]
fn a_provider_that_speaks_of_somebody_else_is_not_believed() {
    let p = provided(|s| s.allow_any_user = true);
    p.idp.state().refreshes = true;
    let client = Client::public(&p.app);
    let first = p.tokens(&client);
    p.idp.state().claims["sub"] = json!("u-other");
    p.clock.advance(HOUR);
    assert_eq!(client.refresh(&first.refresh).error(), "invalid_grant");
}

#[test]
fn a_provider_that_is_no_more_ends_what_it_began() {
    let p = for_alice();
    let client = Client::public(&p.app);
    let held = p.tokens(&client);
    let token = |access: &str, settings: Settings| {
        // The same secret would be needed to accept it; here another provider is configured under it.
        let keys = &p.app.context().keys;
        let verified = AccessToken::verify(access, keys, p.clock.now()).unwrap();
        let store = Box::new(EmbeddedStore::in_memory().unwrap());
        let other = Local::with_settings(settings, store, &Secret::generate(), p.clock.clone()).unwrap();
        other.context().is_current(&verified.credential)
    };
    assert!(token(&held.access, p.settings.clone()));
    assert!(!token(&held.access, Settings { oidc_client_id: Some("other".into()), ..p.settings.clone() }));
    assert!(!token(&held.access, Settings { password: Some("p".into()), ..Settings::default() }));
}

#[test]
fn the_password_stays_beside_providers() {
    let p = provided(|s| {
        s.oidc_allowed_users = strings(&["alice@example.com"]);
        s.password = Some(PASSWORD.into());
    });
    let client = Client::public(&p.app);
    let held = client.tokens();
    assert_eq!(call(&p.app, &held.access).text().trim(), "password");
    tokens(&client.refresh(&held.refresh));
    // With something to choose, the page is shown.
    let page = Browser::new(&p.app).get("/.auth/login");
    assert!(page.text().contains("type=\"password\"") && page.text().contains("Sign in with Example ID"));
}

#[test]
fn a_sole_provider_is_gone_to_at_once_unless_told_otherwise() {
    let p = for_alice();
    let browser = Browser::new(&p.app);
    let hop = browser.get("/.auth/login");
    let url = hop.header("refresh").unwrap().strip_prefix("0;url=").unwrap().to_string();
    let reply = come_back(&browser, "oidc", &p.idp.authorize(&url));
    assert_eq!((reply.status, reply.header("location")), (303, Some("/.auth/login")));
    assert!(browser.get("/.auth/login").text().contains("alice@example.com"));
    let p = provided(|s| {
        s.oidc_allowed_users = strings(&["alice@example.com"]);
        s.no_provider_auto_select = true;
    });
    let page = Browser::new(&p.app).get("/.auth/login");
    assert!(page.header("refresh").is_none() && page.text().contains("Sign in with Example ID"));
}

// GitHub

fn with_github(change: impl FnOnce(&mut Settings)) -> (Local, FakeGitHub, Arc<Clock>) {
    let github = FakeGitHub::start();
    let clock = Arc::new(Clock::manual(NOW));
    let mut settings = Settings {
        github_client_id: Some(CLIENT_ID.into()),
        github_client_secret: Some(CLIENT_SECRET.into()),
        github_url: github.url(),
        ..Settings::default()
    };
    change(&mut settings);
    let store = Box::new(EmbeddedStore::in_memory().unwrap());
    let app = Local::with_settings(settings, store, &Secret::generate(), clock.clone()).unwrap();
    (app, github, clock)
}

fn github_sign_in(app: &Local, github: &FakeGitHub, client: &Client<'_, Local>) -> Reply {
    let browser = Browser::new(app);
    let page = browser.get(&client.authorize(&[]));
    let url = choose(&browser, &page, "github");
    come_back(&browser, "github", &github.authorize(&url))
}

fn github_tokens(app: &Local, github: &FakeGitHub, client: &Client<'_, Local>) -> Tokens {
    let reply = github_sign_in(app, github, client);
    assert_eq!(reply.status, 303, "{}", reply.text());
    tokens(&client.redeem(&query(reply.header("location").unwrap())["code"]))
}

#[test]
fn github_users_get_in_by_login_organisation_or_team() {
    type Case = (fn(&mut Settings), &'static [(&'static str, &'static str)], u16);
    let cases: &[Case] = &[
        (|s| s.github_allowed_users = strings(&["alice"]), &[], 303),
        (|s| s.github_allowed_users = strings(&["bob"]), &[], 403),
        (|s| s.github_allowed_orgs = strings(&["Acme"]), &[("acme", "active")], 303),
        (|s| s.github_allowed_orgs = strings(&["Acme"]), &[("acme", "pending")], 403),
        (|s| s.github_allowed_orgs = strings(&["Acme"]), &[("other", "active")], 403),
        (|s| s.github_allowed_orgs = strings(&["Acme:core"]), &[("acme/core", "active")], 303),
        (|s| s.github_allowed_orgs = strings(&["Acme:core"]), &[("acme", "active")], 403),
        (|s| s.github_allowed_orgs = strings(&["Acme:core", "x"]), &[("acme/core", "pending"), ("x", "active")], 303),
    ];
    for (change, memberships, status) in cases {
        let (app, github, _) = with_github(*change);
        github.state().memberships = memberships.iter().map(|(n, s)| (n.to_string(), *s)).collect();
        let client = Client::public(&app);
        assert_eq!(github_sign_in(&app, &github, &client).status, *status, "{memberships:?}");
    }
    // On another host than github.com, people are others.
    let (app, github, _) = with_github(|s| s.github_allowed_users = strings(&["alice"]));
    let client = Client::public(&app);
    let held = github_tokens(&app, &github, &client);
    assert_eq!(call(&app, &held.access).text().trim(), "github:127.0.0.1:1001");
}

#[test]
fn a_github_address_counts_when_it_is_verified_wherever_it_is_listed() {
    let unverified = json!([{"email": "alice@example.com", "primary": true, "verified": false}]);
    let other = json!([{"email": "a@old.example", "primary": false, "verified": true}]);
    let primary = json!([{"email": "alice@example.com", "primary": true, "verified": true}]);
    for (pages, email) in [
        (vec![primary.clone()], Some("alice@example.com")),
        (vec![other.clone(), other.clone(), primary], Some("alice@example.com")),
        (vec![unverified], None),
        (vec![other], None),
    ] {
        let (app, github, clock) = with_github(|s| s.github_allowed_users = strings(&["alice"]));
        github.state().emails = pages;
        let client = Client::public(&app);
        let held = github_tokens(&app, &github, &client);
        let keys = &app.context().keys;
        let token = AccessToken::verify(&held.access, keys, clock.now()).unwrap();
        assert_eq!(token.email.as_deref(), email);
    }
    // An App that may not read addresses.
    let (app, github, _) = with_github(|s| s.github_allowed_users = strings(&["alice"]));
    github.state().failures.insert("/user/emails?per_page=100".into(), "404 Not Found");
    github_tokens(&app, &github, &Client::public(&app));
}

#[test]
fn who_leaves_an_organisation_at_github_is_out_with_the_next_refresh() {
    for expires in [false, true] {
        let (app, github, clock) = with_github(|s| s.github_allowed_orgs = strings(&["acme"]));
        github.state().expires = expires;
        github.state().memberships.insert("acme".into(), "active");
        let client = Client::public(&app);
        let mut current = github_tokens(&app, &github, &client);
        for _ in 0..3 {
            clock.advance(HOUR);
            current = tokens(&client.refresh(&current.refresh));
        }
        // A limit on requests says nothing of the person.
        let path = "/user/memberships/orgs/acme".to_string();
        github.state().failures.insert(path.clone(), "403 Forbidden");
        clock.advance(HOUR);
        current = tokens(&client.refresh(&current.refresh));
        github.state().failures.remove(&path);
        github.state().memberships.clear();
        clock.advance(HOUR);
        assert_eq!(client.refresh(&current.refresh).error(), "invalid_grant", "expires: {expires}");
        assert_eq!(github_sign_in(&app, &github, &client).status, 403);
        // Who takes the authorization back at GitHub is out as well.
        github.state().memberships.insert("acme".into(), "active");
        let current = github_tokens(&app, &github, &client);
        github.state().is_revoked = true;
        clock.advance(HOUR);
        assert_eq!(client.refresh(&current.refresh).error(), "invalid_grant");
    }
}

#[test]
fn rules_that_need_to_know_more_ask_for_it_first() {
    let (app, github, clock) = with_github(|s| s.github_allowed_orgs = strings(&["acme"]));
    github.state().memberships.insert("acme".into(), "active");
    github.state().memberships.insert("acme/core".into(), "active");
    let client = Client::public(&app);
    let held = github_tokens(&app, &github, &client);
    let ctx = app.context();
    let (_stream, socket) = open_stream(ctx, &held.access);
    let settings = Settings {
        github_client_id: Some(CLIENT_ID.into()),
        github_client_secret: Some(CLIENT_SECRET.into()),
        github_url: github.url(),
        github_allowed_orgs: strings(&["acme:core"]),
        ..Settings::default()
    };
    // As long as GitHub can't be asked, nobody enters and nothing ends.
    github.state().failures.insert("/user".into(), "502 Bad Gateway");
    clock.advance(60);
    ctx.providers.replace_rules(&configure_anew(&settings).unwrap());
    assert_eq!(client.refresh(&held.refresh).status, 503);
    github.state().failures.clear();
    clock.advance(60);
    recheck::look_after_streams(ctx);
    assert!(!is_cut(&socket));
    let held = tokens(&client.refresh(&held.refresh));
    assert_eq!(call(&app, &held.access).status, 200);
}

#[test]
fn a_limit_that_github_tells_in_words_is_no_verdict() {
    let (app, github, clock) = with_github(|s| s.github_allowed_orgs = strings(&["acme"]));
    github.state().memberships.insert("acme".into(), "active");
    let client = Client::public(&app);
    let held = github_tokens(&app, &github, &client);
    github.state().words = Some("You have exceeded a secondary rate limit".into());
    clock.advance(HOUR);
    tokens(&client.refresh(&held.refresh));
}

#[test]
fn github_says_no_with_status_200() {
    for (error, status) in [("bad_verification_code", 400), ("incorrect_client_credentials", 502)] {
        let (app, github, _) = with_github(|s| s.github_allowed_users = strings(&["alice"]));
        github.state().token_error = Some(error);
        let reply = github_sign_in(&app, &github, &Client::public(&app));
        assert_eq!(reply.status, status);
        assert!(!reply.text().contains("<i>") && !reply.text().contains(error));
    }
    // Another server's answer.
    let (app, github, _) = with_github(|s| s.github_allowed_users = strings(&["alice"]));
    let browser = Browser::new(&app);
    let page = browser.get(&Client::public(&app).authorize(&[]));
    let mut answer = github.authorize(&choose(&browser, &page, "github"));
    answer.retain(|(n, _)| n != "iss");
    answer.push(("iss".into(), "https://github.com/login/oauth".into()));
    assert_eq!(come_back(&browser, "github", &answer).status, 400);
}

// Google

#[test]
fn a_google_workspace_is_what_the_token_says() {
    let start = |change: fn(&mut Settings)| {
        let clock = Arc::new(Clock::manual(NOW));
        let of_idp = clock.clone();
        let idp = FakeOidc::start(move || of_idp.now());
        let mut settings = Settings {
            google_client_id: Some(CLIENT_ID.into()),
            google_client_secret: Some(CLIENT_SECRET.into()),
            google_configuration_url: idp.configuration_url(),
            ..Settings::default()
        };
        change(&mut settings);
        let store = Box::new(EmbeddedStore::in_memory().unwrap());
        (Local::with_settings(settings, store, &Secret::generate(), clock).unwrap(), idp)
    };
    type Case = (fn(&mut Settings), Value, u16);
    let cases: &[Case] = &[
        (|s| s.google_allowed_workspaces = strings(&["Example.com"]), json!({"hd": "example.com"}), 303),
        (|s| s.google_allowed_workspaces = strings(&["example.com"]), json!({}), 403),
        (|s| s.google_allowed_workspaces = strings(&["example.com"]), json!({"hd": "evil.example"}), 403),
        (|s| s.google_allowed_users = strings(&["alice@example.com"]), json!({}), 303),
        (|s| s.google_allowed_users = strings(&["alice@example.com"]), json!({"email_verified": false}), 403),
        (|s| s.google_allowed_users = strings(&["alice@example.com"]), json!({"email_verified": null}), 403),
        (|s| s.allow_any_user = true, json!({}), 303),
    ];
    for (change, claims, status) in cases {
        let (app, idp) = start(*change);
        let mut state = idp.state();
        state.claims.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        state.claims.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        drop(state);
        let client = Client::public(&app);
        let browser = Browser::new(&app);
        let page = browser.get(&client.authorize(&[]));
        let url = choose(&browser, &page, "google");
        assert_eq!(query(&url)["access_type"], "offline");
        let mut back = come_back(&browser, "google", &idp.authorize(&url));
        if *status == 303 {
            // Google gives a refresh token at the first consent only: without one it is asked for again, once.
            let again = back.header("refresh").unwrap().strip_prefix("0;url=").unwrap().to_string();
            assert_eq!((query(&again)["prompt"].as_str(), query(&url).get("prompt")), ("consent", None));
            back = come_back(&browser, "google", &idp.authorize(&again));
        }
        assert_eq!(back.status, *status, "{claims}");
    }
    // Who has given it before is not bothered.
    let (app, idp) = start(|s| s.google_allowed_users = strings(&["alice@example.com"]));
    idp.state().refreshes = true;
    for refreshes in [true, false] {
        idp.state().refreshes = refreshes;
        let browser = Browser::new(&app);
        let page = browser.get(&Client::public(&app).authorize(&[]));
        let url = choose(&browser, &page, "google");
        assert_eq!(come_back(&browser, "google", &idp.authorize(&url)).status, 303);
    }
}

// The real binary

/// A proxy before `upstream` with `idp` as the one way to sign in.
fn proxy_with(idp: &FakeOidc, data: Arc<Scratch>, port: u16, upstream: u16, env: &[(&str, &str)]) -> Proxy {
    let mut command = command();
    command.envs(env.iter().copied()).env("OIDC_CLIENT_SECRET", CLIENT_SECRET);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--external-url", &format!("http://localhost:{port}")]);
    command.args(["--data-path", &data.path("data"), "--oidc-client-id", CLIENT_ID]);
    command.args(["--oidc-configuration-url", &idp.configuration_url(), &format!("http://127.0.0.1:{upstream}")]);
    Proxy::spawn(command, port, data)
}

fn system_time() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn sign_in(proxy: &Proxy, idp: &FakeOidc, client: &Client<'_, Proxy>) -> Reply {
    let browser = Browser::new(proxy);
    let page = browser.get(&client.authorize(&[]));
    come_back(&browser, "oidc", &idp.authorize(&choose(&browser, &page, "oidc")))
}

fn tokens_of(proxy: &Proxy, idp: &FakeOidc, client: &Client<'_, Proxy>) -> Tokens {
    let reply = sign_in(proxy, idp, client);
    assert_eq!(reply.status, 303, "{}; log:\n{}", reply.text(), proxy.log());
    tokens(&client.redeem(&query(reply.header("location").unwrap())["code"]))
}

#[test]
fn the_upstream_server_sees_what_the_provider_says() {
    let idp = FakeOidc::start(system_time);
    idp.state().claims["groups"] = json!(["a,b", "größe"]);
    let upstream = FakeUpstream::ok();
    let proxy = proxy_with(&idp, Arc::new(Scratch::new()), free_port(), upstream.port, &[("ALLOW_ANY_USER", "1")]);
    let held = tokens_of(&proxy, &idp, &Client::public(&proxy));
    let forged = [("X-Forwarded-Groups", "admins"), ("X_Forwarded_Name", "root"), ("X-Forwarded-Provider", "x")];
    let bearer = format!("Bearer {}", held.access);
    let mut fields = vec![("Authorization", bearer.as_str())];
    fields.extend(forged);
    assert_eq!(proxy.send("POST", "/mcp", &fields, b"{}").status, 200);
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some(format!("oidc:{}:u-alice", idp.issuer()).as_str()));
    assert_eq!(seen.header("x-forwarded-email"), Some("alice@example.com"));
    assert_eq!((seen.header("x-forwarded-name"), seen.header("x-forwarded-provider")), (Some("Alice"), Some("oidc")));
    assert_eq!(seen.header("x-forwarded-groups"), Some("a%2Cb,gr%C3%B6%C3%9Fe"));
    assert_eq!(seen.header("x_forwarded_name"), None);
    // No secret of the provider's in the log.
    for secret in [CLIENT_SECRET, "code-1", "rt-", held.access.as_str()] {
        assert!(!proxy.log().contains(secret), "{secret}");
    }
}

#[test]
fn a_stdio_server_is_told_who_asks() {
    let idp = FakeOidc::start(system_time);
    idp.state().claims = json!({
        "sub": "u-alice", "email": "alice@example.com", "email_verified": true, "name": "Alice Ä.",
        "groups": ["a,b 100%", "engineering"],
    });
    let url = idp.configuration_url();
    let args =
        ["--oidc-configuration-url", &url, "--oidc-client-id", CLIENT_ID, "--oidc-allowed-groups", "engineering"];
    let published = Published::start(&args, &[("OIDC_CLIENT_SECRET", CLIENT_SECRET)]);
    let mut client = published.client();
    client.token = tokens_of(&published.proxy, &idp, &Client::public(&published.proxy)).access;
    client.initialize();
    let env = client.result("environment", json!({}));
    for (name, value) in [
        ("MCP_AUTH_USER", format!("oidc:{}:u-alice", idp.issuer()).as_str()),
        ("MCP_AUTH_EMAIL", "alice@example.com"),
        ("MCP_AUTH_NAME", "Alice Ä."),
        ("MCP_AUTH_GROUPS", "engineering,a%2Cb 100%25"),
        ("MCP_AUTH_PROVIDER", "oidc"),
    ] {
        assert_eq!(env[name], value);
    }
    assert!(!env.to_string().contains(CLIENT_SECRET));
}

#[test]
fn who_is_taken_off_the_list_loses_everything_with_sighup_and_others_nothing() {
    let idp = FakeOidc::start(system_time);
    let data = Arc::new(Scratch::new());
    let list = data.path("users");
    std::fs::write(&list, "# who may\nalice@example.com\n bob@example.com \n").unwrap();
    let upstream = FakeUpstream::start(|request, out| {
        use std::io::Write;
        match request.method.as_str() {
            "GET" => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n";
                out.write_all(head.as_bytes()).unwrap();
                // Open until the other side goes away.
                let _ = out.read(&mut [0]);
            }
            _ => super::support::upstream::text(out, "200 OK", "", "ok"),
        }
    });
    let env = [("OIDC_ALLOWED_USERS_FILE", list.as_str())];
    let proxy = proxy_with(&idp, data.clone(), free_port(), upstream.port, &env);
    let client = Client::public(&proxy);
    let alice = tokens_of(&proxy, &idp, &client);
    idp.state().claims = json!({"sub": "u-bob", "email": "bob@example.com", "email_verified": true});
    let bob = tokens_of(&proxy, &idp, &client);
    let listen = |tokens: &Tokens| {
        let mut connection = proxy.connect();
        let bearer = format!("Bearer {}", tokens.access);
        let fields = [("Authorization", bearer.as_str())];
        connection.write(super::support::wire::request("GET", "/mcp", &proxy.host(), &fields, b""));
        assert_eq!(connection.head().unwrap().status, 200);
        assert!(connection.chunk().is_some());
        connection
    };
    let (mut of_alice, of_bob) = (listen(&alice), listen(&bob));
    // A list that can't be read changes nothing.
    std::fs::rename(&list, data.path("aside")).unwrap();
    proxy.signal("HUP");
    proxy.has_logged("nothing has changed");
    assert_eq!(call(&proxy, &alice.access).status, 200);
    std::fs::write(&list, "bob@example.com\n").unwrap();
    proxy.signal("HUP");
    proxy.has_logged("have been read again");
    // Alice's stream is cut, her tokens are good for nothing, and so is signing in.
    assert!(of_alice.chunk().is_none_or(|c| c.is_empty()));
    assert_eq!(call(&proxy, &alice.access).status, 401);
    assert_eq!(client.refresh(&alice.refresh).error(), "invalid_grant");
    idp.state().claims = json!({"sub": "u-alice", "email": "alice@example.com", "email_verified": true});
    assert_eq!(sign_in(&proxy, &idp, &client).status, 403);
    // Bob refreshes, which his client does by itself, and goes on; his stream never ended.
    assert_eq!(call(&proxy, &bob.access).status, 401);
    let bob = tokens(&client.refresh(&bob.refresh));
    assert_eq!(call(&proxy, &bob.access).status, 200);
    of_bob.socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut byte = [0];
    let error = (&of_bob.socket).read(&mut byte).unwrap_err();
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
    // A list that has become empty lets nobody in.
    std::fs::write(&list, "").unwrap();
    proxy.signal("HUP");
    eventually("nobody may enter", || call(&proxy, &bob.access).status == 401);
    assert_eq!(client.refresh(&bob.refresh).error(), "invalid_grant");
}

/// A client that was registered before.
fn client_of<'p>(proxy: &'p Proxy, id: &str) -> Client<'p, Proxy> {
    Client { transport: proxy, id: id.into(), secret: None, redirect: super::support::flow::REDIRECT.into() }
}

#[test]
fn a_restart_with_other_rules_is_as_good() {
    let idp = FakeOidc::start(system_time);
    let (data, port, upstream) = (Arc::new(Scratch::new()), free_port(), FakeUpstream::ok());
    let start = |users: &str| proxy_with(&idp, data.clone(), port, upstream.port, &[("OIDC_ALLOWED_USERS", users)]);
    let mut proxy = start("alice@example.com");
    let id = Client::public(&proxy).id;
    let held = tokens_of(&proxy, &idp, &client_of(&proxy, &id));
    for (users, status, refresh) in [
        ("alice@example.com", 200, 200),
        ("alice@example.com,bob@example.com", 401, 200),
        ("bob@example.com", 401, 400),
    ] {
        proxy.signal("KILL");
        proxy.wait();
        proxy = start(users);
        assert_eq!(call(&proxy, &held.access).status, status, "{users}");
        assert_eq!(client_of(&proxy, &id).refresh(&held.refresh).status, refresh, "{users}");
    }
}

#[test]
fn the_way_to_a_provider_leads_through_a_proxy_and_trusts_another_authority() {
    use std::io::Write;
    let document = json!({
        "issuer": "https://idp.test", "authorization_endpoint": "https://idp.test/authorize",
        "token_endpoint": "https://idp.test/token", "jwks_uri": "https://idp.test/keys",
    });
    let document = document.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{document}", document.len());
    let (port, authority) = super::support::tls::server("idp.test", answer.into_bytes());
    let scratch = Scratch::new();
    let ca = scratch.path("ca.pem");
    std::fs::write(&ca, authority).unwrap();
    // An HTTP proxy that knows where the provider is.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let through = format!("http://user:p%40ss@127.0.0.1:{}", listener.local_addr().unwrap().port());
    let (sender, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let Some(head) = super::support::tls::head(&mut client) else { continue };
            sender.send(head).unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let ends = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (mut from, mut to) in ends {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    let upstream = FakeUpstream::ok();
    let start = |env: &[(&str, &str)]| {
        let (data, port) = (Arc::new(Scratch::new()), free_port());
        let mut command = command();
        command.env("OIDC_CLIENT_SECRET", CLIENT_SECRET).env("HTTPS_PROXY", &through).envs(env.iter().copied());
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--external-url", &format!("http://localhost:{port}")]);
        command.args(["--data-path", &data.path("data"), "--oidc-client-id", CLIENT_ID, "--allow-any-user"]);
        command.args(["--oidc-configuration-url", "https://idp.test/.well-known/openid-configuration"]);
        command.arg(format!("http://127.0.0.1:{}", upstream.port));
        Proxy::spawn(command, port, data)
    };
    let proxy = start(&[("CA_FILE", &ca)]);
    let browser = Browser::new(&proxy);
    let page = browser.get(&Client::public(&proxy).authorize(&[]));
    assert!(choose(&browser, &page, "oidc").starts_with("https://idp.test/authorize?"));
    let head = heads.recv().unwrap();
    assert!(head.starts_with("CONNECT idp.test:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"), "{head}");
    assert!(!proxy.log().contains("p%40ss"));
    // Without its authority the provider is nobody; and what NO_PROXY names is not asked by way of the proxy.
    let proxy = start(&[]);
    proxy.has_logged("the provider can't be used");
    heads.recv().unwrap();
    let proxy = start(&[("CA_FILE", &ca), ("NO_PROXY", ".test")]);
    proxy.has_logged("its name is not known");
}

#[test]
fn a_provider_that_is_down_keeps_nobody_from_starting() {
    let idp = FakeOidc::start(system_time);
    idp.state().failure = Some(("503 Service Unavailable", "<h1>down</h1>".into()));
    let upstream = FakeUpstream::ok();
    let proxy = proxy_with(&idp, Arc::new(Scratch::new()), free_port(), upstream.port, &[("ALLOW_ANY_USER", "1")]);
    proxy.has_logged("the provider can't be used");
    let client = Client::public(&proxy);
    let browser = Browser::new(&proxy);
    let page = browser.get(&client.authorize(&[]));
    assert!(page.text().contains("OIDC can't be reached at the moment"), "{}", page.text());
    let request = hidden(&page, "request");
    let reply = browser.post("/.auth/login", &[("request", &request), ("provider", "oidc")]);
    assert_eq!(reply.status, 502);
    assert!(reply.text().contains("can't be reached") && !reply.text().contains("<h1>down"));
    idp.state().failure = None;
    eventually("the provider is looked at again", || {
        browser.post("/.auth/login", &[("request", &request), ("provider", "oidc")]).status == 200
    });
    assert_eq!(sign_in(&proxy, &idp, &client).status, 303);
    proxy.has_logged("the provider can be used again");
    assert!(!browser.get(&client.authorize(&[])).text().contains("can't be reached"));
}

/// What keeps a stream of the token's holder open, and the client's end of its connection.
fn open_stream(ctx: &Context, access: &str) -> ((Response, Arc<TcpStream>), TcpStream) {
    let token = AccessToken::verify(access, &ctx.keys, ctx.now()).unwrap();
    let principal = Principal {
        user: token.sub,
        email: None,
        client: token.client_id,
        grant: token.grant,
        expires_at: token.exp,
        person: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let served = Arc::new(listener.accept().unwrap().0);
    let stream = Response {
        body: Payload::Stream { reader: Box::new(std::io::empty()), length: None },
        ..Response::new(http::StatusCode::OK)
    };
    let open =
        interrupt::on_behalf_of(served.clone(), Drain::new().unwrap(), || ctx.streams.attach(stream, &principal));
    ((open, served), client)
}

fn is_cut(mut socket: &TcpStream) -> bool {
    matches!(socket.read(&mut [0]), Ok(0))
}

#[test]
fn a_stream_ends_when_nobody_vouches_for_its_user_any_more() {
    let p = lasting(&["engineering"]);
    let client = Client::public(&p.app);
    let held = p.tokens(&client);
    let ctx = p.app.context();
    let (_open, socket) = open_stream(ctx, &held.access);
    p.idp.state().failure = Some(("500 Internal Server Error", "{}".into()));
    for _ in 0..23 {
        p.clock.advance(HOUR);
        recheck::look_after_streams(ctx);
    }
    assert!(!is_cut(&socket));
    p.clock.advance(2 * HOUR);
    recheck::look_after_streams(ctx);
    eventually("the stream is cut", || is_cut(&socket));
    // Its grant goes on when the provider is back.
    p.idp.state().failure = None;
    p.clock.advance(HOUR);
    tokens(&client.refresh(&held.refresh));
}

#[test]
fn a_code_is_good_only_for_whom_the_rules_let_in_when_it_is_redeemed() {
    let p = for_alice();
    let client = Client::public(&p.app);
    let code = |reply: Reply| query(reply.header("location").unwrap()).remove("code").unwrap();
    let before = code(p.sign_in(&client));
    p.replace_rules(|s| s.oidc_allowed_users = strings(&["bob@example.com"]));
    assert_eq!(client.redeem(&before).error(), "invalid_grant");
    // A door that stood open is shut by a list.
    let p = provided(|s| s.allow_any_user = true);
    p.replace_rules(|s| s.oidc_allowed_users = strings(&["bob@example.com"]));
    assert_eq!(p.sign_in(&Client::public(&p.app)).status, 403);
}

#[test]
fn an_address_that_is_not_verified_lets_in_by_no_pointer() {
    for change in [
        (|s: &mut Settings| s.oidc_allowed_attributes = strings(&["/email=alice@example.com"])) as fn(&mut Settings),
        |s| {
            s.oidc_groups_field = "/email".into();
            s.oidc_allowed_groups = strings(&["alice@example.com"]);
        },
    ] {
        let p = provided(change);
        assert_eq!(p.sign_in(&Client::public(&p.app)).status, 303);
        p.idp.state().claims["email_verified"] = json!(false);
        assert_eq!(p.sign_in(&Client::public(&p.app)).status, 403);
    }
}

#[test]
fn a_sign_in_comes_back_once_and_strangers_ask_no_provider_at_will() {
    let p = for_alice();
    let client = Client::public(&p.app);
    let browser = Browser::new(&p.app);
    let page = browser.get(&client.authorize(&[]));
    let url = choose(&browser, &page, "oidc");
    assert!(!query(&url)["state"].contains('.'), "the client's own request can't be read in it");
    let mut answer = p.idp.authorize(&url);
    answer.iter_mut().filter(|(n, _)| n == "code").for_each(|(_, v)| *v = "guess".into());
    let mut statuses: Vec<u16> = (0..100).map(|_| come_back(&browser, "oidc", &answer).status).collect();
    assert_eq!(p.token_requests(), 1);
    statuses.sort();
    assert_eq!((statuses[0], statuses[99]), (400, 429));
    assert!(!p.app.context().providers.all()[0].is_down());
}

#[test]
fn a_look_at_a_provider_is_a_look() {
    let p = for_alice();
    let providers = &p.app.context().providers;
    providers.look();
    assert!(!providers.all()[0].is_down());
    p.idp.state().failure = Some(("503 Service Unavailable", String::new()));
    providers.look();
    assert!(providers.all()[0].is_down());
    p.idp.state().failure = None;
    providers.look();
    assert!(!providers.all()[0].is_down());
}

#[test]
fn a_stream_does_not_outlive_the_right_to_it() {
    let p = provided(|s| s.oidc_allowed_groups = strings(&["engineering"]));
    p.idp.state().refreshes = true;
    let held = p.tokens(&Client::public(&p.app));
    let ctx = p.app.context();
    let (open, socket) = open_stream(ctx, &held.access);
    let is_cut = || is_cut(&socket);
    // While the token is good, nobody is asked; when it has run out, the provider is.
    p.idp.state().claims["groups"] = json!(["engineering", "more"]);
    for _ in 0..3 {
        p.clock.advance(HOUR);
        recheck::look_after_streams(ctx);
        assert!(!is_cut());
    }
    assert_eq!(p.token_requests(), 4);
    p.idp.state().claims["groups"] = json!(["alumni"]);
    p.clock.advance(HOUR / 2);
    recheck::look_after_streams(ctx);
    assert!(!is_cut());
    p.clock.advance(HOUR / 2);
    recheck::look_after_streams(ctx);
    eventually("the stream is cut", is_cut);
    drop(open);
    assert!(ctx.streams.grants().is_empty());
}

#[test]
fn options_that_let_nobody_or_anybody_in_by_mistake_are_refused() {
    let refusal = |args: &[&str]| {
        let data = Scratch::new();
        let output =
            command().args(["--data-path", &data.path("data")]).args(args).arg("http://127.0.0.1:1").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("mcp-auth-proxy: ")).collect();
        assert_eq!(lines.len(), 1, "{text}");
        lines[0].to_string()
    };
    let google = ["--google-client-id", "a", "--google-client-secret", "b"];
    let github = ["--github-client-id", "a", "--github-client-secret", "b"];
    let oidc =
        ["--oidc-configuration-url", "https://idp.example.com/x", "--oidc-client-id", "a", "--oidc-client-secret", "b"];
    let with = |base: &[&'static str], more: &[&'static str]| [base, more].concat();
    for (args, names) in [
        (google.to_vec(), "--allow-any-user (ALLOW_ANY_USER)"),
        (github.to_vec(), "GITHUB_ALLOWED_ORGS"),
        (oidc.to_vec(), "OIDC_ALLOWED_USERS_GLOB"),
        (vec!["--google-client-id", "a"], "--google-client-secret (GOOGLE_CLIENT_SECRET) is not"),
        (vec!["--github-client-secret", "a"], "--github-client-id (GITHUB_CLIENT_ID) is not"),
        (vec!["--oidc-client-id", "a", "--oidc-client-secret", "b"], "OIDC_CONFIGURATION_URL"),
        (vec!["--oidc-configuration-url", "https://a/"], "all three"),
        (vec!["--password", "p", "--google-allowed-users", "a@b"], "--google-client-id (GOOGLE_CLIENT_ID) is not"),
        (vec!["--password", "p", "--oidc-allowed-groups", "a"], "OIDC_CONFIGURATION_URL"),
        (with(&github, &["--github-allowed-orgs", "a/b"]), "neither an organisation"),
        (with(&github, &["--github-allowed-orgs", "a:b:c"]), "neither an organisation"),
        (with(&github, &["--github-allowed-users", "a", "--github-url", "http://ghe.example.com"]), "is not https"),
        (with(&oidc, &["--oidc-allowed-users", "a", "--oidc-user-id-field", "email"]), "JSON pointer"),
        (with(&oidc, &["--oidc-allowed-users-glob", "[a"]), "not closed"),
        (with(&oidc, &["--oidc-allowed-attributes", "role=x"]), "OIDC_ALLOWED_ATTRIBUTES"),
        (
            vec![
                "--oidc-configuration-url",
                "https://login.example.com/common/v2.0/.well-known/openid-configuration",
                "--oidc-client-id",
                "a",
                "--oidc-client-secret",
                "b",
                "--oidc-allowed-groups",
                "g",
            ],
            "--oidc-allowed-tenants (OIDC_ALLOWED_TENANTS)",
        ),
        (vec![], "docs/providers.md"),
    ] {
        let text = refusal(&args);
        assert!(text.contains(names), "{args:?}: {text}");
    }
}
