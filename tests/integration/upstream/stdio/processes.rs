//! Children as processes: how they start, what they may do, and that they end.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use mcp_auth_proxy::flags::FLAGS;
use mcp_auth_proxy::tokens::Secret;
use serde_json::json;

use crate::support::eventually;
use crate::support::proxy::{self, PASSWORD, Proxy, Scratch, arguments, command, free_port};
use crate::support::stdio::{McpClient, Published, is_running, servers};

/// A user that every system has: nobody, by number, since the name of its group differs.
const NOBODY: &str = "65534:65534";

fn pid(client: &mut McpClient<'_>) -> u64 {
    client.result("pid", json!({}))["pid"].as_u64().unwrap()
}

#[test]
fn a_session_that_ends_takes_its_child_and_grandchildren_along() {
    let published = Published::start(&["--stdio-spare", "0"], &[("CHILD_STUBBORN", "1")]);
    let mut client = published.client();
    client.initialize();
    let child = pid(&mut client);
    let grandchild = client.result("grandchild", json!({}))["pid"].as_u64().unwrap();
    assert!(is_running(child) && is_running(grandchild));
    assert_eq!(client.send("DELETE", &[], b"").status, 200);
    // Closing its stdin and SIGTERM do not move it; SIGKILL does.
    eventually("both have ended", || !is_running(child) && !is_running(grandchild));
}

#[test]
fn nothing_outlives_a_proxy_that_was_killed() {
    let mut published = Published::start(&[], &[("CHILD_STUBBORN", "1")]);
    let mut client = published.client();
    client.initialize();
    let child = pid(&mut client);
    let grandchild = client.result("grandchild", json!({}))["pid"].as_u64().unwrap();
    let spare_and_all = children_of(published.proxy.pid().into());
    assert!(spare_and_all.len() >= 2, "supervisors of a child and its spares: {spare_and_all:?}");
    published.proxy.signal("KILL");
    published.proxy.wait();
    eventually("all have ended", || {
        !is_running(child) && !is_running(grandchild) && spare_and_all.iter().all(|p| !is_running(*p))
    });
}

#[test]
fn nothing_outlives_a_proxy_that_was_stopped() {
    let mut published = Published::start(&[], &[]);
    let mut client = published.client();
    client.initialize();
    let grandchild = client.result("grandchild", json!({}))["pid"].as_u64().unwrap();
    let all = children_of(published.proxy.pid().into());
    published.proxy.signal("TERM");
    assert!(published.proxy.wait().success());
    eventually("all have ended", || !is_running(grandchild) && all.iter().all(|p| !is_running(*p)));
}

#[test]
fn nothing_escapes_the_end_of_its_session() {
    let data = Scratch::new();
    let marker = data.path("");
    let published = Published::start(&["--stdio-spare", "0"], &[("CHILD_STUBBORN", "1"), ("MARKER", &marker)]);
    let mut other = published.client_of("other", "c");
    other.initialize();
    for restless in [false, true] {
        let mut client = published.client();
        client.initialize();
        let child = pid(&mut client);
        let escaped = client.result("escape", json!({"restless": restless}))["pid"].as_u64().unwrap();
        assert!(restless || is_running(escaped));
        eventually("it is at large", || servers(&marker).len() > 2);
        assert_eq!(client.send("DELETE", &[], b"").status, 200);
        eventually("the child has ended", || !is_running(child));
        let other = pid(&mut other);
        eventually("nothing is at large", || servers(&marker) == [other]);
    }
}

#[test]
fn nothing_escapes_a_proxy_that_was_killed() {
    let data = Scratch::new();
    let marker = data.path("");
    let mut published = Published::start(&[], &[("CHILD_STUBBORN", "1"), ("MARKER", &marker)]);
    let mut client = published.client();
    client.initialize();
    let escaped = client.result("escape", json!({}))["pid"].as_u64().unwrap();
    assert!(is_running(escaped));
    published.proxy.signal("KILL");
    published.proxy.wait();
    eventually("all have ended", || servers(&marker).is_empty());
}

#[test]
fn a_server_does_not_outlive_a_supervisor_that_was_killed() {
    let published = Published::start(&["--stdio-spare", "0"], &[("CHILD_STUBBORN", "1")]);
    let mut client = published.client();
    client.initialize();
    let first = pid(&mut client);
    let grandchild = client.result("grandchild", json!({}))["pid"].as_u64().unwrap();
    let supervisor = client.result("whoami", json!({}))["parent"].as_u64().unwrap();
    let line = std::fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
    assert!(line.contains("stdio-supervisor"), "{line}");
    assert!(Command::new("kill").args(["-9", &supervisor.to_string()]).status().unwrap().success());
    eventually("both have ended", || !is_running(first) && !is_running(grandchild));
    assert_ne!(pid(&mut client), first);
    // Under another user it can't even do that.
    let published = Published::start(&["--stdio-user", NOBODY], &[]);
    let mut client = published.client();
    client.initialize();
    let supervisor = client.result("whoami", json!({}))["parent"].clone();
    for target in [supervisor, json!(published.proxy.pid())] {
        let answer = client.call("kill", json!({"pid": target}));
        assert!(answer["error"]["message"].as_str().unwrap().contains("not permitted"), "{answer}");
    }
}

#[test]
fn the_environment_has_nothing_of_the_proxys_own() {
    let secrets = Scratch::new();
    std::fs::write(secrets.path("token"), "a-file-secret").unwrap();
    let mut env: Vec<(String, String)> = FLAGS
        .iter()
        .filter(|f| !f.secret && !f.default.is_empty() && !matches!(f.env, "LISTEN" | "EXTERNAL_URL" | "DATA_PATH"))
        .map(|f| (f.env.to_string(), f.default.to_string()))
        .collect();
    env.push(("PROXY_BEARER_TOKEN_FILE".into(), secrets.path("token")));
    env.push(("PASSWORD_HASH".into(), bcrypt::hash("another", 4).unwrap()));
    env.extend(
        [
            ("MCP_AUTH_USER", "forged"),
            ("MCP_AUTH_EMAIL", "forged"),
            ("KEPT", "yes"),
            ("HTTPS_PROXY", "http://operator:proxy-secret@127.0.0.1:1"),
            ("all_proxy", "operator:proxy-secret@127.0.0.1:1/"),
            ("HTTP_PROXY", "http://127.0.0.1:1/@"),
            ("no_proxy", "example.com,@"),
        ]
        .map(|(a, b)| (a.into(), b.into())),
    );
    let env: Vec<(&str, &str)> = env.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let published = Published::start(&[], &env);
    let mut client = published.client_of("alice", "client id");
    client.initialize();
    let seen = client.result("environment", json!({}));
    for flag in FLAGS {
        let file = format!("{}_FILE", flag.env);
        assert!(seen.get(flag.env).is_none() && seen.get(&file).is_none(), "{}", flag.env);
    }
    assert_eq!(
        (&seen["KEPT"], &seen["MCP_AUTH_USER"], &seen["MCP_AUTH_CLIENT"]),
        (&json!("yes"), &json!("alice"), &json!("client id"))
    );
    assert!(seen.get("MCP_AUTH_EMAIL").is_none(), "{seen}");
    // A proxy on the way out is told of, but for one whose password is the operator's.
    assert_eq!((&seen["HTTP_PROXY"], &seen["no_proxy"]), (&json!("http://127.0.0.1:1/@"), &json!("example.com,@")));
    assert!(seen.get("HTTPS_PROXY").is_none() && seen.get("all_proxy").is_none(), "{seen}");
    published.proxy.has_logged("a proxy variable with a password is not passed on");
    let all = seen.to_string();
    assert!(!all.contains("proxy-secret") && !published.proxy.log().contains("proxy-secret"), "{all}");
    assert!(!all.contains(PASSWORD) && !all.contains("a-file-secret") && !all.contains("$2b$"), "{all}");
}

/// Tests that change the user are for root, as which CI runs.
#[test]
fn a_child_under_another_user_can_not_read_what_signs_its_tokens() {
    let published = Published::start_without_secret(&["--stdio-user", NOBODY]);
    let mut client = published.client();
    client.initialize();
    let who = client.result("whoami", json!({}));
    assert_eq!((&who["uid"], &who["gid"]), (&json!(65534), &json!(65534)));
    let data = published.proxy.data.path("data");
    let proxy = published.proxy.pid();
    for path in [
        format!("{data}/secret"),
        format!("{data}/state.redb"),
        format!("/proc/{proxy}/environ"),
        format!("/proc/{proxy}/mem"),
        format!("/proc/{proxy}/fd/0"),
        format!("/proc/{}/environ", who["parent"]),
    ] {
        let answer = client.call("read", json!({"path": path}));
        let refused = answer["error"]["message"].as_str().is_some_and(|m| m.contains("Permission denied"));
        assert!(refused, "{path}: {answer}");
    }
    // The test itself could: there is something to be read.
    assert!(std::fs::read(format!("{data}/secret")).is_ok_and(|s| !s.is_empty()));
    // What it can do it does as itself.
    assert!(client.result("read", json!({"path": "/proc/self/environ"}))["content"].as_str().is_some());
    assert!(!published.proxy.log().contains("runs as the same user"));
}

#[test]
fn a_user_without_an_entry_has_a_home_that_nobody_else_can_write_to() {
    let published = Published::start(&["--stdio-user", "4711:4711"], &[]);
    let mut client = published.client();
    client.initialize();
    let home = client.result("environment", json!({}))["HOME"].as_str().unwrap().to_string();
    let found = std::fs::metadata(&home).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (4711, 4711, 0o700), "{home}");
    // The next start finds it again, and what the server has put there.
    let published = published.restart("TERM");
    let mut client = published.client();
    client.initialize();
    assert_eq!(client.result("environment", json!({}))["HOME"], home.as_str());
}

#[test]
fn without_another_user_the_log_warns() {
    let published = Published::start(&[], &[]);
    published.proxy.has_logged("--stdio-user (STDIO_USER)");
    let error = refusal(&["--stdio-user", "no-such-user", "--", "sh"]);
    assert!(error.contains("--stdio-user (STDIO_USER)") && error.contains("no-such-user"), "{error}");
    let same = Published::start(&["--stdio-user", "root"], &[]);
    same.proxy.has_logged("--stdio-user (STDIO_USER)");
    let error = refusal(&["--stdio-user", "0:0", "--", "sh"]);
    assert!(error.contains("must not be root"), "{error}");
}

#[test]
fn limits_are_taken_on() {
    let published = Published::start(&["--stdio-nice", "7", "--stdio-memory", "1GiB"], &[]);
    let mut client = published.client();
    client.initialize();
    assert_eq!(client.result("whoami", json!({}))["nice"], 7);
    let limits = client.result("limits", json!({}));
    assert_eq!(limits["data"], 1 << 30);
    // The proxy has raised its own limit of open files; the server gets the one that it would have without it.
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap();
    assert_eq!(limits["files"], own);
}

#[test]
fn a_command_that_is_not_there_is_refused_at_start() {
    for command in ["no-such-program", "/no/such/program", "/etc/passwd"] {
        let error = refusal(&["--", command]);
        assert!(error.contains(command) && error.lines().count() == 1, "{error}");
    }
}

/// What a proxy says that does not start.
fn refusal(args: &[&str]) -> String {
    let data = Scratch::new();
    let output = command()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(arguments(&data, free_port()))
        .args(args)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().filter(|l| l.starts_with("mcp-auth-proxy: ")).collect()
}

#[test]
fn a_child_that_does_not_read_costs_itself_only() {
    let published = Published::start(&["--stdio-buffer", "256KiB"], &[]);
    let (mut deaf, mut other) = (published.client(), published.client());
    deaf.initialize();
    other.initialize();
    deaf.result("deaf", json!({}));
    let text = "x".repeat(100_000);
    let mut streams = Vec::new();
    eventually("the inbox is full", || {
        let mut stream = deaf.stream("echo", json!({"text": text}));
        streams.push(stream.head.status);
        // An answer that comes at once is the one that says no.
        stream
            .is_answered()
            .is_some_and(|m| m["error"]["message"].as_str().is_some_and(|m| m.contains("does not read")))
    });
    assert!(streams.len() < 10, "{streams:?}");
    assert_eq!(other.result("echo", json!({"x": 1}))["x"], 1);
}

#[test]
fn a_server_that_never_stops_talking_costs_no_memory_and_can_be_ended() {
    for command in ["exec yes >&2", "exec yes"] {
        let (data, port) = (Arc::new(Scratch::new()), free_port());
        let mut command_line = proxy::command();
        command_line.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LOG_LEVEL", "error");
        command_line.args(arguments(&data, port)).args(["--", "sh", "-c", command]);
        let mut proxy = Proxy::spawn(command_line, port, data);
        let pid = u64::from(proxy.pid());
        eventually("it talks", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Ticks of CPU time that the proxy has spent on listening.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            fields.get(11).and_then(|t| t.parse::<u64>().ok()).is_some_and(|ticks| ticks > 50)
        });
        let usage = crate::support::usage::usage(proxy.pid());
        assert!(usage.peak < 64 << 20, "{command}: {usage:?}");
        let all = children_of(pid);
        proxy.signal("TERM");
        assert!(proxy.wait().success(), "{command}");
        eventually("nothing is left", || all.iter().all(|pid| !is_running(*pid)));
    }
}

#[test]
fn a_server_that_closes_its_stdout_is_replaced() {
    let published = Published::start(&["--stdio-spare", "0"], &[]);
    let mut client = published.client();
    client.initialize();
    let before = pid(&mut client);
    let answer = client.call("close stdout", json!({}));
    assert!(answer["error"]["message"].as_str().unwrap().contains("ended while"), "{answer}");
    assert_ne!(pid(&mut client), before);
}

#[test]
fn the_first_process_of_a_container_keeps_its_secrets() {
    // Under a user without rights, as in a container: what lies in the environment of the first process is the proxy's.
    let (data, port) = (Arc::new(Scratch::new()), free_port());
    let owner = Command::new("chown").args(["-R", "65534:65534", &data.path("")]).status().unwrap();
    assert!(owner.success());
    let binary = data.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_mcp-auth-proxy"), &binary).unwrap();
    let script = "cat /proc/$PPID/environ /proc/*/environ 2>/dev/null | tr '\\0' '\\n' >&2; exec cat >/dev/null";
    let mut init = Command::new("setpriv");
    init.args(["--reuid=65534", "--regid=65534", "--clear-groups", &binary, "stdio-init"]).env_clear();
    init.env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("AUTH_HMAC_SECRET", Secret::generate().to_base64());
    init.env("LISTED", "yes").args(arguments(&data, port)).args(["--", "sh", "-c", script]);
    init.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let mut proxy = Proxy::spawn(init, port, data);
    // It could read its own.
    proxy.has_logged("LISTED=yes");
    assert!(!proxy.log().contains("AUTH_HMAC_SECRET="), "{}", proxy.log());
    proxy.signal("TERM");
    proxy.wait();
}

#[test]
fn the_first_process_of_a_container_passes_signals_on_and_buries_orphans() {
    let (data, port) = (Arc::new(Scratch::new()), free_port());
    let mut init = command();
    init.env("PATH", std::env::var_os("PATH").unwrap_or_default()).arg("stdio-init").args(arguments(&data, port));
    // A grandchild whose parent ends at once becomes the first process's.
    init.args(["--", "sh", "-c", "setsid sh -c 'sleep 0.2' & exec cat >/dev/null"]);
    let mut proxy = Proxy::spawn(init, port, data);
    let first = u64::from(proxy.pid());
    eventually("orphans are buried", || {
        let children = children_of(first);
        children.len() == 1 && children.iter().all(|pid| is_running(*pid))
    });
    let real = children_of(first)[0];
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!Path::new(&format!("/proc/{real}")).exists());
    proxy.has_logged("stopping: requests in flight");
}

fn children_of(pid: u64) -> Vec<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
    lists.flat_map(|l| l.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>()).collect()
}
