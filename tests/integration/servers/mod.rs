//! Several MCP servers behind one proxy (`--servers`).

mod compartments;
mod machines;
mod reload;
mod resources;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::flow::{Browser, Client, Tokens, encode, query, tokens};
use crate::support::proxy::{PASSWORD, Proxy, Scratch, arguments, command, free_port};
use crate::support::stdio::SCRIPT;
use crate::support::upstream::FakeUpstream;
use crate::support::wire::{Reply, Transport, request};

/// A server at a URL.
fn http(upstream: &FakeUpstream) -> Value {
    json!({ "url": format!("http://127.0.0.1:{}/mcp", upstream.port) })
}

/// The scripted stdio server.
fn stdio() -> Value {
    json!({ "command": "python3", "args": ["-u", SCRIPT] })
}

/// With further keys under `proxy`.
fn with(mut server: Value, proxy: Value) -> Value {
    server["proxy"] = proxy;
    server
}

fn write(data: &Scratch, servers: &Value) {
    let path = data.path("mcp.json");
    std::fs::write(&path, json!({ "mcpServers": servers }).to_string()).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn start(servers: &Value, args: &[&str]) -> Proxy {
    start_in(Arc::new(Scratch::new()), free_port(), servers, args)
}

fn start_in(data: Arc<Scratch>, port: u16, servers: &Value, args: &[&str]) -> Proxy {
    write(&data, servers);
    let mut command = command();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(arguments(&data, port)).args(["--servers", &data.path("mcp.json")]).args(args);
    Proxy::spawn(command, port, data)
}

/// The URLs of the resources at `paths`, as parameters.
fn resources(proxy: &Proxy, paths: &[&str]) -> String {
    let urls: Vec<String> = paths.iter().map(|path| format!("{}{path}", proxy.origin())).collect();
    encode(&urls.iter().map(|url| ("resource", url.as_str())).collect::<Vec<_>>())
}

/// What the client gets for an authorization request for these resources: the redirect's parameters.
fn authorize(proxy: &Proxy, client: &Client<'_, Proxy>, paths: &[&str]) -> std::collections::BTreeMap<String, String> {
    let target = format!("{}&{}", client.authorize(&[]), resources(proxy, paths));
    let reply = Browser::new(proxy).sign_in(&target, PASSWORD);
    query(reply.header("location").unwrap_or_else(|| panic!("{}", reply.text())))
}

fn granted(proxy: &Proxy, client: &Client<'_, Proxy>, paths: &[&str]) -> Tokens {
    tokens(&client.redeem(&authorize(proxy, client, paths)["code"]))
}

fn refresh(proxy: &Proxy, client: &Client<'_, Proxy>, token: &str, paths: &[&str]) -> Reply {
    let pairs = encode(&[("client_id", &client.id), ("grant_type", "refresh_token"), ("refresh_token", token)]);
    let body = format!("{pairs}&{}", resources(proxy, paths));
    let mut connection = proxy.connect();
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    connection.write(request("POST", "/.idp/token", &proxy.host(), &form, body.as_bytes()));
    connection.reply(false).unwrap()
}

fn audience(token: &str) -> Value {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["aud"].clone()
}

/// A request whose target is sent as it stands.
fn get(proxy: &Proxy, token: &str, target: &str) -> Reply {
    let mut connection = proxy.connect();
    let token = format!("Bearer {token}");
    connection.write(request("GET", target, &proxy.host(), &[("Authorization", &token)], b""));
    connection.reply(false).unwrap()
}
