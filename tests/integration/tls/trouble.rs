//! Certificates from an authority that is down, forgetful or unwilling, and machines that die or have the wrong time.

use std::sync::Arc;
use std::time::Duration;

use super::acme::obtains;
use super::{HOST, METADATA, TlsProxy, line, with_pebble, with_pebble_on};
use crate::support::eventually;
use crate::support::pebble::{Behaviour, Pebble};
use crate::support::proxy::{Proxy, Scratch, free_port};
use crate::support::tls_client::shown;
use crate::support::upstream::{FakeUpstream, text};
use crate::support::wire::Transport;

#[test]
fn an_authority_that_is_down_keeps_nothing_from_starting_and_is_asked_again() {
    let mut pebble = Pebble::start(Behaviour::default());
    pebble.down();
    let proxy = with_pebble(&pebble, &Arc::new(Scratch::new()), &[]);
    proxy.proxy.has_logged("no certificate could be obtained");
    assert!(proxy.proxy.log().contains("the authority can't be reached"), "{}", proxy.proxy.log());
    let facts = shown(proxy.port, HOST).unwrap();
    assert!(facts.is_self_issued && facts.is_for(HOST), "{facts:?}");
    let reply = proxy.send("GET", METADATA, &[], b"");
    assert_eq!((reply.status, reply.header("strict-transport-security")), (200, None));
    pebble.up();
    proxy.proxy.signal("HUP");
    obtains(&proxy);
    assert!(!shown(proxy.port, HOST).unwrap().is_self_issued);
}

#[test]
fn an_authority_that_is_down_at_renewal_leaves_the_old_certificate_in_use() {
    let mut pebble = Pebble::start(Behaviour { lifetime: 20, ..Behaviour::default() });
    let proxy = with_pebble(&pebble, &Arc::new(Scratch::new()), &[]);
    obtains(&proxy);
    let first = shown(proxy.port, HOST).unwrap();
    pebble.down();
    proxy.proxy.has_logged("could not be renewed; the old one stays in use");
    assert_eq!(shown(proxy.port, HOST).unwrap(), first);
    assert_eq!(proxy.send("GET", METADATA, &[], b"").status, 200);
    // It has forgotten the account, too.
    pebble.up();
    eventually("another certificate is in use", || shown(proxy.port, HOST).unwrap() != first);
    proxy.proxy.has_logged("does not know this proxy's account any more");
}

#[test]
fn a_name_that_leads_nowhere_is_told_in_words() {
    let pebble = Pebble::start(Behaviour::default());
    pebble.forget_names();
    let proxy = with_pebble(&pebble, &Arc::new(Scratch::new()), &[]);
    proxy.proxy.has_logged("no certificate could be obtained");
    let log = proxy.proxy.log();
    let told = log.lines().find(|l| l.contains("no certificate could be obtained")).unwrap();
    assert!(told.contains("tls-alpn-01 failed") && told.contains("http-01 failed"), "{told}");
    assert!(told.contains("look the name up") || told.contains("connect to this machine"), "{told}");
}

#[test]
fn ports_that_the_authority_can_not_reach_are_told_in_words() {
    let pebble = Pebble::start(Behaviour::default());
    let proxy = with_pebble_on(&pebble, &Arc::new(Scratch::new()), HOST, free_port(), free_port(), &[]);
    proxy.proxy.has_logged("no certificate could be obtained");
    assert!(proxy.proxy.log().contains("port 443 or 80 of the name's address must lead here"), "{}", proxy.proxy.log());
}

#[test]
fn a_crash_in_the_middle_of_an_order_loses_no_certificate() {
    // With pauses of whole seconds within the order, and without any.
    for (round, longest_pause) in [0, 4].into_iter().enumerate() {
        let pebble = Pebble::start(Behaviour { refused_nonces: 40, longest_pause, ..Behaviour::default() });
        let data = Arc::new(Scratch::new());
        let kept = |end: &str| {
            let found = std::fs::read_dir(data.0.join("data/acme")).into_iter().flatten().flatten();
            let files = found.flat_map(|d| std::fs::read_dir(d.path()).into_iter().flatten().flatten());
            files.map(|f| f.file_name().into_string().unwrap()).any(|name| name.ends_with(end))
        };
        let mut in_the_middle = 0;
        for pause in (0..8).map(|i| Duration::from_millis(i * 5)) {
            let proxy = with_pebble(&pebble, &data, &[]);
            eventually("the order is made", || kept(".order.json") || kept(".pem"));
            std::thread::sleep(pause);
            in_the_middle += u32::from(kept(".order.json"));
            // Dropped, which kills it.
            drop(proxy);
        }
        assert!(round == 0 || in_the_middle > 0, "no crash came in the middle of an order");
        let proxy = with_pebble(&pebble, &data, &[]);
        eventually("a certificate is in use", || shown(proxy.port, HOST).is_some_and(|facts| !facts.is_self_issued));
        assert_eq!(pebble.issued(), 1, "log:\n{}", proxy.proxy.log());
        assert_eq!(pebble.accounts(), 1);
    }
}

#[test]
fn a_clock_that_is_far_off_is_told() {
    const FAKE: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    let pebble = Pebble::start(Behaviour::default());
    for (time, year) in [("@2001-01-01 00:00:00", "2001"), ("@2051-01-01 00:00:00", "2051")] {
        let data = Arc::new(Scratch::new());
        let mut command = line(&data, HOST, pebble.http_port, pebble.tls_port);
        command.args(["--tls-accept-tos", "--acme-ca-file", &pebble.ca_file(), "--tls-directory-url"]);
        command.args([&pebble.directory(), "http://127.0.0.1:1"]);
        command.env("LD_PRELOAD", FAKE).env("FAKETIME", time).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let proxy = TlsProxy { proxy: Proxy::spawn(command, pebble.http_port, data), port: pebble.tls_port };
        proxy.proxy.has_logged("no certificate could be obtained");
        let log = proxy.proxy.log();
        let told = log.lines().find(|l| l.contains("no certificate could be obtained")).unwrap();
        assert!(told.contains("this machine's clock says") && told.contains(year), "{told}");
        assert_eq!(proxy.send("GET", METADATA, &[], b"").status, 200);
    }
}

#[test]
fn what_can_not_be_certified_is_refused_at_the_start() {
    let scratch = Scratch::new();
    for (args, parts) in [
        (&["--tls-host", "*.example.com", "--tls-accept-tos"][..], ["wildcard", "--tls-cert-file"]),
        (&["--auto-tls", "--tls-host", "192.0.2.1", "--tls-accept-tos"], ["address", "--tls-cert-file"]),
        (&[], ["--tls-accept-tos (TLS_ACCEPT_TOS=1)", "--no-auto-tls"]),
    ] {
        let out = line(&scratch, HOST, free_port(), free_port()).args(args).arg("http://127.0.0.1:1").output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), error.lines().count()), (Some(2), 1), "{error}");
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    }
}

#[test]
fn a_host_without_a_public_name_is_served_in_the_clear_and_the_log_says_so() {
    let data = Arc::new(Scratch::new());
    let plain = free_port();
    for (host, args, said) in [
        ("mcp.lan", &[][..], "no public authority certifies 'mcp.lan'"),
        ("192.0.2.1", &[], "--tls-cert-file (TLS_CERT_FILE)"),
        (HOST, &["--no-auto-tls"], "expected to end at a reverse proxy"),
    ] {
        let mut command = line(&data, host, plain, free_port());
        command.args(args).arg("http://127.0.0.1:1");
        let proxy = Proxy::spawn(command, plain, data.clone());
        proxy.has_logged(said);
        let mut connection = proxy.connect();
        connection.write(crate::support::wire::request("GET", METADATA, host, &[], b""));
        assert_eq!(connection.reply(false).unwrap().json()["issuer"], format!("https://{host}"));
    }
}

#[test]
fn an_authority_that_has_had_enough_is_left_alone_for_as_long_as_it_says() {
    let port = Arc::new(std::sync::OnceLock::new());
    let own = port.clone();
    let authority = FakeUpstream::start(move |request, out| {
        let at = |path: &str| format!("http://127.0.0.1:{}/{path}", own.get().unwrap());
        let nonce = "Replay-Nonce: n\r\n";
        match request.target.as_str() {
            "/dir" => {
                let document =
                    serde_json::json!({"newNonce": at("nonce"), "newAccount": at("account"), "newOrder": at("order")});
                text(out, "200 OK", "", &document.to_string());
            }
            // The answer to HEAD has no body.
            "/nonce" => text(out, "200 OK", nonce, ""),
            "/account" => text(out, "201 Created", &format!("{nonce}Location: {}\r\n", at("me")), "{}"),
            _ => {
                let problem =
                    r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"five certificates a week"}"#;
                text(out, "429 Too Many Requests", &format!("{nonce}Retry-After: 7200\r\n"), problem);
            }
        }
    });
    port.set(authority.port).unwrap();
    let data = Arc::new(Scratch::new());
    let (plain, tls) = (free_port(), free_port());
    let directory = format!("http://127.0.0.1:{}/dir", authority.port);
    let mut command = line(&data, HOST, plain, tls);
    command.args(["--tls-accept-tos", "--tls-directory-url", &directory, "http://127.0.0.1:1"]);
    let proxy = Proxy::spawn(command, plain, data);
    proxy.has_logged("no certificate could be obtained");
    let log = proxy.log();
    let told = log.lines().find(|l| l.contains("no certificate could be obtained")).unwrap();
    assert!(told.contains("too many requests") && told.contains("five certificates a week"), "{told}");
    assert!(told.contains("\"retry_in_s\":7200"), "{told}");
    assert_eq!(authority.received().iter().filter(|r| r.target == "/order").count(), 1);
}
