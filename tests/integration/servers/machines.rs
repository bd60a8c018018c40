//! Machines, API keys, resource servers and assertions before several servers: each stays where it belongs.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{get, http, start, start_in, with};
use crate::support::flow::{FORM, encode};
use crate::support::idp::FakeOidc;
use crate::support::proxy::{Proxy, Scratch, free_port};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport};

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn token(proxy: &Proxy, pairs: &[(&str, &str)]) -> Reply {
    proxy.send("POST", "/.idp/token", &[FORM], encode(pairs).as_bytes())
}

fn access(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["access_token"].as_str().unwrap().to_string()
}

/// The statuses at `/files/mcp`, `/wiki/mcp` and `/closed/mcp`.
fn reaches(proxy: &Proxy, token: &str) -> [u16; 3] {
    ["/files/mcp", "/wiki/mcp", "/closed/mcp"].map(|path| get(proxy, token, path).status)
}

fn servers(upstream: &FakeUpstream) -> Value {
    json!({
        "files": http(upstream), "wiki": http(upstream),
        "closed": with(http(upstream), json!({"allow": {"users": ["client:chosen", "key:chosen"]}})),
    })
}

#[test]
fn machines_keys_and_askers_stay_at_their_servers() {
    let upstream = FakeUpstream::ok();
    let proxy = start(&servers(&upstream), &["--api-keys"]);
    let secret = |words: &[&str]| proxy.order(words).unwrap()["client_secret"].as_str().unwrap().to_string();
    let (bound, free, chosen) = (
        secret(&["clients", "add", "bound", "--server", "files"]),
        secret(&["clients", "add", "free"]),
        secret(&["clients", "add", "chosen"]),
    );
    let get_token = |id: &str, secret: &str, resource: Option<&str>| {
        let url = resource.map(|path| format!("{}{path}", proxy.origin()));
        let mut pairs = vec![("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        pairs.extend(url.as_deref().map(|url| ("resource", url)));
        token(&proxy, &pairs)
    };
    assert_eq!(reaches(&proxy, &access(&get_token("bound", &bound, None))), [200, 401, 401]);
    assert_eq!(
        reaches(&proxy, &access(&get_token("free", &free, None))),
        [200, 200, 401],
        "rules of a server count for machines"
    );
    assert_eq!(reaches(&proxy, &access(&get_token("chosen", &chosen, None))), [200, 200, 200]);
    assert_eq!(reaches(&proxy, &access(&get_token("chosen", &chosen, Some("/closed/mcp")))), [401, 401, 200]);
    for resource in ["/wiki/mcp", "/closed/mcp", "/files", "/", "/files/mcp/", "/FILES/mcp", "/files/mcp?x"] {
        assert_eq!(get_token("bound", &bound, Some(resource)).error(), "invalid_target", "{resource}");
    }
    assert_eq!(get_token("free", &free, Some("/closed/mcp")).error(), "invalid_target");

    let key = |words: &[&str]| proxy.order(words).unwrap()["key"].as_str().unwrap().to_string();
    assert_eq!(reaches(&proxy, &key(&["keys", "add", "bound", "--server", "files"])), [200, 401, 401]);
    assert_eq!(reaches(&proxy, &key(&["keys", "add", "free"])), [200, 200, 401]);
    assert_eq!(reaches(&proxy, &key(&["keys", "add", "chosen"])), [200, 200, 200]);
    assert!(proxy.order(&["keys", "add", "other", "--server", "nowhere"]).unwrap_err().contains("no server 'nowhere'"));

    // A resource server is told of tokens for itself only.
    let asker = secret(&["clients", "add", "wiki-server", "--introspect", "--server", "wiki"]);
    let ask = |token: &str| {
        let pairs = [("client_id", "wiki-server"), ("client_secret", asker.as_str()), ("token", token)];
        proxy.send("POST", "/.idp/introspect", &[FORM], encode(&pairs).as_bytes()).json()["active"] == true
    };
    assert!(ask(&access(&get_token("free", &free, Some("/wiki/mcp")))));
    assert!(!ask(&access(&get_token("free", &free, Some("/files/mcp")))));
}

#[test]
fn a_server_is_named_by_its_name_and_not_by_its_path() {
    let (one, two) = (FakeUpstream::ok(), FakeUpstream::ok());
    let file =
        json!({"files": with(http(&one), json!({"path": "wiki"})), "wiki": with(http(&two), json!({"path": "files"}))});
    let proxy = start(&file, &["--api-keys"]);
    let key =
        proxy.order(&["keys", "add", "script", "--server", "files"]).unwrap()["key"].as_str().unwrap().to_string();
    let reached = ["/files/mcp", "/wiki/mcp"].map(|path| get(&proxy, &key, path).status);
    assert_eq!(reached, [401, 200], "the server 'files' is at /wiki/mcp");
    let made = proxy.order(&["clients", "add", "robot", "--server", "files"]).unwrap();
    let secret = made["client_secret"].as_str().unwrap();
    let form = [("grant_type", "client_credentials"), ("client_id", "robot"), ("client_secret", secret)];
    let token = access(&token(&proxy, &form));
    assert_eq!(["/files/mcp", "/wiki/mcp"].map(|path| get(&proxy, &token, path).status), [401, 200]);
    assert_eq!(one.last().header("x-forwarded-user"), Some("client:robot"));
}

#[test]
fn rules_on_claims_and_rules_of_servers_both_have_to_fit() {
    let (upstream, issuer) = (FakeUpstream::ok(), FakeOidc::start(now));
    let data = std::sync::Arc::new(Scratch::new());
    let issuers = json!({"issuers": {"ci": {"issuer": issuer.issuer(), "kinds": ["workload"], "claims": {"id": "/repository"},
        "rules": [{"claims": {"sub": "repo:a/*"}, "servers": ["files", "closed"]}, {"claims": {"sub": "repo:b/*"}}]}}});
    let file = data.path("issuers.json");
    std::fs::write(&file, issuers.to_string()).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let mut servers = servers(&upstream);
    servers["closed"]["proxy"]["allow"] = json!({"users": ["ci:b/app"]});
    let proxy = start_in(data, free_port(), &servers, &["--trusted-issuers", &file]);
    let exchange = |sub: &str, repository: &str| {
        let claims = json!({"iss": issuer.issuer(), "sub": sub, "repository": repository, "aud": proxy.origin(), "exp": now() + 60});
        let assertion = issuer.state().sign(json!({"alg": "ES256"}), &claims);
        token(&proxy, &[("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)])
    };
    assert_eq!(reaches(&proxy, &access(&exchange("repo:a/app", "a/app"))), [200, 401, 401]);
    assert_eq!(reaches(&proxy, &access(&exchange("repo:b/app", "b/app"))), [200, 200, 200]);
    assert_eq!(reaches(&proxy, &access(&exchange("repo:b/app", "b/other"))), [200, 200, 401]);
    assert_eq!(exchange("repo:c/app", "b/app").error(), "invalid_target");
    // A server's rules change: its tokens are refused, and those of the others are not.
    let token = access(&exchange("repo:b/app", "b/app"));
    servers["closed"]["proxy"]["allow"] = json!({"users": ["ci:b/other"]});
    super::write(&proxy.data, &servers);
    proxy.order(&["reload"]).unwrap();
    assert_eq!(reaches(&proxy, &token), [200, 200, 401]);
}
