//! GitHub.

use std::sync::Arc;

use mcp_auth_proxy::app::config::providers::configure_anew;
use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::tokens::access::AccessToken;
use serde_json::json;

use super::*;
use crate::support::flow::{Browser, Client, Tokens, call, query, tokens};
use crate::support::idp::{CLIENT_ID, CLIENT_SECRET, FakeGitHub};
use crate::support::local::Local;
use crate::support::wire::Reply;

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
        let keys = &app.core().keys;
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
    let (_stream, socket) = open_stream(&app, &held.access);
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
    app.login().providers.replace_rules(&configure_anew(&settings).unwrap());
    assert_eq!(client.refresh(&held.refresh).status, 503);
    github.state().failures.clear();
    clock.advance(60);
    app.recheck_streams();
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
