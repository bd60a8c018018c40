//! Asking again: who is out, when, and what is no reason.

use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::tokens::access::AccessToken;
use serde_json::json;

use super::*;
use crate::support::events::told;
use crate::support::eventually;
use crate::support::flow::{Browser, Client, call, query, tokens};
use crate::support::idp::OidcState;
use crate::support::local::Local;
use crate::support::wire::Reply;

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
    assert!(told("refresh_put_off").unwrap().iter().any(|field| field.starts_with("user=oidc:")));
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
    assert!(told("grant_ended").unwrap().iter().any(|field| field.starts_with("reason=")));
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
    p.app.hang_up();
    client.refresh(&held.refresh);
    assert!(!p.app.login().providers.all()[0].is_down());
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
        let keys = &p.app.core().keys;
        let verified = AccessToken::verify(access, keys, p.clock.now()).unwrap();
        let store = Box::new(EmbeddedStore::in_memory().unwrap());
        let other = Local::with_settings(settings, store, &Secret::generate(), p.clock.clone()).unwrap();
        other.login().is_current(&verified.credential)
    };
    assert!(token(&held.access, p.settings.clone()));
    assert!(!token(&held.access, Settings { oidc_client_id: Some("other".into()), ..p.settings.clone() }));
    assert!(!token(&held.access, Settings { password: Some("p".into()), ..Settings::default() }));
}

#[test]
fn a_stream_ends_when_nobody_vouches_for_its_user_any_more() {
    let p = lasting(&["engineering"]);
    let client = Client::public(&p.app);
    let held = p.tokens(&client);
    let (_open, socket) = open_stream(&p.app, &held.access);
    p.idp.state().failure = Some(("500 Internal Server Error", "{}".into()));
    for _ in 0..23 {
        p.clock.advance(HOUR);
        p.app.recheck_streams();
    }
    assert!(!is_cut(&socket));
    p.clock.advance(2 * HOUR);
    p.app.recheck_streams();
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
fn a_stream_does_not_outlive_the_right_to_it() {
    let p = provided(|s| s.oidc_allowed_groups = strings(&["engineering"]));
    p.idp.state().refreshes = true;
    let held = p.tokens(&Client::public(&p.app));
    let (open, socket) = open_stream(&p.app, &held.access);
    let is_cut = || is_cut(&socket);
    // While the token is good, nobody is asked; when it has run out, the provider is.
    p.idp.state().claims["groups"] = json!(["engineering", "more"]);
    for _ in 0..3 {
        p.clock.advance(HOUR);
        p.app.recheck_streams();
        assert!(!is_cut());
    }
    assert_eq!(p.token_requests(), 4);
    p.idp.state().claims["groups"] = json!(["alumni"]);
    p.clock.advance(HOUR / 2);
    p.app.recheck_streams();
    assert!(!is_cut());
    p.clock.advance(HOUR / 2);
    p.app.recheck_streams();
    eventually("the stream is cut", is_cut);
    drop(open);
    assert!(p.app.streams().grants().is_empty());
}

/// A copy of a refresh token ends the grant, also while nobody can be asked after its user.
#[test]
fn a_copy_is_judged_before_anybody_is_asked() {
    let p = for_alice();
    p.idp.state().refreshes = true;
    let client = Client::public(&p.app);
    let stolen = p.tokens(&client);
    let second = tokens(&client.refresh(&stolen.refresh));
    let third = tokens(&client.refresh(&second.refresh));
    p.clock.advance(2 * DAY);
    p.idp.state().failure = Some(("503 Service Unavailable", String::new()));
    assert_eq!(client.refresh(&third.refresh).status, 503, "its user can't be asked after");
    assert_eq!(client.refresh(&stolen.refresh).error(), "invalid_grant");
    assert_eq!(client.refresh(&third.refresh).error(), "invalid_grant", "the grant has ended");
}

/// A new grant's token carries the address that the provider gave last.
#[test]
fn a_token_carries_the_address_that_the_provider_gave_last() {
    let p = provided(|s| s.oidc_allowed_groups = strings(&["engineering"]));
    let client = Client::public(&p.app);
    let old = Browser::new(&p.app);
    let sign_in = |browser: &Browser<'_, Local>| {
        let page = browser.get(&client.authorize(&[]));
        let url = choose(browser, &page, "oidc");
        assert_eq!(come_back(browser, "oidc", &p.idp.authorize(&url)).status, 303);
    };
    sign_in(&old);
    p.idp.state().claims["email"] = json!("new@example.com");
    sign_in(&Browser::new(&p.app));
    let page = old.get(&client.authorize(&[]));
    let reply = old.post("/.idp/auth", &[("request", &hidden(&page, "request")), ("decision", "allow")]);
    let code = query(reply.header("location").unwrap()).remove("code").unwrap();
    let access = tokens(&client.redeem(&code)).access;
    assert_eq!(
        AccessToken::verify(&access, &p.app.core().keys, p.app.core().now()).unwrap().email.as_deref(),
        Some("new@example.com")
    );
}
