//! The public surface as strangers see it: discovery, challenges, CORS, Host and Origin.

use crate::support::flow::{Client, call};
use crate::support::proxy::Proxy;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Connection, Reply, Transport};

#[test]
fn metadata_is_found_wherever_clients_look() {
    let proxy = Proxy::start(1, &[]);
    let get = |path: &str| proxy.send("GET", path, &[], b"");
    let origin = proxy.origin();
    for (path, resource) in [
        ("/.well-known/oauth-protected-resource", origin.clone()),
        ("/.well-known/oauth-protected-resource/mcp", format!("{origin}/mcp")),
        ("/.well-known/oauth-protected-resource/mcp/", format!("{origin}/mcp/")),
        ("/.well-known/oauth-protected-resource/sse", format!("{origin}/sse")),
    ] {
        let document = get(path).json();
        assert_eq!(document["resource"], resource.as_str(), "{path}");
        assert_eq!(document["authorization_servers"][0], origin.as_str());
        assert!(!document["scopes_supported"].to_string().contains("offline_access"));
    }
    for path in [
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/mcp",
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/mcp",
    ] {
        let reply = get(path);
        let document = reply.json();
        assert_eq!(document["issuer"], origin.as_str(), "{path}");
        assert_eq!(document["code_challenge_methods_supported"][0], "S256");
        assert_eq!(document["authorization_response_iss_parameter_supported"], true);
        assert!(document["scopes_supported"].to_string().contains("offline_access"));
        for name in
            ["authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint", "jwks_uri"]
        {
            assert!(document[name].as_str().unwrap().starts_with(&origin), "{name}");
        }
        if path.contains("openid") {
            assert!(document["subject_types_supported"].is_array());
            // There are no ID tokens: nothing is promised that is not there.
            assert_eq!(document["id_token_signing_alg_values_supported"], serde_json::json!([]));
        }
    }
    assert_eq!(get("/.well-known/jwks.json").text(), r#"{"keys":[]}"#);
    for path in [
        "/.well-known/nothing",
        "/.well-known/",
        "/.well-known",
        "/.well-known/oauth-protected-resourceful",
        "/.idp/nothing",
        "/.auth",
        "/.idp/authx",
    ] {
        let reply = get(path);
        assert_eq!((reply.status, reply.header("content-type")), (404, Some("application/json")), "{path}");
    }
}

#[test]
fn the_challenge_is_the_same_for_every_method_and_says_no_error_without_a_token() {
    let proxy = Proxy::start(1, &[]);
    let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", proxy.origin());
    for method in ["GET", "POST", "HEAD", "DELETE", "PUT", "PATCH", "TRACE", "PROPFIND"] {
        let reply = proxy.send(method, "/mcp", &[], b"");
        let challenge = reply.header("www-authenticate").unwrap();
        assert_eq!(reply.status, 401, "{method}");
        assert_eq!(challenge, format!("Bearer resource_metadata=\"{metadata}\", scope=\"mcp\""));
    }
    let reply = proxy.send(
        "POST",
        "/mcp",
        &[("Content-Type", "application/json")],
        br#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#,
    );
    assert_eq!(reply.status, 401);
    for scheme in ["Basic YTpi", "Digest x", "Bearer"] {
        let reply = proxy.send("GET", "/mcp", &[("Authorization", scheme)], b"");
        assert!(!reply.header("www-authenticate").unwrap().contains("error="), "{scheme}");
    }
    let bad = proxy.send("GET", "/mcp", &[("Authorization", "Bearer nonsense")], b"");
    assert!(bad.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    let twice = proxy.send("GET", "/mcp", &[("Authorization", "Bearer a"), ("Authorization", "Bearer b")], b"");
    assert_eq!(twice.status, 401);
    let query = proxy.send("GET", "/mcp?access_token=x", &[], b"");
    assert!(!query.header("www-authenticate").unwrap().contains("error="), "a token in the query is no token");
}

#[test]
fn a_path_can_not_break_out_of_the_challenge() {
    let proxy = Proxy::start(1, &[]);
    for path in ["/%22x", "/a\"b", "/a,scope=\"x\"", "/a\\b", &format!("/{}", "x".repeat(500)), "/../mcp", "//evil"] {
        let reply = proxy.send("GET", path, &[], b"");
        if reply.status == 400 {
            continue;
        }
        let challenge = reply.header("www-authenticate").unwrap();
        assert_eq!(challenge.matches('"').count(), 4, "{path}: {challenge}");
        assert!(challenge.starts_with(&format!("Bearer resource_metadata=\"{}/.well-known/", proxy.origin())));
    }
}

#[test]
fn a_person_in_a_browser_is_told_what_this_is() {
    let proxy = Proxy::start(1, &[]);
    let reply = proxy.send("GET", "/mcp", &[("Accept", "text/html,application/xhtml+xml")], b"");
    assert_eq!(reply.status, 401);
    assert!(reply.header("www-authenticate").is_some() && reply.text().contains("This is an MCP server"));
    // The page of the house is for people alone: whatever a client sends to the root goes on to need a token.
    let page = proxy.send("GET", "/", &[("Accept", "text/html")], b"");
    assert!(page.status == 200 && page.text().contains("Sign in to see which of them you may use"));
    for (method, fields) in [
        ("GET", vec![("Accept", "text/event-stream")]),
        ("GET", vec![]),
        ("POST", vec![("Accept", "text/html")]),
        ("GET", vec![("Accept", "text/html"), ("Authorization", "Bearer x")]),
    ] {
        assert_eq!(proxy.send(method, "/", &fields, b"").status, 401, "{method} {fields:?}");
    }
    assert_eq!(proxy.send("GET", "/.auth/logo", &[], b"").status, 404);
}

fn cors(reply: &Reply, name: &str) -> String {
    reply.header(&format!("access-control-{name}")).unwrap_or_default().to_string()
}

#[test]
fn browser_clients_get_through_cors() {
    let proxy = Proxy::start(1, &["--allowed-origins", "https://app.example"]);
    let preflight = |path: &str, origin: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            (
                "Access-Control-Request-Headers",
                "authorization, content-type, mcp-protocol-version, mcp-param-x, x-evil",
            ),
        ];
        proxy.send("OPTIONS", path, &headers, b"")
    };
    for origin in
        ["http://localhost:6274", "http://127.0.0.1:1", "http://[::1]:9", "https://app.example", &proxy.origin()]
    {
        let reply = preflight("/mcp", origin);
        assert_eq!((reply.status, cors(&reply, "allow-origin").as_str()), (204, origin));
        assert_eq!(cors(&reply, "allow-headers"), "authorization, content-type, mcp-protocol-version, mcp-param-x");
        assert!(cors(&reply, "allow-methods").contains("DELETE"));
        let challenge = proxy.send("POST", "/mcp", &[("Origin", origin)], b"{}");
        assert_eq!((challenge.status, cors(&challenge, "allow-origin").as_str()), (401, origin));
        assert!(cors(&challenge, "expose-headers").contains("WWW-Authenticate"));
        assert_eq!(challenge.header("vary"), Some("Origin"));
        assert_eq!(cors(&challenge, "allow-credentials"), "");
    }
    for origin in [
        "https://evil.example",
        "null",
        "https://localhost.evil",
        "http://app.example",
        "https://app.example.evil",
        "file://",
    ] {
        assert_eq!(preflight("/mcp", origin).status, 403, "{origin}");
        let reply = proxy.send("POST", "/mcp", &[("Origin", origin)], b"{}");
        assert_eq!((reply.status, cors(&reply, "allow-origin").as_str()), (403, ""), "{origin}");
    }
    for path in ["/.idp/token", "/.idp/register", "/.idp/revoke", "/.well-known/oauth-authorization-server"] {
        let reply = preflight(path, "https://anything.example");
        assert_eq!((reply.status, cors(&reply, "allow-origin").as_str()), (204, "*"), "{path}");
        let reply = proxy.send(
            if path.starts_with("/.idp") { "POST" } else { "GET" },
            path,
            &[("Origin", "https://anything.example")],
            b"",
        );
        assert_eq!(cors(&reply, "allow-origin"), "*", "{path}");
    }
    for path in ["/.idp/auth", "/.auth/login", "/.auth/logout"] {
        let reply = preflight(path, "https://anything.example");
        assert_eq!((reply.status, cors(&reply, "allow-origin").as_str()), (405, ""), "{path}");
    }
}

#[test]
fn a_host_that_is_not_ours_is_refused_everywhere() {
    let proxy = Proxy::start(1, &["--allowed-hosts", "nas.local"]);
    let status = |host: &str, path: &str| {
        let mut connection = Connection::open(proxy.port);
        connection.write(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        connection.reply(false).unwrap().status
    };
    for path in ["/mcp", "/.well-known/jwks.json", "/.idp/auth", "/.auth/login"] {
        for host in ["evil.example", "localhost.evil", "169.254.169.254", "0.0.0.0", "127.0.0.1.nip.io"] {
            assert_eq!(status(host, path), 421, "{host}{path}");
        }
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]", "nas.local:8080"] {
            assert_ne!(status(host, path), 421, "{host}{path}");
        }
    }
}

#[test]
fn own_paths_never_reach_the_upstream_server_and_the_rest_does() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &[]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let status = |path: &str| proxy.send("GET", path, &[("Authorization", &token)], b"").status;
    for path in ["/.idp/x", "/.auth/x", "/.well-known/x", "/.idp", "/.auth/"] {
        assert_eq!(status(path), 404, "{path}");
    }
    assert!(upstream.received().is_empty());
    for path in ["/", "/mcp", "/anything?x=1", "/.idpx", "/.hidden", "/%2eidp/token"] {
        assert_eq!(status(path), 200, "{path}");
        assert_eq!(upstream.last().target, path);
    }
    for path in ["/a/../.idp/token", "/..", "/mcp/%2e%2e/admin", "/a%2f..%2fb", "/./x"] {
        assert_eq!(status(path), 400, "{path}");
    }
    assert_eq!(call(&proxy, "x").status, 401);
}
