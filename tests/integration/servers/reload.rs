//! SIGHUP reads the servers file again: all of it, or nothing.

use serde_json::{Value, json};

use super::{authorize, get, granted, http, start, stdio, with, write};
use crate::support::eventually;
use crate::support::flow::{Client, tokens};
use crate::support::proxy::Proxy;
use crate::support::stdio::McpClient;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

/// Changes the file and has the proxy read it; waits for `line` in the log.
fn reload(proxy: &Proxy, servers: &Value, line: &str) {
    write(&proxy.data, servers);
    let count = || proxy.log().matches(line).count();
    let before = count();
    proxy.signal("HUP");
    eventually(&format!("the log has: {line}"), || count() > before);
}

const DONE: &str = "the settings were read again";
const FAULTY: &str = "nothing has changed, since something can't be read again";

#[test]
fn servers_come_go_and_change_while_the_others_go_on() {
    let (files, wiki, other) = (FakeUpstream::ok(), FakeUpstream::ok(), FakeUpstream::ok());
    let proxy = start(&json!({ "files": http(&files), "wiki": http(&wiki), "script": stdio() }), &[]);
    let client = Client::public(&proxy);
    let grant = granted(&proxy, &client, &["/files/mcp", "/wiki/mcp", "/script/mcp"]);
    let mut script = McpClient::new(&proxy, "/script/mcp", grant.access.clone());
    script.initialize();
    let pid = script.result("pid", json!({}));
    let mut stream = script.listen(None);
    assert_eq!(get(&proxy, &grant.access, "/wiki/mcp").status, 200);

    let servers = json!({
        "files": with(http(&files), json!({ "title": "Other title" })), "wiki": http(&other), "script": stdio(), "new": http(&other)
    });
    reload(&proxy, &servers, DONE);
    assert_eq!(get(&proxy, &grant.access, "/wiki/mcp").status, 200);
    assert_eq!((wiki.received().len(), other.received().len()), (1, 1), "it is asked at its new URL");
    let metadata = proxy.send("GET", "/.well-known/oauth-protected-resource/files/mcp", &[], b"").json();
    assert_eq!(metadata["resource_name"], "Other title");
    let new = granted(&proxy, &client, &["/new/mcp"]).access;
    assert_eq!(get(&proxy, &new, "/new/mcp").status, 200);
    assert_eq!(script.result("pid", json!({})), pid, "its process and its session go on");
    script.call("notify", json!({ "method": "notifications/tools/list_changed" }));
    assert!(stream.message().is_some(), "and its stream");

    reload(&proxy, &json!({ "wiki": http(&other), "script": stdio() }), DONE);
    let gone = get(&proxy, &grant.access, "/files/mcp");
    assert_eq!((gone.status, gone.error().as_str()), (404, "not_found"));
    assert!(gone.text().contains("no MCP server is published at /files/mcp"));
    assert_eq!(script.result("pid", json!({})), pid);
    let left = tokens(&client.refresh(&grant.refresh));
    assert_eq!(get(&proxy, &left.access, "/wiki/mcp").status, 200);
    // It comes back, and the authorization is still for it.
    reload(&proxy, &servers, DONE);
    let back = tokens(&client.refresh(&left.refresh));
    assert_eq!(get(&proxy, &back.access, "/files/mcp").status, 200);
}

#[test]
fn a_faulty_file_changes_nothing_and_the_log_says_where() {
    let files = FakeUpstream::ok();
    let proxy = start(&json!({ "files": http(&files), "script": stdio() }), &[]);
    let client = Client::public(&proxy);
    let token = granted(&proxy, &client, &["/files/mcp"]).access;
    for (servers, want) in [
        (
            json!({ "wiki": { "command": "no-such-program" } }),
            "server 'wiki': the MCP server's command 'no-such-program'",
        ),
        (json!({ "wiki": {} }), "mcp.json:1: server 'wiki': there is neither command nor url"),
        (json!({ "wiki": http(&files), "Bad Name": http(&files) }), "'Bad Name' can't be in a URL"),
        (
            json!({ "files": { "url": "http://h", "headers": { "A": "${NOT_SET}" } } }),
            "headers.A: the variable NOT_SET is not set",
        ),
    ] {
        reload(&proxy, &servers, FAULTY);
        assert!(proxy.log().contains(want), "{want}\n{}", proxy.log());
        assert_eq!(get(&proxy, &token, "/files/mcp").status, 200, "{want}");
        assert_eq!(proxy.send("GET", "/wiki/mcp", &[], b"").status, 404);
    }
    std::fs::write(proxy.data.path("mcp.json"), "{ \"mcpServers\": {\n\n x").unwrap();
    proxy.signal("HUP");
    proxy.has_logged("mcp.json:3: this is not JSON");
    use std::os::unix::fs::PermissionsExt;
    write(&proxy.data, &json!({ "wiki": http(&files) }));
    std::fs::set_permissions(proxy.data.path("mcp.json"), PermissionsExt::from_mode(0o666)).unwrap();
    proxy.signal("HUP");
    proxy.has_logged("chmod go-w");
    assert_eq!(get(&proxy, &token, "/files/mcp").status, 200);
}

#[test]
fn a_right_of_root_that_was_given_up_does_not_come_back() {
    let files = FakeUpstream::ok();
    let proxy = start(&json!({ "files": http(&files) }), &[]);
    let servers = json!({ "files": http(&files), "script": stdio() });
    // Nobody but root gives up anything.
    let is_root = rustix::process::geteuid().is_root();
    reload(&proxy, &servers, if is_root { FAULTY } else { DONE });
    assert_eq!(proxy.log().contains("needs a right which was given up at the start"), is_root);
    assert_eq!(proxy.send("GET", "/script/mcp", &[], b"").status, if is_root { 404 } else { 401 });
    assert_eq!(proxy.send("GET", "/files/mcp", &[], b"").status, 401);
}

#[test]
fn changed_rules_end_tokens_streams_and_what_a_refresh_gives() {
    let wiki = FakeUpstream::ok();
    let open = json!({ "script": stdio(), "wiki": http(&wiki) });
    let closed = |rules: Value| json!({ "script": with(stdio(), json!({ "allow": rules })), "wiki": http(&wiki) });
    let proxy = start(&open, &[]);
    let client = Client::public(&proxy);
    let grant = granted(&proxy, &client, &["/script/mcp", "/wiki/mcp"]);
    let mut script = McpClient::new(&proxy, "/script/mcp", grant.access.clone());
    script.initialize();
    let mut stream = script.listen(None);

    // Rules that fit: the token has to be refreshed, and the stream goes on.
    reload(&proxy, &closed(json!({ "providers": ["password"] })), DONE);
    let refused = get(&proxy, &grant.access, "/script/mcp");
    assert!(refused.status == 401 && refused.text().contains("rules have changed"), "{}", refused.text());
    assert_eq!(get(&proxy, &grant.access, "/wiki/mcp").status, 200, "it has no rules");
    let renewed = tokens(&client.refresh(&grant.refresh));
    script.token.clone_from(&renewed.access);
    script.call("notify", json!({ "method": "notifications/tools/list_changed" }));
    assert!(stream.message().is_some());
    // A code from before the rules changed is judged by the rules of now.
    let code = authorize(&proxy, &client, &["/script/mcp"]).remove("code").unwrap();

    // Rules that do not fit: the stream ends, the grant loses this server and keeps the other.
    reload(&proxy, &closed(json!({ "users": [] })), DONE);
    assert!(stream.next().is_none(), "the stream is cut");
    assert_eq!(client.redeem(&code).error(), "invalid_grant");
    let narrowed = tokens(&client.refresh(&renewed.refresh));
    assert_eq!(super::audience(&narrowed.access), json!(format!("{}/wiki/mcp", proxy.origin())));
    assert_eq!(get(&proxy, &narrowed.access, "/wiki/mcp").status, 200);
    for event in [r#""event":"server_withdrawn""#, r#""event":"streams_cut""#, r#""event":"servers_published""#] {
        assert!(proxy.log().contains(event), "{event}: {}", proxy.log());
    }
    // The rules are lifted: what was taken out does not come back by itself.
    reload(&proxy, &open, DONE);
    let later = tokens(&client.refresh(&narrowed.refresh));
    assert_eq!(get(&proxy, &later.access, "/script/mcp").status, 401);
    // Nothing is left: the grant ends.
    let none = json!({ "wiki": with(http(&wiki), json!({ "allow": {} })) });
    reload(&proxy, &none, DONE);
    assert_eq!(client.refresh(&later.refresh).error(), "invalid_grant");
    reload(&proxy, &open, DONE);
    assert_eq!(client.refresh(&later.refresh).error(), "invalid_grant", "it has ended");
}

#[test]
fn requests_of_a_server_that_goes_or_changes_are_answered_and_limits_change_without_a_restart() {
    let proxy = start(&json!({ "one": stdio(), "two": stdio() }), &[]);
    let client = Client::public(&proxy);
    let token = granted(&proxy, &client, &["/one/mcp", "/two/mcp"]).access;
    let mut changes = McpClient::new(&proxy, "/one/mcp", token.clone());
    changes.initialize();
    let mut goes = McpClient::new(&proxy, "/two/mcp", token.clone());
    goes.initialize();
    let pid = changes.result("pid", json!({}));
    let limits = json!({ "stdio": { "idleTimeout": "90s", "spare": 0, "maxChildren": 3 } });
    reload(&proxy, &json!({ "one": with(stdio(), limits), "two": stdio() }), DONE);
    assert_eq!(changes.result("pid", json!({})), pid, "limits need no other process");

    let (mut first, mut second) =
        (changes.stream("sleep", json!({ "seconds": 2 })), goes.stream("sleep", json!({ "seconds": 2 })));
    let mut other = stdio();
    other["env"] = json!({ "ANOTHER": "value" });
    reload(&proxy, &json!({ "one": other }), DONE);
    assert!(proxy.log().contains("\"changed\":\"one\"") && proxy.log().contains("\"removed\":\"two\""));
    for stream in [&mut first, &mut second] {
        let answer = stream.message().unwrap_or_else(|| panic!("{}", proxy.log()));
        assert_eq!(answer["result"]["slept"], true);
    }
    let env = changes.result("environment", json!({}));
    assert_eq!(env["ANOTHER"], "value", "its session goes on with the server as it is now");
}

#[test]
fn nothing_that_a_file_can_be_keeps_later_reloads_away() {
    let files = FakeUpstream::ok();
    let good = json!({ "files": http(&files), "script": stdio() });
    let proxy = start(&good, &[]);
    let path = proxy.data.path("mcp.json");
    let user = json!({ "stdio": { "user": "4294967295:4294967295" } });
    reload(&proxy, &json!({ "script": with(stdio(), user) }), FAULTY);
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let before = proxy.log().matches(FAULTY).count();
    proxy.signal("HUP");
    eventually("a pipe is refused", || proxy.log().matches(FAULTY).count() > before);
    std::fs::remove_file(&path).unwrap();
    let mut changed = good.clone();
    changed["new"] = http(&files);
    reload(&proxy, &changed, DONE);
    assert_eq!(proxy.send("GET", "/new/mcp", &[], b"").status, 401);
}

#[test]
fn a_stream_of_a_server_that_goes_ends() {
    let proxy = start(&json!({ "one": stdio(), "two": stdio() }), &[]);
    let client = Client::public(&proxy);
    let token = granted(&proxy, &client, &["/one/mcp", "/two/mcp"]).access;
    let mut one = McpClient::new(&proxy, "/one/mcp", token.clone());
    one.initialize();
    let pid = one.result("pid", json!({})).as_u64();
    let mut stream = one.listen(None);
    let mut two = McpClient::new(&proxy, "/two/mcp", token);
    two.initialize();
    reload(&proxy, &json!({ "two": stdio() }), DONE);
    assert!(stream.next().is_none());
    if let Some(pid) = pid {
        eventually("its process ends", || !crate::support::stdio::is_running(pid));
    }
    assert!(two.result("pid", json!({})).is_number() || two.result("pid", json!({})).is_object());
    // It comes back, and so does its session, which is in the store.
    reload(&proxy, &json!({ "two": stdio(), "one": stdio() }), DONE);
    assert!(one.result("echo", json!({ "x": 1 })).is_object());
}
