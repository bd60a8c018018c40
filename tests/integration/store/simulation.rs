//! Long stretches of time, in which the clock is the test's.

use std::sync::Arc;

use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::identity::{ClientId, GrantId, UserId};
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::store::rows::{AuthMethod, Client as ClientRow, Grant, Phase, Rotation};
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::tokens::access::AccessToken;

use crate::support::events::told;
use crate::support::eventually;
use crate::support::flow::{Browser, Client, Tokens, call, tokens};
use crate::support::local::Local;
use crate::support::proxy::PASSWORD;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

fn app() -> Local {
    let clock = Arc::new(Clock::manual(1_800_000_000));
    Local::new(Box::new(EmbeddedStore::in_memory().unwrap()), &Secret::generate(), clock).unwrap()
}

fn grant_of(app: &Local, access: &str) -> GrantId {
    AccessToken::verify(access, &app.core().keys, app.core().now()).unwrap().grant
}

/// Waits until the guard has noted that a token of this generation was used.
fn noted(app: &Local, tokens: &Tokens) {
    let id = grant_of(app, &tokens.access);
    eventually("the generation is noted as seen", || {
        let grant = app.core().state.get::<Grant>(id.as_str()).unwrap().unwrap();
        matches!(grant.phase, Phase::Active { rotation: Rotation { seen: true, .. }, .. })
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
            app.core().state.collect().unwrap();
        }
    }
    assert_eq!(sign_ins, 2 + 2 * 2, "each device signs in anew twice a year, after 180 days");
    assert!(app.core().state.count::<Grant>().unwrap() <= 4, "what has ended is collected");
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
fn an_answer_that_the_client_never_saw_can_be_had_for_a_day() {
    let app = app();
    let client = Client::public(&app);
    let first = client.tokens();
    let lost = tokens(&client.refresh(&first.refresh));
    app.clock.advance(60);
    assert_eq!(tokens(&client.refresh(&first.refresh)).refresh, lost.refresh, "a race: the same again");
    app.clock.advance(DAY - 60);
    let found = tokens(&client.refresh(&first.refresh));
    assert_ne!(found.refresh, lost.refresh);
    assert_eq!((call(&app, &found.access).status, call(&app, &lost.access).status), (200, 401));
    let next = tokens(&client.refresh(&found.refresh));
    assert_eq!(call(&app, &next.access).status, 200);
}

#[test]
fn an_answer_that_was_lost_for_longer_is_a_copy() {
    let app = app();
    let client = Client::public(&app);
    let first = client.tokens();
    let unseen = tokens(&client.refresh(&first.refresh));
    app.clock.advance(DAY + 1);
    assert_eq!(client.refresh(&first.refresh).error(), "invalid_grant");
    assert_eq!(client.refresh(&unseen.refresh).error(), "invalid_grant", "reuse ends the grant");
}

/// Whoever rotates first and waits is noticed when the other one comes.
#[test]
fn a_thief_who_rotates_first_and_waits_collides_with_the_client() {
    let app = app();
    let client = Client::public(&app);
    let stolen = client.tokens();
    let thief = tokens(&client.refresh(&stolen.refresh));
    app.clock.advance(75);
    let own = tokens(&client.refresh(&stolen.refresh));
    assert_ne!(own.refresh, thief.refresh);
    assert_eq!(call(&app, &own.access).status, 200);
    assert_eq!(call(&app, &thief.access).status, 401, "what was replaced is refused at once");
    assert_eq!(client.refresh(&thief.refresh).error(), "invalid_grant");
    assert_eq!(client.refresh(&own.refresh).error(), "invalid_grant", "and its use ends the grant for both");
    assert_eq!(call(&app, &own.access).status, 401);
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
    let sealed = crate::support::flow::hidden(&page, "request");
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

/// Registrations as they would be after years, or an attack: written at once.
fn fill(app: &Local, rows: Vec<ClientRow>) {
    for batch in rows.chunks(1_000) {
        let batch = batch.to_vec();
        let write = move |tx: &mut mcp_auth_proxy::store::Tx<'_>| {
            batch.iter().for_each(|row| tx.put(row.id.as_str(), row));
            Ok(())
        };
        app.core().state.transact(write).unwrap();
    }
}

fn row(app: &Local, id: String, network: &str, used_by: Option<&str>) -> ClientRow {
    let now = app.core().now();
    ClientRow {
        id: ClientId(id),
        name: None,
        redirect_uris: vec!["https://a.example/cb".into()],
        auth_method: AuthMethod::None,
        application_type: None,
        issued_at: now,
        used: used_by.is_some(),
        used_by: used_by.map(|user| UserId(user.into())),
        network: Some(network.parse().unwrap()),
        secret_digests: Vec::new(),
        keys: None,
        preregistered: None,
        expires_at: now + 30 * DAY,
    }
}

fn exists(app: &Local, id: &str) -> bool {
    app.core().state.get::<ClientRow>(id).unwrap().is_some()
}

/// Whoever has the most makes room, and what is under way survives.
#[test]
fn too_many_registrations_push_out_those_of_the_network_that_has_the_most() {
    let app = app();
    let used = Client::named(&app, "used");
    let tokens = used.tokens();
    // Somebody else's, of which the page is open while the attack goes on.
    let browser = Browser::new(&app);
    let (under_way, idle) = (Client::named(&app, "under way"), Client::named(&app, "idle"));
    let page = browser.get(&under_way.authorize(&[]));
    let mut rows: Vec<_> = (0..9_900).map(|n| row(&app, format!("bad{n}"), "2001:db8:bad::", None)).collect();
    rows.extend((0..100).map(|n| row(&app, format!("good{n}"), &format!("2001:db8:{n:x}::"), None)));
    fill(&app, rows);
    app.clock.advance(10);
    let newcomer = Client::named(&app, "newcomer");
    assert!(app.core().state.count::<ClientRow>().unwrap() < 10_000);
    assert!(told("registrations_removed").unwrap().contains(&"clients=100".into()));
    assert!(exists(&app, &newcomer.id) && exists(&app, &used.id) && exists(&app, &idle.id));
    assert!((0..100).all(|n| exists(&app, &format!("good{n}"))), "they had one each");
    // Its row is gone, by whatever way: the page has what it takes.
    app.core().state.remove::<ClientRow>(vec![under_way.id.clone()]).unwrap();
    let sealed = crate::support::flow::hidden(&page, "request");
    let form = [("request", sealed.as_str()), ("password", PASSWORD), ("decision", "allow")];
    let answer = browser.post("/.auth/login", &form);
    assert_eq!(answer.status, 303, "{}", answer.text());
    let code = crate::support::flow::query(answer.header("location").unwrap()).remove("code").unwrap();
    assert_eq!(under_way.redeem(&code).status, 200);
    assert_eq!(used.refresh(&tokens.refresh).status, 200);
}

#[test]
fn whoever_spreads_over_many_networks_loses_before_who_has_one() {
    let app = app();
    let mut rows: Vec<_> =
        (0..9_980u32).map(|n| row(&app, format!("bad{n}"), &format!("2001:db8:{n:x}::"), None)).collect();
    rows.extend((0..20).map(|n| row(&app, format!("good{n}"), &format!("198.{n}.100.0"), None)));
    fill(&app, rows);
    for round in 0..20 {
        app.clock.advance(10);
        Client::named(&app, &format!("newcomer {round}"));
        assert!((0..20).all(|n| exists(&app, &format!("good{n}"))), "{round}");
    }
}

/// One user's registrations are bounded, and block nobody's.
#[test]
fn one_users_registrations_make_room_for_one_another_and_for_others() {
    let app = app();
    // All in use once, none any more: the user who has the most gives some.
    let rows = (0..10_000).map(|n| {
        let user = if n < 9_000 { "mallory" } else { "alice" };
        row(&app, format!("{user}{n}"), "192.0.2.0", Some(user))
    });
    fill(&app, rows.collect());
    let newcomer = Client::named(&app, "newcomer");
    assert!((9_000..10_000).all(|n| exists(&app, &format!("alice{n}"))));
    newcomer.tokens();

    // Now with room in the table.
    let gone = (8_000..8_600).map(|n| format!("mallory{n}")).collect();
    app.core().state.remove::<ClientRow>(gone).unwrap();
    let own = |n: usize| {
        let clients = Client::named(&app, &format!("own {n}"));
        (clients.id.clone(), clients.tokens().refresh)
    };
    app.clock.advance(60);
    let first = own(0);
    let rows = (0..300).map(|n| row(&app, format!("old{n}"), "192.0.2.0", Some("password")));
    fill(&app, rows.collect());
    app.clock.advance(60);
    let before = app.core().state.count::<ClientRow>().unwrap();
    let last = own(1);
    assert_eq!(app.core().state.count::<ClientRow>().unwrap(), before, "one came, and one went");
    assert!(told("registration_replaced").unwrap().contains(&"user=password".into()));
    let refresh = |(id, token): &(String, String)| {
        let redirect = crate::support::flow::REDIRECT.into();
        Client { id: id.clone(), transport: &app, secret: None, redirect }.refresh(token).status
    };
    assert_eq!((refresh(&first), refresh(&last)), (200, 200), "those with a live grant stay");
}

/// What has ended does not come back with a shorter lifetime.
#[test]
fn a_session_is_judged_by_its_beginning_and_the_lifetime_of_the_moment() {
    let (clock, secret) = (Arc::new(Clock::manual(1_800_000_000)), Secret::generate());
    let disk = Arc::default();
    let start = |hours: u64| {
        let settings = Settings {
            password: Some(PASSWORD.into()),
            session_lifetime: std::time::Duration::from_secs(hours * HOUR),
            ..Settings::default()
        };
        crate::support::disk::open_with(settings, &disk, &secret, &clock).unwrap()
    };
    let app = start(12);
    let client = Client::public(&app);
    let browser = Browser::new(&app);
    browser.sign_in(&client.authorize(&[]), PASSWORD);
    let cookies = browser.cookies.borrow().clone();
    drop(app);
    clock.advance(3 * HOUR);
    let is_signed_in = |app: &Local| {
        let browser = Browser::new(app);
        browser.cookies.replace(cookies.clone());
        browser.get("/.auth/login").text().contains("You are signed in")
    };
    let shorter = start(2);
    assert!(!is_signed_in(&shorter), "it began three hours ago");
    drop(shorter);
    assert!(is_signed_in(&start(12)));
}
