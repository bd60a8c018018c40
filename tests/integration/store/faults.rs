//! Crashes, a disk that is full, a clock that jumps, descriptors that run out.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::tokens::Secret;

use crate::support::disk::{Disk, closed, open_with};
use crate::support::eventually;
use crate::support::flow::{Client, REDIRECT, Tokens, call, encode, tokens};
use crate::support::local::Local;
use crate::support::proxy::{PASSWORD, Proxy, Scratch, arguments, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Connection, Reply, Transport, request};

fn open(disk: &Arc<Mutex<Disk>>, secret: &Secret, clock: &Arc<Clock>) -> Result<Local, String> {
    let settings = Settings { password: Some(PASSWORD.into()), ..Settings::default() };
    open_with(settings, disk, secret, clock)
}

/// What clients were told in the course of the story, each time by an answer that said so.
#[derive(Default)]
struct Promises {
    client: Option<String>,
    unused_code: Option<String>,
    used_code: Option<String>,
    newest: Option<Tokens>,
    revoked: Option<Tokens>,
}

/// A client's story; it ends at the first answer that does not say yes.
fn story(app: &Local, told: &mut Promises) -> Option<()> {
    let yes = |reply: Reply| (reply.status < 400).then_some(reply);
    let metadata = serde_json::json!({"client_name": "test client", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"});
    let id = yes(crate::support::flow::register(app, &metadata))?.json()["client_id"].as_str().unwrap().to_string();
    told.client = Some(id.clone());
    let client = Client { transport: app, id, secret: None, redirect: REDIRECT.into() };
    let code = || {
        let browser = crate::support::flow::Browser::new(app);
        let page = yes(browser.get(&client.authorize(&[])))?;
        let sealed = crate::support::flow::hidden(&page, "request");
        let fields =
            [("request", sealed.as_str()), ("password", crate::support::proxy::PASSWORD), ("decision", "allow")];
        let reply = yes(browser.post("/.auth/login", &fields))?;
        crate::support::flow::query(reply.header("location")?).remove("code")
    };
    // One grant that is given back.
    let given_back = tokens(&yes(client.redeem(&code()?))?);
    let body = encode(&[("token", &given_back.refresh), ("client_id", &client.id)]);
    yes(app.send("POST", "/.idp/revoke", &[("Content-Type", "application/x-www-form-urlencoded")], body.as_bytes()))?;
    told.revoked = Some(given_back);
    // One that goes on.
    let used = code()?;
    told.unused_code = Some(used.clone());
    let first = yes(client.redeem(&used));
    // Whether the code counts as used is open until the answer is there.
    told.unused_code = None;
    told.newest = Some(tokens(&first?));
    told.used_code = Some(used);
    for _ in 0..2 {
        let next = tokens(&yes(client.refresh(&told.newest.as_ref()?.refresh))?);
        told.newest = Some(next);
    }
    told.unused_code = Some(code()?);
    Some(())
}

/// Checks each promise on what was found after the crash.
fn check(app: &Local, told: &Promises, at: &str) {
    let Some(id) = &told.client else { return };
    let client = Client { transport: app, id: id.clone(), secret: None, redirect: REDIRECT.into() };
    assert_eq!(app.send("GET", &client.authorize(&[]), &[], b"").status, 200, "the registration is lost; {at}");
    if let Some(tokens) = &told.revoked {
        assert_eq!(call(app, &tokens.access).status, 401, "a revoked token is back; {at}");
        assert_eq!(client.refresh(&tokens.refresh).status, 400, "a revoked grant is back; {at}");
    }
    if let Some(newest) = &told.newest {
        assert_eq!(call(app, &newest.access).status, 200, "an access token is refused; {at}");
        let next = tokens(&client.refresh(&newest.refresh));
        assert_eq!(call(app, &next.access).status, 200, "{at}");
    }
    if let Some(code) = &told.unused_code {
        assert_eq!(client.redeem(code).status, 200, "an authorization code is lost; {at}");
    }
    if let Some(code) = &told.used_code {
        assert_eq!(client.redeem(code).status, 400, "a used authorization code is good again; {at}");
    }
}

#[test]
fn whenever_the_power_goes_every_promise_made_to_a_client_is_kept() {
    let secret = Secret::generate();
    let clock = Arc::new(Clock::manual(1_800_000_000));
    let fresh = || {
        let disk = Arc::new(Mutex::new(Disk::default()));
        drop(open(&disk, &secret, &clock).unwrap());
        closed(&disk);
        disk
    };
    let disk = fresh();
    let start = disk.lock().unwrap().operations;
    let mut whole = Promises::default();
    let app = open(&disk, &secret, &clock).unwrap();
    story(&app, &mut whole).expect("without faults the story ends well");
    drop(app);
    closed(&disk);
    let end = disk.lock().unwrap().operations;
    assert!(end > start + 20, "the story writes: {start} to {end}");

    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for crash_at in start + 1..=end + 1 {
        let disk = fresh();
        disk.lock().unwrap().crash_at = Some(crash_at);
        let mut told = Promises::default();
        if let Ok(app) = open(&disk, &secret, &clock) {
            story(&app, &mut told);
        }
        closed(&disk);
        for survival in ["nothing that was not synced", "everything", "some of it"] {
            let image = disk.lock().unwrap().after_crash(|| match survival {
                "everything" => true,
                "some of it" => random() % 2 == 0,
                _ => false,
            });
            let found = Arc::new(Mutex::new(Disk { durable: image.clone(), current: image, ..Disk::default() }));
            let at = format!("power lost at operation {crash_at} of {start} to {end}, {survival} survives");
            let app = open(&found, &secret, &clock).unwrap_or_else(|e| panic!("no start after the crash: {e}; {at}"));
            check(&app, &told, &at);
        }
    }
}

#[test]
fn a_full_disk_refuses_what_it_can_not_keep_and_heals_without_a_restart() {
    let secret = Secret::generate();
    let clock = Arc::new(Clock::manual(1_800_000_000));
    let disk = Arc::new(Mutex::new(Disk::default()));
    let app = open(&disk, &secret, &clock).unwrap();
    let client = Client::public(&app);
    let first = client.tokens();
    disk.lock().unwrap().full = true;
    for _ in 0..3 {
        let refused = client.refresh(&first.refresh);
        assert_eq!((refused.status, refused.error().as_str()), (503, "temporarily_unavailable"));
        assert_eq!(call(&app, &first.access).status, 200, "tokens that were issued stay valid");
    }
    disk.lock().unwrap().full = false;
    eventually("the store heals", || client.refresh(&first.refresh).status == 200);
}

#[test]
fn a_full_disk_is_told_once_by_the_real_binary() {
    let upstream = FakeUpstream::ok();
    let (data, port) = (Arc::new(Scratch::new()), free_port());
    let mut shell = Command::new("sh");
    // A limit on file sizes is the full disk that a test can have; the signal that comes with it has to be ignored.
    shell
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_mcp-auth-proxy")])
        .args(arguments(&data, port))
        .arg(format!("http://127.0.0.1:{}", upstream.port));
    let proxy = Proxy::spawn(shell, port, data);
    let client = Client::public(&proxy);
    let first = client.tokens();
    let limit = |bytes: &str| {
        let status = Command::new("prlimit")
            .args(["--pid", &proxy.pid().to_string(), &format!("--fsize={bytes}")])
            .status()
            .unwrap();
        assert!(status.success());
    };
    limit("4096:unlimited");
    let mut newest = first.clone();
    eventually("a write fails", || {
        let reply = client.refresh(&newest.refresh);
        if reply.status == 200 {
            newest = tokens(&reply);
        }
        reply.status == 503
    });
    for _ in 0..5 {
        assert_eq!(client.refresh(&newest.refresh).status, 503);
    }
    assert_eq!(call(&proxy, &newest.access).status, 200);
    let is_ready = || proxy.order(&["status"]).unwrap()["health"]["is_ready"] == true;
    assert!(!is_ready(), "nobody can sign in");
    limit("unlimited:unlimited");
    eventually("it heals", || client.refresh(&newest.refresh).status == 200);
    assert!(is_ready());
    proxy.has_logged("the state can be written again");
    let log = proxy.log();
    assert_eq!(log.matches("the state can't be read or written").count(), 1, "{log}");
    assert_eq!(log.matches("the state can be written again").count(), 1, "{log}");
}

#[test]
fn a_clock_that_jumps_ends_no_token() {
    let wall = Arc::new(AtomicU64::new(1_800_000_000));
    let steady = Arc::new(AtomicU64::new(100));
    let (w, s) = (wall.clone(), steady.clone());
    let clock = Arc::new(Clock::on(Box::new(move || (w.load(Ordering::SeqCst), s.load(Ordering::SeqCst)))));
    let app = Local::new(Box::new(EmbeddedStore::in_memory().unwrap()), &Secret::generate(), clock).unwrap();
    let client = Client::public(&app);
    let tokens = client.tokens();
    for jump in [400 * 86_400, 0, -400 * 86_400, 0] {
        steady.fetch_add(60, Ordering::SeqCst);
        wall.store((1_800_000_000 + steady.load(Ordering::SeqCst) - 100).wrapping_add_signed(jump), Ordering::SeqCst);
        assert_eq!(call(&app, &tokens.access).status, 200, "after a jump of {jump} seconds");
        app.core().state.collect().unwrap();
        assert_eq!(client.refresh(&tokens.refresh).status, 200, "after a jump of {jump} seconds");
    }
}

#[test]
fn descriptors_that_run_out_are_told_once_and_the_rest_goes_on() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let ping = request("POST", "/mcp", &proxy.host(), &[("Authorization", &token)], b"{}");
    let mut steady = proxy.connect();
    steady.write(&ping);
    assert_eq!(steady.reply(false).unwrap().status, 200);
    let open_files = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count();
    let limit = |n: usize| {
        let status = Command::new("prlimit")
            .args(["--pid", &proxy.pid().to_string(), &format!("--nofile={n}:")])
            .status()
            .unwrap();
        assert!(status.success());
    };
    limit(open_files + 4);
    let crowd: Vec<Connection> = (0..40).map(|_| proxy.connect()).collect();
    eventually("it is told", || proxy.log().contains("connections can't be accepted"));
    for _ in 0..5 {
        steady.write(&ping);
        assert_eq!(steady.reply(false).unwrap().status, 200, "the pooled connection upstream is still there");
    }
    drop(crowd);
    limit(1_000);
    eventually("it heals", || proxy.send("GET", "/.well-known/jwks.json", &[], b"").status == 200);
    assert_eq!(proxy.log().matches("connections can't be accepted").count(), 1, "{}", proxy.log());
    proxy.has_logged("connections are accepted again");
}

#[test]
fn killed_at_any_moment_the_proxy_keeps_what_it_has_given() {
    let upstream = FakeUpstream::ok();
    let mut proxy = Proxy::start(upstream.port, &[]);
    let id = Client::public(&proxy).id;
    let devices: Vec<Mutex<Tokens>> = {
        let client = Client { transport: &proxy, id: id.clone(), secret: None, redirect: REDIRECT.into() };
        (0..4).map(|_| Mutex::new(client.tokens())).collect()
    };
    for round in 0..12u64 {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for device in &devices {
                let (proxy, id, stop) = (&proxy, &id, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let current = device.lock().unwrap().refresh.clone();
                        let body =
                            encode(&[("grant_type", "refresh_token"), ("refresh_token", &current), ("client_id", id)]);
                        let bytes = request(
                            "POST",
                            "/.idp/token",
                            &proxy.host(),
                            &[("Content-Type", "application/x-www-form-urlencoded")],
                            body.as_bytes(),
                        );
                        // From the kill on, connections fail and answers are cut.
                        let Ok(socket) = std::net::TcpStream::connect(("127.0.0.1", proxy.port)) else { return };
                        let mut connection = Connection::over(socket);
                        if std::io::Write::write_all(&mut connection.socket, &bytes).is_err() {
                            return;
                        }
                        match connection.reply(false) {
                            Some(reply) => *device.lock().unwrap() = tokens(&reply),
                            None => return,
                        }
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(20 + 17 * round));
            proxy.signal("KILL");
            stop.store(true, Ordering::Relaxed);
        });
        proxy = proxy.crash_and_restart(upstream.port, &[]);
        let client = Client { transport: &proxy, id: id.clone(), secret: None, redirect: REDIRECT.into() };
        for device in &devices {
            let mut device = device.lock().unwrap();
            assert_eq!(call(&proxy, &device.access).status, 200, "round {round}");
            *device = tokens(&client.refresh(&device.refresh));
        }
    }
}
