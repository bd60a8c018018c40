//! Certificate files of the user's.

use std::fs;

use super::{HOST, Load, METADATA, with_files};
use crate::support::eventually;
use crate::support::tls::Authority;
use crate::support::tls_client::shown;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

#[test]
fn files_are_taken_up_when_they_change_and_no_request_fails() {
    let authority = Authority::new();
    let proxy = with_files(&authority, FakeUpstream::ok().port, &[]);
    let path = |name: &str| proxy.proxy.data.path(name);
    let first = shown(proxy.port, HOST).unwrap();
    let load = Load::start(proxy.port);

    // Half of a new certificate, then the whole of it without its key, then the key: as a careless script writes them.
    let (chain, key) = authority.certificate(&[HOST]);
    fs::write(path("c.pem"), &chain[..chain.len() / 2]).unwrap();
    proxy.proxy.has_logged("not in PEM form");
    fs::write(path("c.pem"), &chain).unwrap();
    proxy.proxy.has_logged("do not belong together");
    assert_eq!(shown(proxy.port, HOST).unwrap(), first);
    fs::write(path("k.pem"), &key).unwrap();
    eventually("the new certificate is shown", || shown(proxy.port, HOST).unwrap() != first);
    let second = shown(proxy.port, HOST).unwrap();

    // Files that are gone for a moment.
    fs::remove_file(path("c.pem")).unwrap();
    proxy.proxy.has_logged("can't be read");
    assert_eq!(shown(proxy.port, HOST).unwrap(), second);

    // Links that are turned to another directory, as a mounted secret of Kubernetes is.
    let (chain, key) = authority.certificate(&[HOST]);
    fs::write(path("new-c.pem"), chain).unwrap();
    fs::write(path("new-k.pem"), key).unwrap();
    for name in ["c.pem", "k.pem"] {
        let _ = fs::remove_file(path(name));
        std::os::unix::fs::symlink(path(&format!("new-{name}")), path(name)).unwrap();
    }
    eventually("the linked certificate is shown", || shown(proxy.port, HOST).unwrap() != second);

    let (answered, failures) = load.end();
    assert!(failures.is_empty(), "{} of {answered} requests failed, such as: {:?}", failures.len(), failures.first());
    assert!(answered > 100, "{answered}");
    assert!(!proxy.proxy.log().contains("PRIVATE KEY"));
}

#[test]
fn a_pair_that_is_of_no_use_at_the_start_is_refused_in_one_line() {
    let authority = Authority::new();
    let scratch = super::Scratch::new();
    let (chain, key) = authority.certificate(&[HOST]);
    let (_, other) = authority.certificate(&[HOST]);
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (name, text) in
        [("c.pem", chain.as_str()), ("k.pem", &key), ("other.pem", &other), ("empty.pem", ""), ("locked.pem", locked)]
    {
        fs::write(scratch.path(name), text).unwrap();
    }
    for (certificate, key, why) in [
        ("missing.pem", "k.pem", "can't be read"),
        ("c.pem", "missing.pem", "can't be read"),
        ("empty.pem", "k.pem", "no certificate"),
        ("c.pem", "empty.pem", "not in PEM form"),
        ("k.pem", "k.pem", "no certificate"),
        ("c.pem", "other.pem", "do not belong together"),
        ("c.pem", "locked.pem", "protected by a password"),
    ] {
        let mut line = super::line(&scratch, HOST, 0, 0);
        line.args(["--tls-cert-file", &scratch.path(certificate), "--tls-key-file", &scratch.path(key)]);
        let out = line.arg("http://127.0.0.1:1").output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{error}");
        assert!(error.contains(why) && error.contains("--tls-"), "{certificate} {key}: {error}");
    }
}

#[test]
fn a_certificate_that_clients_will_refuse_is_warned_of() {
    let authority = Authority::new();
    let proxy = with_files(&authority, 1, &[]);
    assert!(!proxy.proxy.log().contains("clients will refuse it"));
    let (chain, key) = authority.certificate(&["other.example.com"]);
    fs::write(proxy.proxy.data.path("c.pem"), chain).unwrap();
    fs::write(proxy.proxy.data.path("k.pem"), key).unwrap();
    let data = proxy.proxy.data.clone();
    let (certificate, key) = (data.path("c.pem"), data.path("k.pem"));
    drop(proxy);
    let mut line = super::line(&data, HOST, 0, 0);
    line.args(["--tls-cert-file", &certificate, "--tls-key-file", &key, "http://127.0.0.1:1"]);
    let mut child = line.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("ready:") && std::io::BufRead::read_line(&mut log, &mut text).unwrap() > 0 {}
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(text.contains("is not for the host of --external-url") && text.contains("other.example.com"), "{text}");
}

#[test]
fn strict_transport_comes_with_a_certificate_that_browsers_can_trust_and_with_no_other() {
    let authority = Authority::new();
    let proxy = with_files(&authority, 1, &[]);
    let reply = proxy.send("GET", METADATA, &[], b"");
    assert_eq!(reply.header("strict-transport-security"), Some("max-age=63072000"));
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec![HOST.into()]).unwrap().self_signed(&key).unwrap();
    fs::write(proxy.proxy.data.path("c.pem"), own.pem()).unwrap();
    fs::write(proxy.proxy.data.path("k.pem"), key.serialize_pem()).unwrap();
    proxy.proxy.has_logged("the new certificate is in use");
    assert_eq!(proxy.send("GET", METADATA, &[], b"").header("strict-transport-security"), None);
}
