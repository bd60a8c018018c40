//! Certificates from a real authority, as they should come.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use super::{HOST, Load, METADATA, TlsProxy, with_pebble, with_pebble_on};
use crate::support::eventually;
use crate::support::pebble::{Behaviour, EXTERNAL_KEY, EXTERNAL_KID, Pebble};
use crate::support::proxy::{Scratch, free_port};
use crate::support::tls_client::shown;
use crate::support::upstream::{FakeUpstream, text};
use crate::support::wire::Transport;

/// Waits until the authority's certificate is in use.
pub(super) fn obtains(proxy: &TlsProxy) {
    proxy.proxy.has_logged("a certificate was obtained and is in use");
}

/// All files below `directory`.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_certificate_is_obtained_kept_and_not_ordered_anew_after_a_restart() {
    let pebble = Pebble::start(Behaviour::default());
    let data = Arc::new(Scratch::new());
    let proxy = with_pebble(&pebble, &data, &[]);
    proxy.proxy.has_logged("there is no certificate yet");
    obtains(&proxy);
    let facts = shown(proxy.port, HOST).unwrap();
    assert!(facts.names == [HOST] && !facts.is_self_issued, "{facts:?}");
    let reply = proxy.send("GET", METADATA, &[], b"");
    assert_eq!((reply.status, reply.header("strict-transport-security")), (200, Some("max-age=63072000")));
    let kept = files(&data.0.join("data/acme"));
    assert_eq!(kept.len(), 2, "an account and a certificate: {kept:?}");
    for path in &kept {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert!(!proxy.proxy.log().contains("PRIVATE"));
    drop(proxy);

    let proxy = with_pebble(&pebble, &data, &[]);
    assert_eq!(shown(proxy.port, HOST).unwrap(), facts);
    assert!(!proxy.proxy.log().contains("there is no certificate yet"));
    assert_eq!(pebble.issued(), 1);
}

#[test]
fn whichever_way_the_network_lets_through_is_taken() {
    let pebble = Pebble::start(Behaviour::default());
    for (plain, tls, way) in [(pebble.http_port, free_port(), "http-01"), (free_port(), pebble.tls_port, "tls-alpn-01")]
    {
        let proxy = with_pebble_on(&pebble, &Arc::new(Scratch::new()), HOST, plain, tls, &[]);
        obtains(&proxy);
        assert_eq!(proxy.proxy.log().contains("trying the other"), way == "http-01", "{}", proxy.proxy.log());
    }
}

#[test]
fn refused_nonces_are_replaced() {
    let pebble = Pebble::start(Behaviour { refused_nonces: 50, ..Behaviour::default() });
    let proxy = with_pebble(&pebble, &Arc::new(Scratch::new()), &[]);
    obtains(&proxy);
    assert!(!proxy.proxy.log().contains("no certificate could be obtained"), "{}", proxy.proxy.log());
}

#[test]
fn short_lived_certificates_are_renewed_and_no_request_fails() {
    let pebble = Pebble::start(Behaviour { lifetime: 9, refused_nonces: 20, ..Behaviour::default() });
    let proxy = with_pebble(&pebble, &Arc::new(Scratch::new()), &[]);
    obtains(&proxy);
    let load = Load::start(proxy.port);
    eventually("four certificates have been in use", || {
        proxy.proxy.log().matches("a certificate was obtained and is in use").count() >= 4
    });
    let (answered, failures) = load.end();
    assert!(failures.is_empty(), "{} of {answered} requests failed, such as: {:?}", failures.len(), failures.first());
    assert!(answered > 300, "{answered}");
    let facts = shown(proxy.port, HOST).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((facts.not_before..=facts.not_after).contains(&now), "{facts:?} at {now}");
}

#[test]
fn certificates_and_account_survive_a_change_of_host() {
    let pebble = Pebble::start(Behaviour::default());
    let data = Arc::new(Scratch::new());
    let start = |host| {
        let proxy = with_pebble_on(&pebble, &data, host, pebble.http_port, pebble.tls_port, &[]);
        eventually("the host has a certificate", || {
            shown(proxy.port, host).is_some_and(|facts| facts.is_for(host) && !facts.is_self_issued)
        });
        let made_account = proxy.proxy.log().contains("an account was made");
        (shown(proxy.port, host).unwrap(), made_account)
    };
    let (first, made) = start(HOST);
    assert!(made);
    let (_, made) = start("other.example.com");
    assert!(!made, "the account is the same");
    let (again, _) = start(HOST);
    assert_eq!((again, pebble.issued()), (first, 2));
}

#[test]
fn an_account_is_bound_to_another_where_the_authority_wants_it() {
    let pebble = Pebble::start(Behaviour { wants_external_account: true, ..Behaviour::default() });
    let proxy = with_pebble(&pebble, &Arc::new(Scratch::new()), &[]);
    proxy.proxy.has_logged("--acme-eab-kid (ACME_EAB_KID)");
    drop(proxy);
    let key = ["--acme-eab-kid", EXTERNAL_KID, "--acme-eab-hmac-key", EXTERNAL_KEY, "--acme-email", "me@example.com"];
    let proxy = with_pebble(&pebble, &Arc::new(Scratch::new()), &key);
    obtains(&proxy);
    assert!(!proxy.proxy.log().contains(EXTERNAL_KEY));
}

#[test]
fn a_certificate_is_renewed_when_the_authority_says_so() {
    let pebble = Pebble::start(Behaviour::default());
    // The directory of an authority that also tells when to renew: Pebble's, and one entry more.
    let real = pebble.directory();
    let (asked, window) = (std::sync::Mutex::new(String::new()), Arc::new(std::sync::Mutex::new("")));
    let window_told = window.clone();
    let port = Arc::new(std::sync::OnceLock::new());
    let own = port.clone();
    let root = fs::read(pebble.ca_file()).unwrap();
    let stand_in = FakeUpstream::start(move |request, out| {
        if request.target == "/dir" {
            let mut document = fetch(&real, &root);
            document["renewalInfo"] = format!("http://127.0.0.1:{}/renewal", own.get().unwrap()).into();
            return text(out, "200 OK", "", &document.to_string());
        }
        *asked.lock().unwrap() = request.target.clone();
        assert!(request.target.starts_with("/renewal/") && request.target.contains('.'), "{}", request.target);
        text(out, "200 OK", "Retry-After: 60\r\n", *window_told.lock().unwrap());
    });
    port.set(stand_in.port).unwrap();
    *window.lock().unwrap() = r#"{"suggestedWindow":{"start":"2126-01-01T00:00:00Z","end":"2126-01-02T00:00:00Z"}}"#;
    let directory = format!("http://127.0.0.1:{}/dir", stand_in.port);
    let data = Arc::new(Scratch::new());
    let start = || with_pebble(&pebble, &data, &["--tls-directory-url", &directory]);
    let proxy = start();
    obtains(&proxy);
    let first = shown(proxy.port, HOST).unwrap();
    drop(proxy);
    *window.lock().unwrap() = r#"{"suggestedWindow":{"start":"2020-01-01T00:00:00Z","end":"2020-01-02T00:00:00Z"}}"#;
    let proxy = start();
    obtains(&proxy);
    assert_ne!(shown(proxy.port, HOST).unwrap(), first, "it was renewed long before its time");
}

/// A JSON document of Pebble's.
fn fetch(url: &str, root: &[u8]) -> serde_json::Value {
    use mcp_auth_proxy::http::client::{FETCH_TIMEOUT, Fetcher, Proxies, RemoteUrl};
    let file = Scratch::new();
    fs::write(file.path("ca.pem"), root).unwrap();
    let trust = mcp_auth_proxy::net::tls::client_config("", Some(Path::new(&file.path("ca.pem")))).unwrap();
    let answer =
        Fetcher::new(trust, Proxies::default(), FETCH_TIMEOUT).get(&RemoteUrl::parse(url).unwrap(), &[]).unwrap();
    serde_json::from_slice(&answer.body).unwrap()
}
