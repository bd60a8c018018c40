//! Back-up, restore, and data directories of other versions.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_proxy::store::FORMAT;
use serde_json::json;

use super::audit::Audited;
use crate::support::flow::{Client, call, tokens};
use crate::support::proxy::{Proxy, Scratch, arguments, command, free_port};
use crate::support::random::Random;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

/// Runs the program; what it says, or why it failed.
fn run(words: &[&str]) -> Result<String, String> {
    let done = command().args(words).output().unwrap();
    match done.status.success() {
        true => Ok(String::from_utf8(done.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

#[test]
fn what_is_restored_goes_on_where_the_back_up_was_made() {
    let upstream = FakeUpstream::ok();
    let audited = Audited::start(&upstream, &["--api-keys", "--identity-assertion"]);
    let proxy = &audited.proxy;
    let client = Client::public(proxy);
    let grant = tokens(&client.refresh(&client.tokens().refresh));
    let key = proxy.order(&["keys", "add", "script"]).unwrap()["key"].as_str().unwrap().to_string();
    let (data, copy) = (proxy.data.path("data"), proxy.data.path("copy"));
    std::fs::create_dir_all(format!("{data}/acme/authority")).unwrap();
    std::fs::write(format!("{data}/acme/authority/localhost.pem"), "a certificate").unwrap();
    let said = run(&["backup", &copy, "--data-path", &data]).unwrap();
    assert!(said.contains("it has all keys in it"), "{said}");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let size = std::fs::metadata(&copy).unwrap().len();
    audited.has("operator_backup", json!({"bytes": size}));
    assert_eq!(call(proxy, &grant.access).status, 200, "it went on serving");
    assert!(run(&["backup", "-", "--data-path", &data]).unwrap().starts_with(r#"{"backup":"#));
    assert!(
        run(&["backup", "/nowhere/at/all", "--data-path", &data])
            .unwrap_err()
            .contains("/nowhere/at/all can't be written")
    );
    // What is no file is not replaced by one, and no file is written that somebody has put there.
    let (pipe, link) = (proxy.data.path("pipe"), proxy.data.path("link"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink(&copy, &link).unwrap();
    for target in [&pipe, &link] {
        let refused = run(&["backup", target, "--data-path", &data]).unwrap_err();
        assert!(refused.contains("is no regular file"), "{refused}");
    }
    let names = std::fs::read_dir(&proxy.data.0).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().ends_with(".new")), "nothing is left behind");
    let refused = run(&["restore", &copy, "--data-path", &data]).unwrap_err();
    assert!(refused.contains("is not empty"), "{refused}");

    // Another machine, with the same name.
    let (other, port) = (Arc::new(Scratch::new()), proxy.port);
    let (id, redirect) = (client.id.clone(), client.redirect.clone());
    let said = run(&["restore", &copy, "--data-path", &other.path("data")]).unwrap();
    assert!(said.starts_with("restored "), "{said}");
    for name in ["", "/secret", "/assertion-key", "/state.redb", "/acme", "/acme/authority/localhost.pem"] {
        let mode = std::fs::metadata(other.path("data") + name).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    let keys = |directory: &str| std::fs::read(format!("{directory}/assertion-key")).unwrap();
    assert_eq!(keys(&data), keys(&other.path("data")));
    drop(audited);
    let restored = Proxy::start_in(other, port, upstream.port, &["--api-keys", "--identity-assertion"]);
    assert_eq!((call(&restored, &grant.access).status, call(&restored, &key).status), (200, 200));
    let client = Client { id, secret: None, redirect, transport: &restored };
    assert_eq!(call(&restored, &tokens(&client.refresh(&grant.refresh)).access).status, 200);
}

#[test]
fn a_restore_that_is_killed_is_refused_by_the_proxy_and_can_be_repeated() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let token = Client::public(&proxy).tokens().access;
    let (data, copy, port) = (proxy.data.path("data"), proxy.data.path("copy"), proxy.port);
    run(&["backup", &copy, "--data-path", &data]).unwrap();
    let scratch = proxy.data.clone();
    drop(proxy);
    let mut random = Random::new(18);
    let (mut whole, mut broken) = (0, 0);
    for round in 0..40 {
        let other = Arc::new(Scratch::new());
        let target = other.path("data");
        let mut restore = command();
        restore.args(["restore", &copy, "--data-path", &target]).stdout(Stdio::null());
        let mut child = restore.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(30_000)));
        let _ = child.kill();
        child.wait().unwrap();
        let mut serve = command();
        serve.args(arguments(&other, free_port())).arg("http://127.0.0.1:1");
        if std::path::Path::new(&target).join("restoring").exists() {
            broken += 1;
            let done = serve.output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            let again = "run 'mcp-auth-proxy restore' with the back-up again";
            assert!(!done.status.success() && said.contains(again), "{said}");
        } else if std::path::Path::new(&target).join("state.redb").exists() {
            whole += 1;
        }
        // Only a directory with something whole in it is left alone.
        let again = run(&["restore", &copy, "--data-path", &target]);
        assert!(again.is_ok() || again.unwrap_err().contains("is not empty"), "{round}");
        if round % 10 == 0 {
            let restored = Proxy::start_in(other, port, upstream.port, &[]);
            assert_eq!(call(&restored, &token).status, 200);
        }
    }
    assert!(whole + broken > 0, "no attempt got anywhere");
    // The command that looks before a start says so, too.
    let left = Scratch::new();
    std::fs::create_dir(left.path("data")).unwrap();
    std::fs::set_permissions(left.path("data"), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(left.path("data/restoring"), "").unwrap();
    let mut check = command();
    check.arg("check").args(arguments(&left, free_port())).arg("http://127.0.0.1:1");
    let done = check.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.code() == Some(2) && said.contains("a restore into"), "{said}");
    drop(scratch);
}

#[test]
fn what_is_no_back_up_is_refused_and_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let (file, target) = (scratch.path("file"), scratch.path("data"));
    for text in
        ["", "{}", "hello\n", "{\"backup\":{\"version\":1,\"store_format\":1,\"created_at\":1,\"program\":\"x\"}}\n"]
    {
        std::fs::write(&file, text).unwrap();
        let refused = run(&["restore", &file, "--data-path", &target]).unwrap_err();
        assert!(refused.contains(&file), "{refused}");
        assert!(!std::path::Path::new(&target).exists());
    }
    assert!(run(&["restore", "/nowhere", "--data-path", &target]).unwrap_err().contains("/nowhere can't be read"));
    assert!(run(&["backup", &file, "--data-path", &target]).unwrap_err().contains("no proxy is running"));
    assert!(run(&["backup"]).unwrap_err().contains("mcp-auth-proxy backup --help"));
}

#[test]
fn what_a_newer_version_has_written_is_refused_with_a_sentence() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let data = proxy.data.clone();
    drop(proxy);
    const ABOUT: redb::TableDefinition<'static, &'static str, u64> = redb::TableDefinition::new("about");
    {
        let database = redb::Database::open(data.path("data/state.redb")).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(ABOUT).unwrap().insert("format", FORMAT + 1).unwrap();
        write.commit().unwrap();
    }
    let mut serve = command();
    let done = serve.args(arguments(&data, free_port())).arg("http://127.0.0.1:1").output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        !done.status.success() && said.contains("was written by a newer version (format 2, this version knows 1)"),
        "{said}"
    );
}

/// Copies of data directories, as each version left them, with the tokens that were good then.
#[test]
fn the_data_directory_of_each_version_is_opened() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let mut versions = 0;
    for entry in std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()) {
        if !entry.file_name().unwrap().to_str().unwrap().starts_with("data-") {
            continue;
        }
        versions += 1;
        let about: serde_json::Value =
            serde_json::from_slice(&std::fs::read(entry.join("about.json")).unwrap()).unwrap();
        let (data, text) = (Arc::new(Scratch::new()), |name: &str| about[name].as_str().unwrap().to_string());
        let copied = Command::new("cp").args(["-r", entry.join("data").to_str().unwrap(), &data.path("data")]).status();
        assert!(copied.unwrap().success());
        let closed = Command::new("chmod").args(["-R", "go=", &data.path("data")]).status();
        assert!(closed.unwrap().success());
        let (upstream, port) = (FakeUpstream::ok(), free_port());
        let mut old = command();
        let mut arguments = arguments(&data, port);
        let url = arguments.iter().position(|word| word == "--external-url").unwrap() + 1;
        arguments[url] = text("external_url");
        old.args(&arguments).args(["--api-keys"]).arg(format!("http://127.0.0.1:{}", upstream.port));
        let proxy = Proxy::spawn(old, port, data);
        assert_eq!(call(&proxy, &text("api_key")).status, 200, "{}", entry.display());
        let client = Client { id: text("client_id"), secret: None, redirect: text("redirect_uri"), transport: &proxy };
        let refreshed = tokens(&client.refresh(&text("refresh_token")));
        assert_eq!(call(&proxy, &refreshed.access).status, 200, "{}", entry.display());
    }
    assert!(versions > 0, "there is no fixture");
}

/// Makes the fixture of this version: `MAKE_FIXTURE=1 cargo test --test integration make_the_fixture`.
#[test]
fn make_the_fixture_of_this_version() {
    let folder = format!("{}/tests/fixtures/data-{}", env!("CARGO_MANIFEST_DIR"), env!("CARGO_PKG_VERSION"));
    if std::env::var_os("MAKE_FIXTURE").is_none() {
        assert!(std::path::Path::new(&folder).is_dir(), "this version has no fixture: {folder}");
        return;
    }
    let long = ["--refresh-token-idle-lifetime", "3650d", "--refresh-token-lifetime", "3650d", "--api-keys"];
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &long);
    let client = Client::public(&proxy);
    let refresh = client.tokens().refresh;
    let key = proxy.order(&["keys", "add", "fixture", "--expires", "3650d"]).unwrap();
    let about = json!({
        "external_url": proxy.origin(), "client_id": client.id, "redirect_uri": client.redirect,
        "refresh_token": refresh, "api_key": key["key"],
    });
    let data = proxy.data.clone();
    drop(proxy);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(format!("{folder}/data")).unwrap();
    for name in ["secret", "state.redb"] {
        std::fs::copy(data.path(&format!("data/{name}")), format!("{folder}/data/{name}")).unwrap();
    }
    std::fs::write(format!("{folder}/about.json"), serde_json::to_string_pretty(&about).unwrap() + "\n").unwrap();
}
