//! `mcp-auth-proxy check`: it looks at everything and changes nothing.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::proxy::{Proxy, Scratch, command, free_port};
use crate::support::stdio::SCRIPT;
use crate::support::upstream::{FakeUpstream, text};

/// Exit code and lines.
fn check(scratch: &Scratch, args: &[&str]) -> (i32, Vec<String>) {
    let mut command = command();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(&scratch.0);
    let output = command.arg("check").args(args).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect();
    (output.status.code().unwrap(), lines)
}

fn has(lines: &[String], start: &str, part: &str) -> bool {
    lines.iter().any(|line| line.starts_with(start) && line.contains(part))
}

/// A server that answers `initialize`.
fn mcp() -> FakeUpstream {
    let answer = r#"{"jsonrpc":"2.0","id":"mcp-auth-proxy-check","result":{}}"#;
    FakeUpstream::start(move |_, out| text(out, "200 OK", "Content-Type: application/json\r\n", answer))
}

#[test]
fn what_can_be_served_is_good_and_nothing_is_left_behind() {
    let (scratch, upstream) = (Scratch::new(), mcp());
    let file = scratch.path("mcp.json");
    let servers = json!({ "mcpServers": {
        "wiki": { "url": format!("http://127.0.0.1:{}/mcp", upstream.port) },
        "script": { "command": "python3", "args": ["-u", SCRIPT] },
        "ends": { "command": "false" },
    } });
    std::fs::write(&file, servers.to_string()).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let args = ["--servers", &file, "--password", "x", "--listen", &listen, "--data-path", "data"];
    let (code, lines) = check(&scratch, &args);
    assert_eq!(code, 0, "{lines:#?}");
    for (start, part) in [
        ("ok    configuration", "fit together"),
        ("ok    data directory", "will be made"),
        ("ok    --listen (LISTEN)", "the port is free"),
        ("ok    server 'wiki'", "answers initialize"),
        ("ok    server 'script'", "answers initialize"),
        ("warn  server 'ends'", "ended before it answered"),
    ] {
        assert!(has(&lines, start, part), "{start} … {part}: {lines:#?}");
    }
    assert_eq!(check(&scratch, &[&args[..], &["--strict"]].concat()).0, 1, "a warning counts then");
    let left: Vec<_> = std::fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mcp.json"], "nothing was made");
}

#[test]
fn what_would_fail_is_told_and_the_exit_code_is_two() {
    let (scratch, upstream) = (Scratch::new(), mcp());
    let url = format!("http://127.0.0.1:{}", upstream.port);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    std::fs::create_dir(scratch.path("open")).unwrap();
    std::fs::write(scratch.path("open/notes"), "x").unwrap();
    std::fs::set_permissions(scratch.path("open"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(scratch.path("bad.json"), "{").unwrap();
    std::fs::set_permissions(scratch.path("bad.json"), PermissionsExt::from_mode(0o600)).unwrap();
    for (args, part) in [
        (vec![url.as_str()], "no way to sign in"),
        (vec!["--password", "x"], "no upstream server"),
        (vec!["--password", "x", "--servers", "bad.json"], "bad.json:1: this is not JSON"),
        (vec!["--password", "x", "--listen", &port, &url], "is in use by another program"),
        (vec!["--password", "x", "--data-path", "open", &url], "can be read by other users"),
        (
            vec![
                "--password",
                "x",
                "--tls-cert-file",
                "no.pem",
                "--tls-key-file",
                "no.pem",
                "--external-url",
                "https://localhost",
                &url,
            ],
            "can't be read",
        ),
    ] {
        let (code, lines) = check(&scratch, &args);
        assert!(code == 2 && has(&lines, "fail", part), "{args:?}: {code} {lines:#?}");
    }
    // What is behind a command is the server's, not this program's.
    let (_, lines) = check(&scratch, &["--password", "x", "--", "sh", "-c", "exit 1"]);
    assert!(has(&lines, "warn  server: sh", "ended"), "{lines:#?}");
}

#[test]
fn a_proxy_that_runs_is_not_a_failure() {
    let upstream = mcp();
    let proxy = Proxy::start(upstream.port, &[]);
    let listen = format!("127.0.0.1:{}", proxy.port);
    let url = format!("http://127.0.0.1:{}", upstream.port);
    let external = format!("http://localhost:{}", proxy.port);
    let data = proxy.data.path("data");
    let args = ["--password", "x", "--listen", &listen, "--external-url", &external, "--data-path", &data, &url];
    let (code, lines) = check(&proxy.data, &args);
    assert!(code == 0 && has(&lines, "ok    --listen", "is running"), "{lines:#?}");
}

#[test]
fn users_that_a_rule_names_and_no_file_are_told() {
    let scratch = Scratch::new();
    let private = |name: &str, text: &str| {
        std::fs::write(scratch.path(name), text).unwrap();
        std::fs::set_permissions(scratch.path(name), PermissionsExt::from_mode(0o600)).unwrap();
    };
    let hash = "$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    private("users", &format!("charles:{hash}\nada:{hash}\n"));
    private("groups", "staff: ada\n");
    let allow = json!({ "users": ["chales", "htpasswd:ada"], "groups": ["staff", "staf"] });
    let servers = json!({ "mcpServers": { "script": { "command": "python3", "args": ["-u", SCRIPT], "proxy": { "allow": allow } } } });
    private("mcp.json", &servers.to_string());
    let listen = format!("127.0.0.1:{}", free_port());
    let args = [
        "--servers",
        "mcp.json",
        "--htpasswd-file",
        "users",
        "--htgroup-file",
        "groups",
        "--listen",
        &listen,
        "--data-path",
        "data",
    ];
    let (code, lines) = check(&scratch, &args);
    assert_eq!(code, 0, "{lines:#?}");
    let told: Vec<&String> = lines.iter().filter(|line| line.starts_with("warn") && line.contains("allows")).collect();
    assert_eq!(told.len(), 2, "{lines:#?}");
    assert!(told[0].contains("'chales'") && told[1].contains("'staf'"), "{told:?}");
}
