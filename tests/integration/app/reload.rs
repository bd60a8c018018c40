//! What a reload takes up without a restart (`reload`, SIGHUP), with the variables of a file (`--env-file`).

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use serde_json::json;

use super::audit::Audited;
use crate::support::flow::{Browser, Client, call};
use crate::support::proxy::{PASSWORD, Proxy, Scratch, arguments, command, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

struct Changeable {
    proxy: Proxy,
    file: String,
}

impl Changeable {
    /// A proxy whose password and other variables are in a file.
    fn start(upstream: &FakeUpstream, variables: &str) -> Changeable {
        let (data, port) = (Arc::new(Scratch::new()), free_port());
        let file = data.path("env");
        let mut command = command();
        let shared: Vec<String> = arguments(&data, port);
        let own = shared.iter().position(|word| word == "--password").unwrap();
        write(&file, variables);
        command.args(&shared[..own]).args(["--env-file", &file]).arg(format!("http://127.0.0.1:{}", upstream.port));
        command.env("LOG_LEVEL", "");
        Changeable { proxy: Proxy::spawn(command, port, data), file }
    }

    fn reload(&self, variables: &str) -> Result<String, String> {
        write(&self.file, variables);
        self.proxy.order(&["reload"]).map(|said| said.to_string())
    }
}

fn write(path: &str, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn passwords_limits_and_the_log_level_change_and_what_can_not_is_named() {
    let upstream = FakeUpstream::ok();
    let before = format!("PASSWORD={PASSWORD}\nMAX_CONNECTIONS=100\n");
    let changeable = Changeable::start(&upstream, &before);
    let proxy = &changeable.proxy;
    let client = Client::public(proxy);
    let token = client.tokens().access;
    assert!(!proxy.log().contains(r#""level":"debug""#));
    let said =
        changeable.reload("PASSWORD=another horse\nMAX_CONNECTIONS=200\nLOG_LEVEL=debug\nRATE_LIMIT=1:1\n").unwrap();
    for name in ["--password", "LOG_LEVEL", "--rate-limit", "a restart is needed for --max-connections"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    assert!(!said.contains("another horse"), "{said}");
    assert_eq!(call(proxy, &token).status, 401, "the password has changed");
    assert_eq!(Browser::new(proxy).sign_in(&client.authorize(&[]), PASSWORD).status, 403);
    let reply = Browser::new(proxy).sign_in(&client.authorize(&[]), "another horse");
    let code = crate::support::flow::query(reply.header("location").unwrap()).remove("code").unwrap();
    let token = crate::support::flow::tokens(&client.redeem(&code)).access;
    assert_eq!((call(proxy, &token).status, call(proxy, &token).status), (200, 429));
    proxy.has_logged(r#""level":"debug""#);
    let again = changeable.reload("PASSWORD=another horse\nMAX_CONNECTIONS=200\n").unwrap();
    assert!(again.contains("--rate-limit") && again.contains("a restart is needed for --max-connections"), "{again}");
    assert_eq!(call(proxy, &token).status, 200, "there is no limit any more");
}

#[test]
fn one_mistake_and_nothing_changes() {
    let upstream = FakeUpstream::ok();
    let good = format!("PASSWORD={PASSWORD}\n");
    let changeable = Changeable::start(&upstream, &good);
    let proxy = &changeable.proxy;
    let token = Client::public(proxy).tokens().access;
    for (bad, said) in [
        ("PASSWORD=new\nRATE_LIMIT=many\n", "RATE_LIMIT"),
        ("PASSWORD=new\nRATE_LIMIT=tool=1\n", "--rate-limit (RATE_LIMIT)"),
        ("PASSWORD=new\nNONSENSE=1\n", "line 2: NONSENSE is no variable of this program"),
        ("RATE_LIMIT=1:1\n", "nobody could sign in any more"),
        ("PASSWORD=new\nHTPASSWD_FILE=/nowhere\n", "/nowhere"),
        ("PASSWORD=new\nTRUSTED_ISSUERS=/nowhere\n", "/nowhere"),
        ("PASSWORD=new\nPASSWORD_HASH=x\n", "--password-hash (PASSWORD_HASH)"),
    ] {
        let refused = changeable.reload(bad).unwrap_err();
        assert!(refused.contains(said), "{bad}: {refused}");
        assert_eq!((call(proxy, &token).status, call(proxy, &token).status), (200, 200), "{bad}");
    }
    proxy.has_logged(r#""event":"reload_failed""#);
    std::fs::set_permissions(&changeable.file, PermissionsExt::from_mode(0o622)).unwrap();
    let refused = proxy.order(&["reload"]).unwrap_err();
    assert!(refused.contains("can be changed by other users"), "{refused}");
    std::fs::remove_file(&changeable.file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&changeable.file).status().unwrap().success());
    let refused = proxy.order(&["reload"]).unwrap_err();
    assert!(refused.contains("is no regular file"), "{refused}");
    std::fs::remove_file(&changeable.file).unwrap();
    let refused = proxy.order(&["reload"]).unwrap_err();
    assert!(refused.contains("--env-file (ENV_FILE)"), "{refused}");
    changeable.reload(&good).unwrap();
    assert_eq!(call(proxy, &token).status, 200);
}

#[test]
fn a_reload_is_an_event_that_names_what_changed() {
    let upstream = FakeUpstream::ok();
    let audited = Audited::start(&upstream, &[]);
    audited.proxy.signal("HUP");
    audited.has("reloaded", json!({}));
    assert_eq!(audited.proxy.send("GET", "/.idp/healthz", &[], b"").status, 200);
}
