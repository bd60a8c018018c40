//! Signing in: who gets in, and what attackers try.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::tokens::Secret;
use serde_json::{Value, json};

use super::*;
use crate::support::events::told;
use crate::support::eventually;
use crate::support::flow::{Browser, Client, call, hidden, query, tokens};
use crate::support::idp::{CLIENT_ID, CLIENT_SECRET, FakeOidc, Forge, OidcState};
use crate::support::local::Local;
use crate::support::proxy::PASSWORD;

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
        // Silence is a no, unless the operator knows better; a no stays one.
        (|s| s.oidc_allowed_users = strings(&["alice@example.com"]), json!({"email_verified": null}), false),
        (
            |s| {
                s.oidc_allowed_users = strings(&["alice@example.com"]);
                s.oidc_assume_email_verified = true;
            },
            json!({"email_verified": null}),
            true,
        ),
        (
            |s| {
                s.oidc_allowed_users = strings(&["alice@example.com"]);
                s.oidc_assume_email_verified = true;
            },
            json!({"email_verified": false}),
            false,
        ),
        // What looks like a letter of ASCII is another.
        (|s| s.oidc_allowed_users = strings(&["kate@example.com"]), json!({"email": "KATE@example.com"}), true),
        (|s| s.oidc_allowed_users = strings(&["kate@example.com"]), json!({"email": "\u{212a}ate@example.com"}), false),
        (
            |s| s.oidc_allowed_users_glob = strings(&["k*@example.com"]),
            json!({"email": "\u{212a}ate@example.com"}),
            false,
        ),
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
    let refused = told("sign_in_refused").unwrap();
    assert!(
        refused.contains(&"provider=oidc".into()) && refused.iter().any(|f| f.starts_with("user=oidc:")),
        "{refused:?}"
    );
}

#[test]
fn a_provider_of_many_tenants_lets_in_those_that_are_named() {
    let change = |s: &mut Settings| {
        s.oidc_allowed_users = strings(&["alice@example.com"]);
        s.oidc_allowed_tenants = strings(&["T-1"]);
        let url = s.oidc_configuration_url.as_ref().unwrap();
        s.oidc_configuration_url = Some(url.replace("/.well-known", "/common/v2.0/.well-known"));
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
    // What is said where no address stands is said of another one.
    let p = provided(|s| s.oidc_allowed_users = strings(&["alice@example.com"]));
    p.idp.state().claims = json!({"sub": "u", "email_verified": true});
    p.idp.state().userinfo = Some(json!({"sub": "u", "email": "alice@example.com"}));
    assert_eq!(p.sign_in(&Client::public(&p.app)).status, 403);
    // A tenant that claims another's issuer.
    let p = provided(change);
    set(&p, "T-2", json!({"email_verified": true, "tid": "T-1"}));
    assert_eq!(p.sign_in(&Client::public(&p.app)).status, 400);
    // A tenant that is taken off the list is out at the next refresh.
    let p = provided(change);
    set(&p, "T-1", json!({"email_verified": true}));
    p.idp.state().refreshes = true;
    let client = Client::public(&p.app);
    let tokens = p.tokens(&client);
    p.replace_rules(|s| s.oidc_allowed_tenants = strings(&["T-9"]));
    assert_eq!(call(&p.app, &tokens.access).status, 401);
    assert_eq!(client.refresh(&tokens.refresh).error(), "invalid_grant");
    // Without a list of tenants it is of no use, and it shows at the latest in the discovery document.
    let p = provided(|s| s.oidc_allowed_users = strings(&["alice@example.com"]));
    p.idp.state().discovery = json!({"issuer": format!("{}/{{tenantid}}/v2.0", p.idp.issuer())});
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
    assert!(told("callback_refused").unwrap().contains(&"provider=oidc".into()));
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
    assert!(reply.text().contains("cancelled") && !reply.text().contains("alert(1)"));
    assert!(told("sign_in_aborted").unwrap().contains(&"error=access_denied".into()));
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
    assert!(told("provider_failed").unwrap().contains(&"provider=oidc".into()));
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
    let statuses: Vec<u16> = (0..100).map(|_| come_back(&browser, "oidc", &answer).status).collect();
    assert_eq!(p.token_requests(), 1);
    // Who sends the same one again takes nothing from others.
    assert!(statuses.iter().all(|s| *s == 400), "{statuses:?}");
    assert_eq!(p.sign_in(&client).status, 303);
    let again = || {
        let page = browser.get(&client.authorize(&[("prompt", "login")]));
        let mut answer = p.idp.authorize(&choose(&browser, &page, "oidc"));
        answer.iter_mut().filter(|(n, _)| n == "code").for_each(|(_, v)| *v = "guess".into());
        come_back(&browser, "oidc", &answer).status
    };
    let statuses: Vec<u16> = (0..100).map(|_| again()).collect();
    assert_eq!((statuses[0], statuses[99]), (400, 429), "{statuses:?}");
    assert!(!p.app.login().providers.all()[0].is_down());
}

#[test]
fn a_look_at_a_provider_is_a_look() {
    let p = for_alice();
    let providers = &p.app.login().providers;
    providers.look();
    assert!(!providers.all()[0].is_down());
    p.idp.state().failure = Some(("503 Service Unavailable", String::new()));
    providers.look();
    assert!(providers.all()[0].is_down());
    p.idp.state().failure = None;
    providers.look();
    assert!(!providers.all()[0].is_down());
}

/// OpenID Connect Discovery 1.0 section 4.3.
#[test]
fn a_document_that_names_another_issuer_is_not_believed() {
    let with = |issuer: Option<&str>| {
        let p = provided(|s| {
            s.oidc_allowed_users = strings(&["alice@example.com"]);
            s.oidc_issuer = issuer.map(String::from);
        });
        let mut state = p.idp.state();
        state.discovery = json!({"issuer": "https://elsewhere.example"});
        state.claims["iss"] = json!("https://elsewhere.example");
        drop(state);
        let browser = Browser::new(&p.app);
        let page = browser.get(&Client::public(&p.app).authorize(&[]));
        let form = [("request", hidden(&page, "request")), ("provider", "oidc".to_string())];
        let hop = browser.post("/.auth/login", &form.each_ref().map(|(n, v)| (*n, v.as_str())));
        if hop.status != 200 {
            return hop.status;
        }
        let url = hop.header("refresh").unwrap().strip_prefix("0;url=").unwrap().to_string();
        come_back(&browser, "oidc", &p.idp.authorize(&url)).status
    };
    assert_eq!(with(None), 502);
    assert_eq!(with(Some("https://elsewhere.example/")), 502, "to the letter");
    assert_eq!(with(Some("https://elsewhere.example")), 303);
}

/// Who signs in at a provider has no guesses to spare at the password.
#[test]
fn a_sign_in_at_a_provider_gives_no_guesses_at_the_password() {
    let p = provided(|s| {
        s.oidc_allowed_users = strings(&["alice@example.com"]);
        s.password = Some("the owner's".into());
    });
    let client = Client::public(&p.app);
    let browser = Browser::new(&p.app);
    let mut passed = 0;
    for round in 0..8 {
        // A fresh sign-in before each handful of guesses.
        let page = browser.get(&client.authorize(&[("prompt", "login")]));
        let url = choose(&browser, &page, "oidc");
        assert_eq!(come_back(&browser, "oidc", &p.idp.authorize(&url)).status, 303);
        assert!(!browser.cookies.borrow().keys().any(|name| name.ends_with("_device")), "{:?}", browser.cookies);
        browser.cookies.borrow_mut().retain(|name, _| !name.ends_with("_session"));
        for guess in 0..5 {
            let page = browser.get("/.auth/login");
            let form = [("request", hidden(&page, "request")), ("password", format!("guess {round} {guess}"))];
            let reply = browser.post("/.auth/login", &form.each_ref().map(|(n, v)| (*n, v.as_str())));
            passed += usize::from(reply.status == 403);
        }
    }
    assert!(passed <= 7, "{passed} guesses were looked at");
}

/// Pages that grant name who asks, and a consent is that of the user whom the page showed.
#[test]
fn a_page_that_grants_names_who_asks_and_for_whom() {
    let p = for_alice();
    let client = Client::named(&p.app, "Notes");
    let browser = Browser::new(&p.app);
    let sign_in = |claims: Value| {
        p.idp.state().claims = claims;
        let page = browser.get(&client.authorize(&[("prompt", "login")]));
        let url = choose(&browser, &page, "oidc");
        come_back(&browser, "oidc", &p.idp.authorize(&url))
    };
    let person = |name: &str| json!({"sub": name, "email": format!("{name}@example.com"), "email_verified": true});
    let refused = sign_in(person("mallory"));
    assert_eq!(refused.status, 403);
    for named in ["Notes", "a program on this computer", "Sign in with Example ID and allow"] {
        assert!(refused.text().contains(named), "{named}: {}", refused.text());
    }
    // The provider sends the browser back without anybody.
    let page = browser.get(&client.authorize(&[]));
    let url = choose(&browser, &page, "oidc");
    let state = query(&url)["state"].clone();
    let back = come_back(&browser, "oidc", &[("error".into(), "access_denied".into()), ("state".into(), state)]);
    assert!(back.status == 403 && back.text().contains("Notes") && back.text().contains("and allow"));

    p.replace_rules(|s| s.oidc_allowed_users = strings(&["alice@example.com", "bob@example.com"]));
    assert_eq!(sign_in(person("alice")).status, 303);
    let shown = browser.get(&client.authorize(&[]));
    assert!(shown.text().contains("Signed in as <strong>alice@example.com"));
    // Somebody else signs in in the same browser before the page is sent in.
    assert_eq!(sign_in(person("bob")).status, 303);
    let allow =
        |page: &Reply| browser.post("/.idp/auth", &[("request", &hidden(page, "request")), ("decision", "allow")]);
    let asked_again = allow(&shown);
    assert_eq!(asked_again.status, 200);
    assert!(asked_again.text().contains("Signed in as <strong>bob@example.com"), "{}", asked_again.text());
    assert_eq!(allow(&asked_again).status, 303);
}
