//! What the MCP server is told about the user: mapped claims, and the signed assertion.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::Value;

use crate::support::flow::{Client, call};
use crate::support::proxy::{Proxy, command};
use crate::support::upstream::FakeUpstream;
use crate::support::wire::Transport;

/// Verifies a JWT with the published keys, as a server would, and returns header and claims.
fn verified(proxy: &Proxy, token: &str) -> (Value, Value) {
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let (header, claims): (Value, Value) =
        (serde_json::from_slice(&decode(header)).unwrap(), serde_json::from_slice(&decode(claims)).unwrap());
    let keys = proxy.send("GET", "/.well-known/jwks.json", &[], b"").json();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap().clone();
    let coordinate = |name: &str| decode(key[name].as_str().unwrap());
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &decode(signature)).unwrap();
    (header, claims)
}

#[test]
fn the_server_gets_a_signed_assertion_that_it_can_verify() {
    let upstream = FakeUpstream::ok();
    let proxy = Proxy::start(upstream.port, &["--identity-assertion"]);
    let client = Client::public(&proxy);
    let token = client.tokens().access;
    assert_eq!(call(&proxy, &token).status, 200);
    let first = upstream.last().header("x-forwarded-assertion").unwrap().to_string();
    let (header, claims) = verified(&proxy, &first);
    assert_eq!((header["alg"].as_str(), header["typ"].as_str()), (Some("ES256"), Some("identity-assertion+jwt")));
    assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some(proxy.origin().as_str()), Some("password")));
    assert_eq!(claims["aud"], format!("{}/mcp", proxy.origin()));
    assert_eq!(claims["client_id"], client.id.as_str());
    assert!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap() <= 60);
    // Signed once for many requests.
    call(&proxy, &token);
    assert_eq!(upstream.last().header("x-forwarded-assertion"), Some(first.as_str()));
    // It opens nothing here.
    assert_eq!(call(&proxy, &first).status, 401);
    assert_eq!(client.refresh(&first).error(), "invalid_grant");
}

#[test]
fn a_client_can_not_set_a_mapped_field_in_any_spelling() {
    let upstream = FakeUpstream::ok();
    let args = [
        "--header-mapping",
        "/sub:X-Remote-Id,/email:X-Mail,/client_id:X-App",
        "--identity-assertion",
        "--identity-assertion-header",
        "X-Who",
    ];
    let proxy = Proxy::start(upstream.port, &args);
    let client = Client::public(&proxy);
    let authorization = format!("Bearer {}", client.tokens().access);
    let mut headers =
        vec![("Authorization", authorization.as_str()), ("Content-Type", "application/json"), ("X-Kept", "kept")];
    let forged = ["X-Remote-Id", "x-remote-id", "X_Remote_Id", "X-Mail", "X_MAIL", "X.Mail", "X-App", "X-Who", "X_Who"];
    headers.extend(forged.iter().map(|name| (*name, "forged")));
    let reply = proxy.send("POST", "/mcp", &headers, br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    assert_eq!(reply.status, 200);
    let received = upstream.last();
    assert!(!received.headers.iter().any(|(_, value)| value == "forged"), "{received:?}");
    assert_eq!(received.header("x-remote-id"), Some("password"));
    assert_eq!(received.header("x-app"), Some(client.id.as_str()));
    assert_eq!(received.header("x-mail"), None, "there is no verified address");
    assert_eq!(received.header("x-kept"), Some("kept"));
    verified(&proxy, received.header("x-who").unwrap());
}

#[test]
fn fields_that_belong_to_the_message_can_not_be_mapped() {
    for name in [
        "Host",
        "Authorization",
        "Content-Length",
        "Transfer-Encoding",
        "Mcp-Session-Id",
        "Connection",
        "X-Forwarded-For",
        "Cookie",
        "host",
        "Mcp_Session_Id",
    ] {
        let done = command()
            .args(["--password", "x", "--header-mapping", &format!("/sub:{name}"), "http://127.0.0.1:1"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains("--header-mapping (HEADER_MAPPING)"), "{name}: {said}");
    }
    let twice = command()
        .args(["--password", "x", "--header-mapping", "/sub:X-A,/email:x-a", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&twice.stderr).contains("twice"));
}
