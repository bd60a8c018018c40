//! Long stretches of time, in which the clock is the test's.

use std::sync::Arc;

use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::identity::GrantId;
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::store::rows::{Grant, Phase};
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::tokens::access::AccessToken;

use super::support::eventually;
use super::support::flow::{Browser, Client, Tokens, call, tokens};
use super::support::local::Local;
use super::support::proxy::PASSWORD;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

fn app() -> Local {
    let clock = Arc::new(Clock::manual(1_800_000_000));
    Local::new(Box::new(EmbeddedStore::in_memory().unwrap()), &Secret::generate(), clock).unwrap()
}

fn grant_of(app: &Local, access: &str) -> GrantId {
    AccessToken::verify(access, &app.context().keys, app.context().now()).unwrap().grant
}

/// Waits until the guard has noted that a token of this generation was used.
fn noted(app: &Local, tokens: &Tokens) {
    let id = grant_of(app, &tokens.access);
    eventually("the generation is noted as seen", || {
        let grant = app.context().state.get::<Grant>(id.as_str()).unwrap().unwrap();
        matches!(grant.phase, Phase::Active { seen: true, .. })
    });
}

#[test]
fn two_devices_of_one_user_with_identical_registrations_refresh_for_a_year() {
    let app = app();
    let (laptop, phone) = (Client::public(&app), Client::public(&app));
    assert_eq!(laptop.id, phone.id);
    let mut devices = [laptop.tokens(), phone.tokens()];
    let mut sign_ins = 2;
    for hour in 0..365 * 24u64 {
        app.clock.advance(HOUR);
        for (i, device) in devices.iter_mut().enumerate() {
            // The laptop works every hour, the phone now and then, and both miss an answer at times.
            let away = i == 1 && hour % 97 != 0;
            if away {
                continue;
            }
            assert_eq!(call(&app, &device.access).status, 401, "an access token lives an hour");
            let mut reply = laptop.refresh(&device.refresh);
            if hour % 13 == 0 && reply.status == 200 {
                let again = laptop.refresh(&device.refresh);
                assert_eq!(tokens(&again).refresh, tokens(&reply).refresh, "a lost answer is given again");
                reply = again;
            }
            if reply.status == 200 {
                *device = tokens(&reply);
            } else {
                // Only the end of the grant's 180 days may ask for a new sign-in.
                assert_eq!(reply.error(), "invalid_grant");
                sign_ins += 1;
                *device = laptop.tokens();
            }
            assert_eq!(call(&app, &device.access).status, 200);
        }
        if hour % 24 == 0 {
            app.context().state.collect().unwrap();
        }
    }
    assert_eq!(sign_ins, 2 + 2 * 2, "each device signs in anew twice a year, after 180 days");
    assert!(app.context().state.count::<Grant>().unwrap() <= 4, "what has ended is collected");
}

#[test]
fn a_grant_ends_after_thirty_idle_days_and_after_180_in_all() {
    let app = app();
    let client = Client::public(&app);
    let first = client.tokens();
    app.clock.advance(30 * DAY - 1);
    let second = tokens(&client.refresh(&first.refresh));
    app.clock.advance(30 * DAY);
    assert_eq!(client.refresh(&second.refresh).error(), "invalid_grant");

    let mut newest = client.tokens();
    for _ in 0..17 {
        app.clock.advance(10 * DAY);
        newest = tokens(&client.refresh(&newest.refresh));
    }
    app.clock.advance(10 * DAY - 60);
    let last = tokens(&client.refresh(&newest.refresh));
    assert_eq!(last.expires_in, 60, "the access token ends with the grant");
    app.clock.advance(60);
    assert_eq!(client.refresh(&last.refresh).error(), "invalid_grant");
    assert_eq!(call(&app, &last.access).status, 401);
}

#[test]
fn an_answer_that_the_client_never_saw_is_given_again_for_a_day() {
    let app = app();
    let client = Client::public(&app);
    let first = client.tokens();
    let unseen = tokens(&client.refresh(&first.refresh));
    app.clock.advance(DAY - 1);
    let again = tokens(&client.refresh(&first.refresh));
    assert_eq!(again.refresh, unseen.refresh);
    app.clock.advance(2);
    assert_eq!(client.refresh(&first.refresh).error(), "invalid_grant");
    assert_eq!(client.refresh(&again.refresh).error(), "invalid_grant", "reuse ends the grant");
}

#[test]
fn once_a_new_token_was_used_the_old_refresh_token_is_good_for_a_minute() {
    let app = app();
    let client = Client::public(&app);
    let first = client.tokens();
    let second = tokens(&client.refresh(&first.refresh));
    assert_eq!(call(&app, &second.access).status, 200);
    noted(&app, &second);
    app.clock.advance(60);
    assert_eq!(tokens(&client.refresh(&first.refresh)).refresh, second.refresh);
    app.clock.advance(1);
    assert_eq!(client.refresh(&first.refresh).error(), "invalid_grant");
    assert_eq!(call(&app, &second.access).status, 401, "its access tokens end with it");
}

#[test]
fn codes_pages_sessions_and_consents_end_in_time() {
    let app = app();
    let client = Client::public(&app);
    let code = client.code();
    app.clock.advance(60);
    assert_eq!(client.redeem(&code).error(), "invalid_grant");

    let browser = Browser::new(&app);
    let page = browser.get(&client.authorize(&[]));
    let sealed = super::support::flow::hidden(&page, "request");
    app.clock.advance(15 * 60);
    let late = browser.post("/.auth/login", &[("request", &sealed), ("password", PASSWORD), ("decision", "allow")]);
    assert_eq!(late.status, 400);
    assert!(late.text().contains("no longer valid"));

    browser.sign_in(&client.authorize(&[]), PASSWORD);
    app.clock.advance(12 * HOUR - 1);
    assert!(browser.get(&client.authorize(&[])).text().contains("Signed in as"));
    app.clock.advance(1);
    assert!(browser.get(&client.authorize(&[])).text().contains("type=\"password\""));
}

#[test]
fn registrations_that_nobody_uses_expire_and_used_ones_outlive_their_grants() {
    let app = app();
    let (used, unused) = (Client::named(&app, "used"), Client::named(&app, "unused"));
    used.tokens();
    app.clock.advance(30 * DAY);
    let status = |client: &Client<'_, Local>| Browser::new(&app).get(&client.authorize(&[])).status;
    assert_eq!((status(&used), status(&unused)), (200, 400));
    app.clock.advance(150 * DAY);
    assert_eq!(status(&used), 200);
    app.clock.advance(31 * DAY);
    assert_eq!(status(&used), 400);
}

#[test]
fn too_many_registrations_push_out_unused_ones_only() {
    let mut app = app();
    let used = Client::named(&app, "used").id;
    let tokens =
        Client { id: used.clone(), transport: &app, secret: None, redirect: super::support::flow::REDIRECT.into() }
            .tokens();
    for i in 0..10_100u32 {
        app.address = std::net::IpAddr::from([10, (i >> 16) as u8, (i >> 8) as u8, i as u8]);
        Client::named(&app, &i.to_string());
    }
    let clients = app.context().state.count::<mcp_auth_proxy::store::rows::Client>().unwrap();
    assert!(clients <= 10_000, "{clients}");
    let again = Client { id: used, transport: &app, secret: None, redirect: super::support::flow::REDIRECT.into() };
    assert_eq!(again.refresh(&tokens.refresh).status, 200);
}
