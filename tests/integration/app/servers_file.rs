//! The servers file as clients write it: what each of their documented forms becomes, and what is refused.

use std::path::Path;

use mcp_auth_proxy::servers_file::{Entry, FileContent, Transport, read};

fn env(name: &str) -> Option<String> {
    match name {
        "API_KEY" => Some("the-key".into()),
        "DOCS_TOKEN" => Some("the-docs-token".into()),
        "GITHUB_TOKEN" => Some("the-github-token".into()),
        _ => None,
    }
}

fn environment_file(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some("/etc/mcp/.env" | "/srv/acme/.env") => Ok("FROM_FILE=yes\nAPI_KEY=from-file\n".into()),
        _ => Err(format!("{} can't be read", path.display())),
    }
}

fn parse(text: &str) -> Result<FileContent, String> {
    read(Path::new("/etc/mcp/servers.json"), text, &env, &["PASSWORD", "AUTH_HMAC_SECRET"], &environment_file)
}

fn fixture(name: &str) -> FileContent {
    let path = format!("{}/tests/integration/servers_files/{name}.json", env!("CARGO_MANIFEST_DIR"));
    parse(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn names(content: &FileContent) -> Vec<&str> {
    content.entries.iter().map(|entry| entry.path.as_str()).collect()
}

fn entry<'c>(content: &'c FileContent, name: &str) -> &'c Entry {
    content.entries.iter().find(|entry| entry.name == name).unwrap()
}

fn warnings(content: &FileContent) -> Vec<&str> {
    let warnings = content.notes.iter().filter(|note| note.level == log::Level::Warn);
    warnings.map(|note| note.text.as_str()).collect()
}

/// Program and arguments, environment, and directory.
type Started<'e> = (&'e [String], &'e [(String, Option<String>)], Option<&'e Path>);

fn stdio(entry: &Entry) -> Started<'_> {
    match &entry.transport {
        Transport::Stdio { command, env, cwd } => (command, env, cwd.as_deref()),
        Transport::Http { .. } => panic!("{} is at a URL", entry.name),
    }
}

fn http(entry: &Entry) -> (&str, Vec<(&str, &str)>) {
    match &entry.transport {
        Transport::Http { url, headers } => (url, headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()),
        Transport::Stdio { .. } => panic!("{} is a command", entry.name),
    }
}

#[test]
fn the_file_of_claude_desktop() {
    let content = fixture("claude-desktop");
    assert_eq!(names(&content), ["files", "tracker", "remote-docs"]);
    let (command, env, _) = stdio(entry(&content, "tracker"));
    assert_eq!(command, ["/usr/local/bin/uvx", "acme-tracker-mcp", "--region", "eu"]);
    assert_eq!(env[0], ("TRACKER_TOKEN".into(), Some("example-literal-token".into())));
    assert!(warnings(&content).is_empty(), "{:?}", content.notes);
}

#[test]
fn the_file_of_claude_code() {
    let content = fixture("claude-code");
    assert_eq!(names(&content), ["database", "untyped", "docs", "docs-alias", "legacy", "chat"]);
    assert_eq!(stdio(entry(&content, "database")).0[4], "postgres://localhost/the-key");
    let (url, headers) = http(entry(&content, "docs"));
    assert_eq!(url, "https://docs.example.com/mcp");
    assert_eq!(headers, [("Authorization", "Bearer the-docs-token"), ("X-Api-Key", "the-key")]);
    let warnings = warnings(&content);
    assert!(warnings.iter().any(|w| w.contains("servers.json:6: server 'database', args") && w.contains("ps")));
    assert!(warnings.iter().any(|w| w.contains("'chat', oauth") && w.contains("proxy.bearerToken")));
    assert!(warnings.iter().any(|w| w.contains("'docs', timeout") && w.contains("proxy.timeouts.response")));
    assert!(content.notes.iter().all(|note| !note.text.contains("the-key") && !note.text.contains("the-docs-token")));
}

#[test]
fn the_file_of_cursor() {
    let content = fixture("cursor");
    assert_eq!(names(&content), ["search", "untyped", "docs", "legacy", "design"]);
    let (_, env, _) = stdio(entry(&content, "search"));
    let pairs: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_deref().unwrap())).collect();
    let wanted = [("FROM_FILE", "yes"), ("API_KEY", "from-file"), ("SEARCH_TOKEN", "the-docs-token"), ("MODE", "fast")];
    assert_eq!(pairs, wanted, "env stands behind envFile, so it wins");
}

#[test]
fn the_file_of_vs_code_with_comments_and_trailing_commas() {
    let content = fixture("vscode");
    let all = ["acme-tools", "py-tools", "untyped", "docs", "legacy", "chat", "gallery-item", "socket"];
    assert_eq!(names(&content), all);
    let (command, env, cwd) = stdio(entry(&content, "acme-tools"));
    assert_eq!((command.last().unwrap().as_str(), cwd), ("3000", Some(Path::new("/srv/acme"))));
    assert!(env.contains(&("RETRIES".into(), Some("3".into()))) && env.contains(&("HTTP_PROXY".into(), None)));
    assert_eq!(http(entry(&content, "socket")).0, "unix:/tmp/acme.sock:/mcp");
    assert!(warnings(&content).iter().any(|w| w.contains("'py-tools', sandbox:") && w.contains("proxy.stdio.user")));
    assert!(content.notes.iter().any(|n| n.level == log::Level::Debug && n.text.contains("'acme-tools', dev")));
}

#[test]
fn the_file_of_windsurf() {
    let content = fixture("windsurf");
    assert_eq!(names(&content), ["github", "docs", "docs-url", "legacy"], "one is disabled");
    assert_eq!(
        http(entry(&content, "docs")),
        ("https://docs.example.com/mcp", vec![("Authorization", "Bearer the-docs-token")])
    );
    assert!(
        content.notes.iter().any(|note| note.level == log::Level::Info && note.text.contains("'off': it is disabled"))
    );
}

#[test]
fn the_files_of_other_clients() {
    let content = fixture("gemini-cli");
    assert_eq!(names(&content), ["python-tools", "docs", "legacy", "cloud", "experimental"]);
    assert!(warnings(&content).iter().any(|w| w.contains("'python-tools', env.TOKEN") && w.contains("${DOCS_TOKEN}")));
    assert_eq!(stdio(entry(&content, "python-tools")).2, Some(Path::new("/etc/mcp/./servers/python")));
    assert_eq!(names(&fixture("cline")), ["local", "docs", "old-local", "old-remote"]);
    assert_eq!(names(&fixture("roo")), ["local", "docs", "legacy"]);
    for name in ["kiro", "lm-studio", "copilot"] {
        assert!(!fixture(name).entries.is_empty(), "{name}");
    }
}

#[test]
fn our_own_keys_are_read() {
    let text = r#"{ "$schema": "servers.schema.json", "mcpServers": { "My Files": { "command": "x", "proxy": {
        "path": "files", "title": "Files", "description": "Notes", "legacy": true, "maxRequests": 5,
        "allow": { "users": ["a@b.c"], "groups": ["ops"], "providers": ["google"], "patterns": ["*@b.c"] },
        "stdio": { "mode": "shared", "user": "nobody", "maxChildren": 2, "spare": 0, "idleTimeout": "90s", "memory": "64MiB" } } },
        "w": { "url": "http://h/mcp", "proxy": { "bearerToken": "${DOCS_TOKEN}", "timeouts": { "connect": "3s", "response": "2m" } } } } }"#;
    let content = parse(text).unwrap();
    let files = entry(&content, "My Files");
    assert_eq!(
        (files.path.as_str(), files.proxy.title.as_deref(), files.proxy.is_legacy),
        ("files", Some("Files"), true)
    );
    assert_eq!(files.proxy.allow.as_ref().unwrap().patterns, ["*@b.c"]);
    let keys = &files.proxy.stdio;
    assert_eq!(
        (keys.is_shared, keys.max_children, keys.spare, keys.memory),
        (Some(true), Some(2), Some(0), Some(64 << 20))
    );
    assert_eq!(keys.idle_timeout.unwrap().as_secs(), 90);
    let w = &entry(&content, "w").proxy;
    assert_eq!(w.bearer_token.as_deref(), Some("the-docs-token"));
    assert_eq!((w.connect_timeout.unwrap().as_secs(), w.response_timeout.unwrap().as_secs()), (3, 120));
    assert!(content.notes.is_empty(), "{:?}", content.notes);
}

#[test]
fn what_is_wrong_is_told_with_line_server_and_key() {
    let one = |server: &str| format!("{{\"mcpServers\": {{\n\"a\": {server}}}}}");
    for (server, want) in [
        (r#"{"command": 5}"#, "servers.json:2: server 'a', command: a text is expected, but this is a number"),
        (r#"{"command": "x", "args": "y"}"#, "args: a list of texts is expected"),
        (r#"{"command": "x", "args": [1]}"#, "args: a list of texts is expected, but there is a number in it"),
        (r#"{"command": "x", "env": {"A": {}}}"#, "env: 'A' has to be a text"),
        (r#"{"command": "x", "env": {"A=B": "c"}}"#, "a name without '='"),
        (r#"{"command": ""}"#, "command: there is no program to run"),
        (r#"{}"#, "server 'a': there is neither command nor url"),
        ("[]", "an object is expected, but this is a list"),
        (r#"{"command": "x", "url": "http://h"}"#, "there is command and url"),
        (r#"{"url": "http://h", "serverUrl": "http://h"}"#, "serverUrl: it means the same as url"),
        (r#"{"command": "x", "type": "http"}"#, "type: 'http' does not go with command"),
        (r#"{"url": "http://h", "type": "websocket"}"#, "type: 'websocket' is not one of stdio"),
        (
            r#"{"url": "http://h", "headersHelper": "x"}"#,
            "headersHelper: a program that makes header fields is not run here",
        ),
        (r#"{"command": "x", "env": {"A": "${MISSING}"}}"#, "env.A: the variable MISSING is not set"),
        (r#"{"command": "x", "env": {"A": "${input:key}"}}"#, "env.A: '${input:key}' asks a person"),
        (
            r#"{"command": "x", "args": ["${workspaceFolder}"]}"#,
            "args: '${workspaceFolder}' stands for something of an editor",
        ),
        (r#"{"command": "x", "env": {"A": "${PASSWORD}"}}"#, "env.A: '${PASSWORD}' is a secret of this proxy"),
        (
            r#"{"url": "http://h", "headers": {"X": "${AUTH_HMAC_SECRET_FILE}"}}"#,
            "headers.X: '${AUTH_HMAC_SECRET_FILE}' is a secret",
        ),
        (r#"{"command": "x", "envFile": "/nowhere"}"#, "envFile: /nowhere can't be read"),
        (r#"{"command": "x", "proxy": {"maxRequests": 0}}"#, "proxy.maxRequests: '0' is not a whole number above zero"),
        (r#"{"command": "x", "proxy": {"timeouts": {"connect": 5}}}"#, "proxy.timeouts.connect: write the unit"),
        (
            r#"{"command": "x", "proxy": {"stdio": {"mode": "both"}}}"#,
            "proxy.stdio.mode: 'both' is not one of session, shared",
        ),
        (r#"{"command": "x", "proxy": {"path": "../x"}}"#, "write \"proxy\": {\"path\": \"x\"}"),
    ] {
        let error = parse(&one(server)).unwrap_err();
        assert!(error.contains(want), "{server}: {error}");
        assert!(error.starts_with("/etc/mcp/servers.json:2: server 'a'"), "{error}");
    }
    for (text, want) in [
        ("{}", ":1: there is neither mcpServers"),
        ("[]", ":1: an object is expected"),
        (r#"{"mcpServers": {}, "servers": {}}"#, "one file has one of them"),
        (r#"{"mcpServers": []}"#, "mcpServers has to be an object"),
        (
            "{\"mcpServers\": {\"a\": {\"command\": \"x\"},\n\"a\": {\"command\": \"y\"}}}",
            ":2: 'a' stands here and in line 1",
        ),
        (r#"{"mcpServers": {"My Files": {"command": "x"}}}"#, "{\"path\": \"my-files\"}"),
        (
            r#"{"mcpServers": {"a": {"command": "x"}, "b": {"command": "x", "proxy": {"path": "a"}}}}"#,
            "server 'b': it has the same path as 'a'",
        ),
        (r#"{"mcpServers": {"mcp": {"command": "x", "proxy": {"legacy": true}}}}"#, "'mcp' can't be a path"),
        (
            r#"{"mcpServers": {"a": {"command": "x", "proxy": {"legacy": true}}, "b": {"command": "x", "proxy": {"legacy": true}}}}"#,
            "only one server can take over",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    }
}

#[test]
fn keys_that_nobody_knows_get_a_suggestion() {
    let content = parse(r#"{"mcpServers": {"a": {"comand": "x", "command": "y", "zzz": 1}}}"#).unwrap();
    let warnings = warnings(&content);
    assert!(warnings[0].contains(
        "comand: no client and no version of this proxy has this key; it has no effect; did you mean command?"
    ));
    // What only this program reads, it has to know: a rule that is not there lets everybody in.
    for (key, want) in [
        (r#""proxy": {"alow": {"users": ["bob"]}}"#, "proxy.alow: there is no such key; did you mean proxy.allow?"),
        (
            r#""proxy": {"allow": {"user": ["bob"]}}"#,
            "proxy.allow.user: there is no such key; did you mean proxy.allow.users?",
        ),
        (r#""proxy": {"zzz": 1}"#, "proxy.zzz: there is no such key"),
        (r#""Proxy": {"allow": {}}"#, "Proxy: there is no such key; did you mean proxy?"),
        (r#""allow": {"users": ["bob"]}"#, "allow: there is no such key; did you mean proxy.allow?"),
    ] {
        let error = parse(&format!(r#"{{"mcpServers": {{"a": {{"command": "y", {key}}}}}}}"#)).unwrap_err();
        assert!(error.contains(want), "{key}: {error}");
    }
    assert!(warnings.iter().any(|w| w.contains("zzz") && !w.contains("did you mean")), "{warnings:?}");
}

#[test]
fn the_schema_fits_the_fixtures() {
    let schema: serde_json::Value = serde_json::from_str(&mcp_auth_proxy::servers_file::schema::json_schema()).unwrap();
    let known = schema["$defs"]["server"]["properties"].as_object().unwrap();
    for name in ["claude-desktop", "claude-code", "cursor", "windsurf", "gemini-cli", "cline", "roo", "kiro"] {
        let path = format!("{}/tests/integration/servers_files/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let file: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for (server, keys) in file["mcpServers"].as_object().unwrap() {
            for key in keys.as_object().unwrap().keys() {
                assert!(known.contains_key(key), "{name}, {server}: {key}");
            }
        }
    }
    let references = serde_json::to_string(&schema).unwrap();
    for (at, _) in references.match_indices("#/$defs/") {
        let name = references[at + 8..].split('"').next().unwrap();
        assert!(schema["$defs"][name].is_object(), "{name}");
    }
}
