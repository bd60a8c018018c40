//! Each server is a resource: its path, its metadata, its challenge, and the tokens that are for it.

use serde_json::{Value, json};

use super::{audience, authorize, get, granted, http, refresh, start, start_in, stdio, with};
use crate::support::eventually;
use crate::support::flow::{Browser, Client, FORM, encode, hidden, query, tokens};
use crate::support::proxy::{PASSWORD, Proxy};
use crate::support::stdio::McpClient;
use crate::support::upstream::{FakeUpstream, text};
use crate::support::wire::{Reply, Transport, request};

#[test]
fn each_server_has_its_metadata_and_its_challenge() {
    let (files, wiki) = (FakeUpstream::ok(), FakeUpstream::ok());
    let proxy =
        start(&json!({ "files": with(http(&files), json!({ "title": "My files" })), "wiki": http(&wiki) }), &[]);
    let origin = proxy.origin();
    for (path, endpoint, name) in [
        ("/files/mcp", "/files/mcp", "My files"),
        ("/files/mcp/", "/files/mcp", "My files"),
        ("/files/sse", "/files/sse", "My files"),
        ("/wiki/mcp", "/wiki/mcp", "wiki"),
    ] {
        let url = format!("/.well-known/oauth-protected-resource{endpoint}");
        let challenge = proxy.send("GET", path, &[], b"");
        assert_eq!(challenge.status, 401, "{path}");
        let wanted = format!("resource_metadata=\"{origin}{url}\"");
        assert!(challenge.header("www-authenticate").unwrap().contains(&wanted), "{path}");
        let metadata = proxy.send("GET", &url, &[], b"").json();
        assert_eq!(metadata["resource"], format!("{origin}{endpoint}"));
        assert_eq!(metadata["resource_name"], name);
    }
    for nothing in ["", "/", "/mcp", "/files", "/other/mcp", "/files/mcpx"] {
        let reply = proxy.send("GET", &format!("/.well-known/oauth-protected-resource{nothing}"), &[], b"");
        assert_eq!(reply.status, 404, "{nothing}");
    }
    for nothing in
        ["/", "/mcp", "/files", "/files/", "/files/mcpx", "/other/mcp", "/FILES/mcp", "//files/mcp", "/files%2fmcp"]
    {
        let reply = proxy.send("GET", nothing, &[], b"");
        assert_eq!((reply.status, reply.error().as_str()), (404, "not_found"), "{nothing}: {reply:?}");
    }
}

#[test]
fn a_token_of_one_server_is_refused_at_every_other_in_every_spelling() {
    let (files, wiki) = (FakeUpstream::ok(), FakeUpstream::ok());
    let proxy = start(&json!({ "files": http(&files), "wiki": http(&wiki), "script": stdio() }), &[]);
    let (client, origin) = (Client::public(&proxy), proxy.origin());
    let token = granted(&proxy, &client, &["/files/mcp"]).access;
    assert_eq!(audience(&token), json!(format!("{origin}/files/mcp")), "the URL that was asked for");
    for inside in ["/files/mcp", "/files/mcp/", "/files/mcp?x=/wiki/mcp", "/files/mcp/messages", "/files/sse"] {
        assert_eq!(get(&proxy, &token, inside).status, 200, "{inside}");
    }
    let seen = files.received().len();
    for elsewhere in ["/wiki/mcp", "/wiki/mcp/", "/wiki/sse", "/script/mcp", "/wiki/mcp?/files/mcp"] {
        let reply = get(&proxy, &token, elsewhere);
        let challenge = reply.header("www-authenticate").unwrap_or_default();
        assert!(reply.status == 401 && challenge.contains("error=\"invalid_token\""), "{elsewhere}: {reply:?}");
        let name = elsewhere.split('/').nth(1).unwrap();
        assert!(challenge.contains(&format!("/.well-known/oauth-protected-resource/{name}/")), "{challenge}");
    }
    for nowhere in [
        "/files",
        "/files/mcpx",
        "/files/mcp.json",
        "/files/mcp;x",
        "/FILES/mcp",
        "/files/MCP",
        "/files//mcp",
        "//files/mcp",
        "/files%2fmcp",
        "/%66iles/mcp",
        "/files/%6dcp",
        "/files/mcp%00",
        "/wiki/../files/mcp",
        "/./files/mcp",
        "/mcp",
        "/",
        "/?/files/mcp",
        "/files\\mcp",
    ] {
        let status = get(&proxy, &token, nowhere).status;
        assert!(matches!(status, 400 | 404), "{nowhere}: {status}");
    }
    // What leads out of the server's path after decoding is not passed on.
    for escape in ["/files/mcp/../../wiki/mcp", "/files/mcp/%2e%2e/%2e%2e/wiki/mcp", "/files/mcp/..%2f..%2fwiki/mcp"] {
        assert_eq!(get(&proxy, &token, escape).status, 400, "{escape}");
    }
    assert_eq!(files.received().len(), seen, "none of them reached a server");
    assert!(wiki.received().is_empty());
}

#[test]
fn a_client_may_ask_for_the_servers_urls_and_for_nothing_else() {
    let upstream = FakeUpstream::ok();
    let proxy = start(&json!({ "files": http(&upstream), "wiki": http(&upstream) }), &[]);
    let (client, browser) = (Client::public(&proxy), Browser::new(&proxy));
    for path in [
        "",
        "/",
        "/mcp",
        "/files",
        "/files/",
        "/files/mcp/",
        "/files/mcp?x",
        "/files/mcpx",
        "/FILES/mcp",
        "/files/%6dcp",
        "/other/mcp",
        "/files/mcp/x",
    ] {
        let url = format!("{}{path}", proxy.origin());
        let page = browser.get(&client.authorize(&[("resource", &url)]));
        assert!(
            page.status == 400 && page.text().contains("no MCP server is published at this URL"),
            "{path}: {}",
            page.text()
        );
    }
    for elsewhere in ["https://evil.example/files/mcp", "http://localhost:1/files/mcp"] {
        let page = browser.get(&client.authorize(&[("resource", elsewhere)]));
        assert!(page.status == 400 && page.text().contains("not a URL on"), "{elsewhere}");
    }
    let two = granted(&proxy, &client, &["/wiki/mcp", "/files/sse"]);
    let origin = proxy.origin();
    assert_eq!(audience(&two.access), json!([format!("{origin}/files/sse"), format!("{origin}/wiki/mcp")]));
    for path in ["/files/mcp", "/wiki/mcp"] {
        assert_eq!(get(&proxy, &two.access, path).status, 200, "{path}");
    }
    // A refresh narrows one token, and the grant stays as it is.
    let narrowed = tokens(&refresh(&proxy, &client, &two.refresh, &["/wiki/mcp"]));
    assert_eq!(get(&proxy, &narrowed.access, "/files/mcp").status, 401);
    let whole = tokens(&client.refresh(&narrowed.refresh));
    assert_eq!(get(&proxy, &whole.access, "/files/mcp").status, 200);
    for wider in ["/files/mcp", "", "/other/mcp"] {
        assert_eq!(refresh(&proxy, &client, &whole.refresh, &[wider]).error(), "invalid_target", "{wider}");
    }
}

#[test]
fn whoever_asks_for_no_resource_chooses_on_the_consent_page() {
    let upstream = FakeUpstream::ok();
    let servers = json!({
        "files": with(http(&upstream), json!({ "title": "My <files>", "description": "What I wrote" })),
        "wiki": http(&upstream),
        "closed": with(http(&upstream), json!({ "allow": {} })),
    });
    let proxy = start(&servers, &[]);
    let (client, browser) = (Client::public(&proxy), Browser::new(&proxy));
    let first = browser.get(&client.authorize(&[]));
    assert!(first.text().contains("Sign in to choose what it may use") && !first.text().contains("Sign in and allow"));
    let page = browser.post("/.auth/login", &[("request", &hidden(&first, "request")), ("password", PASSWORD)]);
    let html = page.text();
    assert_eq!(page.status, 200);
    assert!(
        html.contains("My &lt;files&gt;") && html.contains("What I wrote") && html.contains("value=\"wiki\""),
        "{html}"
    );
    assert!(!html.contains("value=\"closed\""), "it is not for this user");
    assert!(!html.contains("checked"), "none is ticked");
    let request = hidden(&page, "request");
    let decide = |ticked: &[&str]| {
        let mut fields = vec![("request", request.as_str()), ("decision", "allow")];
        fields.extend(ticked.iter().map(|name| ("server", *name)));
        browser.post("/.idp/auth", &fields)
    };
    for nothing in [&[][..], &["closed"], &["other"], &["files/mcp"]] {
        let again = decide(nothing);
        assert!(again.status == 200 && again.text().contains("Tick at least one server"), "{nothing:?}");
    }
    let code = |reply: &Reply| {
        query(reply.header("location").unwrap_or_else(|| panic!("{}", reply.text()))).remove("code").unwrap()
    };
    let one = tokens(&client.redeem(&code(&decide(&["wiki", "closed"]))));
    assert_eq!(audience(&one.access), json!(format!("{}/wiki/mcp", proxy.origin())));
    assert_eq!(get(&proxy, &one.access, "/files/mcp").status, 401);
    assert_eq!(get(&proxy, &one.access, "/wiki/mcp").status, 200);
    // Nothing was remembered: the next request asks again.
    let next = browser.get(&client.authorize(&[]));
    assert!(next.text().contains("Which servers may it use?"));
}

#[test]
fn the_page_of_the_house_says_what_a_server_says_and_whether_it_answers() {
    let about = |text: &str| {
        let answer =
            json!({ "jsonrpc": "2.0", "id": "mcp-auth-proxy-check", "result": { "instructions": text } }).to_string();
        FakeUpstream::start(move |_, out| text_of(out, &answer))
    };
    let (talks, configured) = (about("Ask me about <b>notes</b>."), about("never shown"));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let servers = json!({
        "talks": http(&talks),
        "configured": with(http(&configured), json!({ "description": "As the operator says" })),
        "down": { "url": format!("http://127.0.0.1:{nobody}/mcp") },
        "script": stdio(),
    });
    let proxy = start(&servers, &["--no-upstream-check=false"]);
    let browser = Browser::new(&proxy);
    let page = browser.get("/.auth/login");
    browser.post("/.auth/login", &[("request", &hidden(&page, "request")), ("password", PASSWORD)]);
    let html = || browser.get_page("/").text();
    eventually("the servers have been asked", || html().contains("Ask me about") && html().contains("did not answer"));
    // The process that was only asked whether it works has ended by itself, and its server is well.
    proxy.has_logged("\"the MCP server has ended\",\"server\":\"script\",\"session\":\"first\"");
    let html = html();
    assert!(html.contains("Ask me about &lt;b&gt;notes&lt;/b&gt;.") && html.contains("As the operator says"), "{html}");
    assert!(!html.contains("never shown"));
    assert_eq!(html.matches("It did not answer the last time").count(), 1);
}

fn text_of(out: &mut std::net::TcpStream, answer: &str) {
    text(out, "200 OK", "Content-Type: application/json\r\n", answer);
}

#[test]
fn a_user_whom_the_rules_keep_out_is_told_and_the_client_gets_access_denied() {
    let upstream = FakeUpstream::ok();
    let proxy = start(
        &json!({ "open": http(&upstream), "closed": with(http(&upstream), json!({ "allow": { "users": [] } })) }),
        &[],
    );
    let (client, browser) = (Client::public(&proxy), Browser::new(&proxy));
    let closed = format!("{}/closed/mcp", proxy.origin());
    let page = browser.sign_in(&client.authorize(&[("resource", &closed)]), PASSWORD);
    assert!(page.status == 403 && page.text().contains("This account may not use closed"), "{}", page.text());
    let request = hidden(&page, "request");
    for decision in ["deny", "allow"] {
        let reply = browser.post("/.idp/auth", &[("request", &request), ("decision", decision)]);
        let answer = query(reply.header("location").unwrap());
        assert_eq!((answer["error"].as_str(), answer.contains_key("code")), ("access_denied", false), "{decision}");
    }
    proxy.has_logged(r#""event":"access_not_given""#);
    let none = browser.get(&client.authorize(&[("resource", &closed), ("prompt", "none")]));
    assert!(none.text().contains("the user has to decide on a page"));
    // Of several, access is given to those that the user may use.
    let two = granted(&proxy, &client, &["/closed/mcp", "/open/mcp"]);
    assert_eq!(audience(&two.access), json!(format!("{}/open/mcp", proxy.origin())));
    assert_eq!(get(&proxy, &two.access, "/closed/mcp").status, 401);
}

#[test]
fn remembered_consent_covers_exactly_the_servers_that_were_allowed() {
    let upstream = FakeUpstream::ok();
    let proxy = start(&json!({ "files": http(&upstream), "wiki": http(&upstream) }), &[]);
    let redirect = "https://client.example/callback";
    let metadata = json!({ "client_name": "c", "redirect_uris": [redirect], "token_endpoint_auth_method": "none" });
    let (client, browser) = (Client::register(&proxy, metadata), Browser::new(&proxy));
    let ask = |paths: &[&str]| browser.get(&format!("{}&{}", client.authorize(&[]), super::resources(&proxy, paths)));
    let first = ask(&["/files/mcp"]);
    let fields = [("request", hidden(&first, "request")), ("password", PASSWORD.into()), ("decision", "allow".into())];
    let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
    assert_eq!(browser.post("/.auth/login", &fields).status, 303);
    assert_eq!(ask(&["/files/mcp"]).status, 303, "it was allowed before");
    for more in [&["/files/mcp", "/wiki/mcp"][..], &["/wiki/mcp"], &["/files/sse"], &[]] {
        assert_eq!(ask(more).status, 200, "{more:?} is asked for");
    }
}

#[test]
fn tokens_from_before_work_only_at_the_server_that_takes_over() {
    let upstream = FakeUpstream::ok();
    let before = Proxy::start(upstream.port, &[]);
    let client = Client::public(&before);
    let (id, whole) = (client.id.clone(), client.tokens());
    let at_mcp = granted(&before, &client, &["/mcp"]);
    let at_files = granted(&before, &client, &["/files/mcp"]);
    let (data, port) = (before.data.clone(), before.port);
    drop(before);

    let servers = json!({ "files": http(&upstream), "wiki": with(http(&upstream), json!({ "legacy": true })) });
    let proxy = start_in(data.clone(), port, &servers, &[]);
    let client = Client { transport: &proxy, id: id.clone(), secret: None, redirect: String::new() };
    for old in [&whole, &at_mcp] {
        for (path, status) in
            [("/mcp", 200), ("/mcp/x", 200), ("/wiki/mcp", 200), ("/files/mcp", 401), ("/", 404), ("/x", 404)]
        {
            assert_eq!(get(&proxy, &old.access, path).status, status, "{path}");
        }
    }
    // What was asked for then is now the URL of another server, which nobody has allowed.
    assert_eq!(get(&proxy, &at_files.access, "/files/mcp").status, 401);
    assert_eq!(client.refresh(&at_files.refresh).error(), "invalid_target");
    assert_eq!(upstream.last().target, "/mcp", "it is the endpoint of the server's URL");
    let renewed = tokens(&client.refresh(&whole.refresh));
    assert_eq!(get(&proxy, &renewed.access, "/mcp").status, 200);
    assert_eq!(refresh(&proxy, &client, &renewed.refresh, &["/files/mcp"]).error(), "invalid_target");
    let narrowed = tokens(&refresh(&proxy, &client, &renewed.refresh, &["/mcp"]));
    assert_eq!(get(&proxy, &narrowed.access, "/wiki/mcp").status, 200);
    let metadata = proxy.send("GET", "/.well-known/oauth-protected-resource", &[], b"").json();
    assert_eq!(metadata["resource"], format!("{}/mcp", proxy.origin()));
    drop(proxy);

    let proxy = start_in(data, port, &json!({ "files": http(&upstream) }), &[]);
    let redirect = crate::support::flow::REDIRECT.to_string();
    let client = Client { transport: &proxy, id, secret: None, redirect };
    assert_eq!(get(&proxy, &narrowed.access, "/files/mcp").status, 401, "nothing takes over");
    let refused = client.refresh(&narrowed.refresh);
    assert_eq!(refused.error(), "invalid_target", "{}", refused.text());
    let of_file = granted(&proxy, &client, &["/files/mcp"]);
    let (data, port, id) = (proxy.data.clone(), proxy.port, client.id.clone());
    drop(proxy);
    // And back: a token for a server of the file is none for the one server.
    let proxy = Proxy::start_in(data, port, upstream.port, &[]);
    assert_eq!(get(&proxy, &of_file.access, "/files/mcp").status, 401);
    let client = Client { transport: &proxy, id, secret: None, redirect: String::new() };
    assert_eq!(client.refresh(&of_file.refresh).error(), "invalid_target");
}

#[test]
fn a_session_of_one_stdio_server_is_unknown_to_another() {
    let proxy = start(&json!({ "one": stdio(), "two": stdio() }), &[]);
    let client = Client::public(&proxy);
    let token = granted(&proxy, &client, &["/one/mcp", "/two/mcp"]).access;
    let mut one = McpClient::new(&proxy, "/one/mcp", token.clone());
    one.initialize();
    let mut two = McpClient::new(&proxy, "/two/mcp", token);
    two.session.clone_from(&one.session);
    let request = two.request("tools/list", json!({}));
    let reply = two.post(&request);
    assert_eq!(reply.status, 404, "{}", reply.text());
    two.session = None;
    two.initialize();
    assert!(one.result("echo", json!({ "x": 1 })).is_object());
}

#[test]
fn the_files_variables_and_directory_reach_the_server() {
    let mut script = stdio();
    script["env"] = json!({ "FROM_FILE": "value", "HOME": Value::Null });
    script["cwd"] = json!("/");
    let proxy = start(&json!({ "script": script }), &[]);
    let token = granted(&proxy, &Client::public(&proxy), &["/script/mcp"]).access;
    let mut client = McpClient::new(&proxy, "/script/mcp", token);
    client.initialize();
    let env = client.result("environment", json!({}));
    assert_eq!(env["FROM_FILE"], "value", "{env}");
    assert_eq!(env["PWD"].as_str().unwrap_or("/"), "/", "{env}");
    assert!(env.get("HOME").is_none() && env.get("PASSWORD").is_none(), "{env}");
}

#[test]
fn a_servers_url_is_its_endpoint_with_its_query_and_fields() {
    let upstream = FakeUpstream::start(|received, out| match received.target.as_str() {
        "/mcp/moved?key=k" => text(out, "301 Moved", "Location: /mcp/here?a=b\r\n", ""),
        _ => text(out, "200 OK", "", "ok"),
    });
    let mut server = json!({ "url": format!("http://127.0.0.1:{}/mcp?key=k", upstream.port) });
    server["headers"] = json!({ "X-Team": "docs", "Authorization": "Bearer of-the-server" });
    let proxy = start(&json!({ "wiki": server }), &[]);
    let token = granted(&proxy, &Client::public(&proxy), &["/wiki/mcp"]).access;
    for (path, target) in [
        ("/wiki/mcp", "/mcp?key=k"),
        ("/wiki/sse", "/mcp?key=k"),
        ("/wiki/mcp?a=1", "/mcp?a=1&key=k"),
        ("/wiki/mcp/x/y", "/mcp/x/y?key=k"),
        ("/wiki/mcp/", "/mcp/?key=k"),
    ] {
        assert_eq!(get(&proxy, &token, path).status, 200, "{path}");
        assert_eq!(upstream.last().target, target, "{path}");
    }
    let seen = upstream.last();
    assert_eq!((seen.header("x-team"), seen.header("authorization")), (Some("docs"), Some("Bearer of-the-server")));
    assert_eq!(get(&proxy, &token, "/wiki/mcp/moved").header("location"), Some("/wiki/mcp/here?a=b"));
    assert!(!proxy.log().contains("key=k") && !proxy.log().contains("of-the-server"));
}

#[test]
fn an_sse_servers_message_path_lies_below_its_stream() {
    let upstream = FakeUpstream::start(|received, out| match (received.method.as_str(), received.target.as_str()) {
        ("GET", "/events/sse") => {
            use std::io::Write;
            let _ = out
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
            let event = "event: endpoint\ndata: messages?session=1\n\n";
            let _ = write!(out, "{:x}\r\n{event}\r\n", event.len());
            let _ = out.flush();
            std::thread::sleep(std::time::Duration::from_secs(20));
        }
        ("POST", "/events/messages?session=1") => text(out, "202 Accepted", "", ""),
        _ => text(out, "404 Not Found", "", ""),
    });
    let server = json!({ "type": "sse", "url": format!("http://127.0.0.1:{}/events/sse", upstream.port) });
    let proxy = start(&json!({ "events": server }), &[]);
    let token = granted(&proxy, &Client::public(&proxy), &["/events/sse"]).access;
    for stream in ["/events/sse", "/events/mcp"] {
        let bearer = format!("Bearer {token}");
        let fields = [("Authorization", bearer.as_str()), ("Accept", "text/event-stream")];
        let mut connection = proxy.connect();
        connection.write(request("GET", stream, &proxy.host(), &fields, b""));
        assert_eq!(connection.head().unwrap().status, 200);
        let event = String::from_utf8(connection.chunk().unwrap()).unwrap();
        let path = format!("{stream}/events/messages?session=1");
        assert_eq!(event, format!("event: endpoint\ndata: {path}\n\n"));
        let fields = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let body = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(proxy.send("POST", &path, &fields, body).status, 202, "{stream}");
    }
}

#[test]
fn a_file_that_others_can_write_or_with_an_error_does_not_start() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = crate::support::proxy::Scratch::new();
    let file = scratch.path("mcp.json");
    let run = |text: &str, mode: u32, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let mut command = crate::support::proxy::command();
        command.args(["--password", "x", "--data-path", &scratch.path("d"), "--servers", &file]).args(more);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        String::from_utf8(output.stderr).unwrap()
    };
    let good = r#"{"mcpServers": {"a": {"url": "http://127.0.0.1:1/mcp"}}}"#;
    assert!(run(good, 0o666, &[]).contains("chmod go-w"));
    assert!(run(good, 0o600, &["http://127.0.0.1:1"]).contains("two answers to the same question"));
    assert!(run(good, 0o600, &["--proxy-bearer-token", "t"]).contains("proxy.bearerToken"));
    for (server, want) in [
        (
            r#"{"command": "no-such-program"}"#,
            "server 'a': the MCP server's command 'no-such-program' was not found in PATH",
        ),
        (r#"{"command": "sh", "cwd": "/no/such"}"#, "server 'a': its directory (cwd) /no/such does not exist"),
        (r#"{"url": "wiki"}"#, "server 'a', url: it must look like"),
        (r#"{"url": "http://h", "headers": {"Host": "x"}}"#, "headers: host belongs to the connection"),
        (r#"{"url": "http://h", "headers": {"X-Forwarded-User": "x"}}"#, "headers: x-forwarded-user belongs"),
        (r#"{"url": "http://h", "headers": {"X-A": "1", "x-a": "2"}}"#, "headers: x-a is there twice"),
        (r#"{"url": "http://h", "headers": {"Content_Length": "x"}}"#, "headers: content_length belongs"),
        (r#"{"url": "http://h", "headers": {"Authorization": "x"}, "proxy": {"bearerToken": "y"}}"#, "are both set"),
        (r#"{"url": "http://h", "proxy": {"allow": {"users": ["alice"]}}}"#, "proxy.allow: 'alice' fits nobody"),
        (r#"{"command": "sh", "proxy": {"stdio": {"user": "no-such-user"}}}"#, "proxy.stdio:"),
    ] {
        let said = run(&format!("{{\"mcpServers\": {{\"a\": {server}}}}}"), 0o600, &[]);
        assert!(said.contains("--servers (SERVERS)") && said.contains(want), "{server}: {said}");
    }
}

#[test]
fn an_authorization_for_one_server_is_not_one_for_another_artefact() {
    let upstream = FakeUpstream::ok();
    let proxy = start(&json!({ "files": http(&upstream), "wiki": http(&upstream) }), &[]);
    let client = Client::public(&proxy);
    let code = authorize(&proxy, &client, &["/files/mcp"]).remove("code").unwrap();
    let url = format!("{}/wiki/mcp", proxy.origin());
    let body = encode(&[
        ("client_id", &client.id),
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", &client.redirect),
        ("code_verifier", crate::support::flow::VERIFIER),
        ("resource", &url),
    ]);
    let refused = proxy.send("POST", "/.idp/token", &[FORM], body.as_bytes());
    assert_eq!(refused.error(), "invalid_target", "the code is for another server");
    let good = tokens(&client.redeem(&code));
    assert_eq!(get(&proxy, &good.access, "/wiki/mcp").status, 401);
    for other in [good.refresh.as_str(), code.as_str()] {
        assert_eq!(get(&proxy, other, "/files/mcp").status, 401, "neither is an access token");
    }
}
