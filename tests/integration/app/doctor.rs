//! `mcp-auth-proxy doctor`: a server that is as it should be, and one that is broken for each thing that can be found.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::support::proxy::{Proxy, Scratch, command};
use crate::support::stdio::Published;
use crate::support::tls::{Authority, serve, serve_on};
use crate::support::upstream::{FakeUpstream, Received, text};

/// What the server answers, before a case breaks it.
struct Reply {
    status: &'static str,
    fields: Vec<(&'static str, String)>,
    body: String,
    /// The connection is closed without an answer.
    is_silent: bool,
    /// How long it takes.
    pause: Duration,
}

impl Reply {
    fn new(status: &'static str, body: impl Into<String>) -> Reply {
        Reply { status, fields: Vec::new(), body: body.into(), is_silent: false, pause: Duration::ZERO }
    }

    fn json(status: &'static str, body: Value) -> Reply {
        Reply::new(status, body.to_string()).with("Content-Type", "application/json")
    }

    fn page(status: &'static str, words: &str) -> Reply {
        Reply::new(status, format!("<!DOCTYPE html><html><title>{words}</title><body>{words}</body></html>"))
            .with("Content-Type", "text/html; charset=utf-8")
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.fields.retain(|(known, _)| *known != name);
        self.fields.push((name, value.into()));
        self
    }

    /// Changes a member of its JSON object.
    fn set(self, name: &str, value: Value) -> Reply {
        let mut object: Value = serde_json::from_str(&self.body).unwrap();
        match value {
            Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
            value => object[name] = value,
        }
        Reply { body: object.to_string(), ..self }
    }
}

fn path(request: &Received) -> &str {
    request.target.split('?').next().unwrap()
}

fn query(request: &Received, name: &str) -> Option<String> {
    let (_, query) = request.target.split_once('?')?;
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// A server as it should be.
fn good(request: &Received) -> Reply {
    let base = format!("http://{}", request.header("host").unwrap());
    let metadata = format!("{base}/.well-known/oauth-protected-resource/mcp");
    let reply = match (request.method.as_str(), path(request)) {
        ("OPTIONS", _) => Reply::new("204 No Content", "")
            .with("Access-Control-Allow-Headers", "authorization, content-type, mcp-protocol-version, mcp-session-id"),
        (_, "/mcp") => {
            let error = request.header("authorization").map_or("", |_| ", error=\"invalid_token\"");
            Reply::new("401 Unauthorized", "")
                .with("WWW-Authenticate", format!("Bearer resource_metadata=\"{metadata}\"{error}"))
        }
        (_, "/.well-known/oauth-protected-resource/mcp" | "/.well-known/oauth-protected-resource") => {
            Reply::json("200 OK", json!({"resource": format!("{base}/mcp"), "authorization_servers": [base]}))
        }
        (_, "/.well-known/oauth-authorization-server") => Reply::json(
            "200 OK",
            json!({
                "issuer": base, "authorization_endpoint": format!("{base}/authorize"),
                "token_endpoint": format!("{base}/token"), "registration_endpoint": format!("{base}/register"),
                "response_types_supported": ["code"], "grant_types_supported": ["authorization_code", "refresh_token"],
                "code_challenge_methods_supported": ["S256"], "token_endpoint_auth_methods_supported": ["none"],
                "client_id_metadata_document_supported": true,
            }),
        ),
        ("POST", "/register") => {
            let sent: Value = serde_json::from_slice(&request.body).unwrap();
            let id = sent["redirect_uris"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>();
            Reply::json("201 Created", sent.clone())
                .set("client_id", id.join(" ").into())
                .set("registration_client_uri", format!("{base}/register/one").into())
                .set("registration_access_token", "of-the-client".into())
        }
        ("DELETE", "/register/one") if request.header("authorization") == Some("Bearer of-the-client") => {
            Reply::new("204 No Content", "")
        }
        ("GET", "/authorize") => authorize(request),
        ("POST", "/token") => Reply::json("400 Bad Request", json!({"error": "invalid_grant"})),
        _ => Reply::json("404 Not Found", json!({"error": "not_found"})),
    };
    reply
        .with("Access-Control-Allow-Origin", "*")
        .with("Access-Control-Expose-Headers", "WWW-Authenticate, Mcp-Session-Id")
}

/// A page, if all is as registered: the id says which redirect URIs these are.
fn authorize(request: &Received) -> Reply {
    let [id, uri] = ["client_id", "redirect_uri"].map(|name| query(request, name).unwrap_or_default());
    let without_port = |uri: &str| {
        uri.split(':').map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit())).collect::<String>()
    };
    let is_known = id.starts_with("https://") && !id.contains("callback") && !id.contains("redirect")
        || id
            .split(' ')
            .any(|known| known == uri || (uri.starts_with("http:") && without_port(known) == without_port(&uri)));
    match is_known && query(request, "code_challenge_method").as_deref() == Some("S256") {
        true => Reply::page("200 OK", "Sign in"),
        false => Reply::page("400 Bad Request", "This does not work"),
    }
}

fn start(change: impl Fn(&Received, Reply) -> Reply + Send + Sync + 'static) -> FakeUpstream {
    FakeUpstream::start(move |request, out| {
        let reply = change(request, good(request));
        std::thread::sleep(reply.pause);
        if reply.is_silent {
            let _ = out.shutdown(std::net::Shutdown::Both);
            return;
        }
        let fields: String = reply.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let body = if request.method == "HEAD" { "" } else { &reply.body };
        text(out, reply.status, &fields, body);
    })
}

/// Exit code and report.
fn doctor(url: &str, args: &[&str]) -> (i32, Value) {
    let output = command().args(["doctor", "--json", url]).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let report = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {output:?}"));
    (output.status.code().unwrap(), report)
}

/// The findings, each with the clients that it keeps out.
fn findings(report: &Value) -> Vec<(String, BTreeSet<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let steps = report["steps"].as_array().unwrap().iter().filter(|step| step["result"] != "ok");
    steps.map(|step| (text(&step["finding"]), step["fails"].as_array().unwrap().iter().map(text).collect())).collect()
}

/// What is found of every server on this machine.
const LOCAL: [&str; 2] = ["not-public", "this-machine"];

/// All clients by name, so that those at their vendors are not left out.
const ALL_CLIENTS: [&str; 13] = [
    "claude",
    "claude-code",
    "chatgpt",
    "cursor",
    "vscode",
    "gemini-cli",
    "codex",
    "goose",
    "inspector",
    "mcp-remote",
    "librechat",
    "typescript-sdk",
    "python-sdk",
];

fn for_all(url: &str) -> (i32, Value) {
    let args: Vec<&str> = ALL_CLIENTS.iter().flat_map(|client| ["--client", client]).collect();
    doctor(url, &args)
}

fn codes(report: &Value) -> Vec<String> {
    findings(report).into_iter().map(|(code, _)| code).filter(|code| !LOCAL.contains(&code.as_str())).collect()
}

#[test]
fn a_server_as_it_should_be_has_nothing_against_it_and_keeps_nothing() {
    let server = start(|_, reply| reply);
    let url = format!("http://127.0.0.1:{}/mcp", server.port);
    let (code, report) = doctor(&url, &["--client", "cursor", "--client", "python-sdk", "--strict"]);
    assert_eq!((code, codes(&report)), (0, Vec::new()), "{report:#}");
    let (code, report) = doctor(&url, &["--strict"]);
    assert_eq!((code, codes(&report)), (0, Vec::new()), "{report:#}");
    assert_eq!(
        findings(&report),
        [("this-machine".to_string(), BTreeSet::new())],
        "those at their vendors are left out"
    );
    let (code, report) = for_all(&url);
    let kept_out: BTreeSet<String> = ["chatgpt", "claude"].map(String::from).into();
    assert_eq!((code, findings(&report)), (2, vec![("not-public".to_string(), kept_out)]), "unless one asks for them");
    let removed = server.received().iter().filter(|request| request.method == "DELETE").count();
    let registered = server.received().iter().filter(|request| is(request, "POST", "/register")).count();
    assert_eq!((removed, report["left_registered"].clone()), (registered, json!([])), "{report:#}");
    assert!(registered > 10, "{registered}");
}

#[test]
fn a_look_without_registration_registers_nothing() {
    let server = start(|_, reply| reply);
    let (_, report) = doctor(&format!("http://127.0.0.1:{}/mcp", server.port), &["--no-registration"]);
    assert_eq!(codes(&report), Vec::<String>::new(), "{report:#}");
    assert!(!server.received().iter().any(|request| is(request, "POST", "/register")));
}

type Change = fn(&Received, Reply) -> Reply;

fn is(request: &Received, method: &str, at: &str) -> bool {
    request.method == method && path(request) == at
}

const SERVER: &str = "/.well-known/oauth-authorization-server";
const RESOURCE: &str = "/.well-known/oauth-protected-resource/mcp";

/// The answer to the first request, whatever the method, name and token.
fn challenge(request: &Received, reply: Reply, change: impl Fn(Reply) -> Reply) -> Reply {
    if path(request) == "/mcp" && request.method != "OPTIONS" { change(reply) } else { reply }
}

/// The challenge as it is, but for the text.
fn field(request: &Received, reply: Reply, text: &str) -> Reply {
    challenge(request, reply, |reply| reply.with("WWW-Authenticate", text))
}

/// A member of a document.
fn member(request: &Received, reply: Reply, at: &str, name: &str, value: Value) -> Reply {
    if path(request) == at && request.method != "OPTIONS" { reply.set(name, value) } else { reply }
}

fn unless(is_so: bool, reply: Reply, other: Reply) -> Reply {
    if is_so { other } else { reply }
}

/// The clients that a finding keeps out: all, none, or these.
enum Fails {
    All,
    Nobody,
    These(&'static [&'static str]),
}

use Fails::{All, Nobody, These};

/// Broken servers: what is found first, and for whom.
const BROKEN_CHALLENGES: &[(&str, Fails, Change)] = &[
    ("no-answer", All, |_, reply| Reply { is_silent: true, ..reply }),
    ("redirected", All, |r, reply| {
        challenge(r, reply, |_| Reply::new("301 Moved Permanently", "").with("Location", "/mcp/"))
    }),
    ("redirected-keeping-method", Nobody, |r, reply| {
        challenge(r, reply, |_| Reply::new("308 Permanent Redirect", "").with("Location", "/other"))
    }),
    ("sign-in-in-front", All, |r, reply| challenge(r, reply, |_| Reply::page("200 OK", "Log in to continue"))),
    ("blocked", All, |r, reply| {
        challenge(r, reply, |_| Reply::page("403 Forbidden", "Just a moment...").with("cf-mitigated", "challenge"))
    }),
    ("server-down", All, |r, reply| {
        challenge(r, reply, |_| Reply::page("502 Bad Gateway", "nginx").with("Server", "nginx"))
    }),
    ("host-refused", All, |r, reply| challenge(r, reply, |_| Reply::new("421 Misdirected Request", "who?"))),
    ("not-found", All, |r, reply| challenge(r, reply, |_| Reply::new("404 Not Found", ""))),
    ("open", Nobody, |r, reply| {
        challenge(r, reply, |_| {
            Reply::json("200 OK", json!({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-06-18"}}))
        })
    }),
    ("not-mcp", All, |r, reply| challenge(r, reply, |_| Reply::new("202 Accepted", ""))),
    ("redirected", All, |r, reply| {
        challenge(r, reply, |_| Reply::new("308 Permanent Redirect", "").with("Location", "/mcp"))
    }),
    ("no-challenge", All, |r, reply| {
        challenge(r, reply, |_| Reply::json("406 Not Acceptable", json!({"error": "no"})))
    }),
    ("challenge-without-field", These(&["claude", "chatgpt"]), |r, reply| {
        challenge(r, reply, |reply| Reply {
            fields: reply.fields.into_iter().filter(|(name, _)| *name != "WWW-Authenticate").collect(),
            ..Reply::new("401 Unauthorized", "")
        })
    }),
    ("challenge-not-bearer", All, |r, reply| field(r, reply, "Basic realm=\"staging\"")),
    ("challenge-without-metadata", Nobody, |r, reply| field(r, reply, "Bearer realm=\"mcp\"")),
    (
        "challenge-form",
        These(&["claude-code", "cursor", "gemini-cli", "inspector", "mcp-remote", "librechat", "typescript-sdk"]),
        |r, reply| {
            let host = r.header("host").unwrap().to_string();
            field(r, reply, &format!("Bearer resource_metadata=http://{host}{RESOURCE}"))
        },
    ),
    ("challenge-with-error", Nobody, |r, reply| {
        let host = r.header("host").unwrap().to_string();
        field(r, reply, &format!("Bearer error=\"invalid_token\", resource_metadata=\"http://{host}{RESOURCE}\""))
    }),
    ("offline-access-in-challenge", Nobody, |r, reply| {
        member(r, reply, RESOURCE, "scopes_supported", json!(["offline_access"]))
    }),
    ("head-without-challenge", These(&["gemini-cli", "librechat"]), |r, reply| {
        unless(is(r, "HEAD", "/mcp"), reply, Reply::new("405 Method Not Allowed", ""))
    }),
    ("get-without-challenge", These(&["claude"]), |r, reply| {
        unless(is(r, "GET", "/mcp"), reply, Reply::new("405 Method Not Allowed", ""))
    }),
    ("get-answered", These(&["codex", "goose"]), |r, reply| {
        unless(is(r, "GET", "/mcp"), reply, Reply::page("200 OK", "An MCP server"))
    }),
    ("agent-blocked", These(&["claude"]), |r, reply| {
        let is_claude = r.header("user-agent").is_some_and(|agent| agent.contains("Claude-User"));
        unless(is_claude, reply, Reply::new("403 Forbidden", "Your request was blocked."))
    }),
    ("any-token-accepted", Nobody, |r, reply| {
        unless(
            is(r, "POST", "/mcp") && r.header("authorization").is_some(),
            reply,
            Reply::json("200 OK", json!({"result": {}})),
        )
    }),
    ("token-not-noticed", Nobody, |r, reply| {
        let host = r.header("host").unwrap().to_string();
        field(r, reply, &format!("Bearer resource_metadata=\"http://{host}{RESOURCE}\""))
    }),
    ("clock-skew", Nobody, |_, reply| reply.with("Date", "Mon, 02 Jan 2023 10:00:00 GMT")),
    ("slow", Nobody, |r, reply| {
        let pause = if path(r) == "/token" { Duration::from_millis(3200) } else { Duration::ZERO };
        Reply { pause, ..reply }
    }),
];

const BROKEN_DOCUMENTS: &[(&str, Fails, Change)] = &[
    ("no-resource-metadata", These(&["claude", "chatgpt"]), |r, reply| {
        unless(path(r).starts_with("/.well-known/oauth-protected-resource"), reply, Reply::new("404 Not Found", ""))
    }),
    ("root-metadata-missing", Nobody, |r, reply| {
        unless(path(r) == "/.well-known/oauth-protected-resource", reply, Reply::new("404 Not Found", ""))
    }),
    (
        "well-known-page",
        These(&["claude", "claude-code", "cursor", "inspector", "mcp-remote", "librechat", "typescript-sdk"]),
        |r, reply| unless(path(r).contains("doctor-asks"), reply, Reply::page("200 OK", "My application")),
    ),
    ("metadata-not-json", All, |r, reply| unless(path(r) == RESOURCE, reply, Reply::page("200 OK", "My application"))),
    ("metadata-elsewhere", All, |r, reply| {
        field(r, reply, "Bearer resource_metadata=\"http://localhost:1/.well-known/oauth-protected-resource/mcp\"")
    }),
    ("resource-differs", All, |r, reply| member(r, reply, RESOURCE, "resource", "https://internal.example/mcp".into())),
    ("resource-spelled-otherwise", These(&["vscode", "gemini-cli", "codex", "goose"]), |r, reply| {
        let base = format!("http://{}/", r.header("host").unwrap());
        member(r, reply, RESOURCE, "resource", base.into())
    }),
    ("no-authorization-server", All, |r, reply| member(r, reply, RESOURCE, "authorization_servers", json!([]))),
    ("no-server-metadata", All, |r, reply| unless(path(r) == SERVER, reply, Reply::new("404 Not Found", ""))),
    (
        "issuer-differs",
        These(&[
            "claude",
            "claude-code",
            "cursor",
            "codex",
            "goose",
            "inspector",
            "mcp-remote",
            "librechat",
            "typescript-sdk",
            "python-sdk",
        ]),
        |r, reply| {
            let base = format!("http://{}/", r.header("host").unwrap());
            member(r, reply, SERVER, "issuer", base.into())
        },
    ),
    ("endpoint-missing", All, |r, reply| member(r, reply, SERVER, "token_endpoint", Value::Null)),
    (
        "no-pkce",
        These(&["claude", "claude-code", "cursor", "inspector", "mcp-remote", "librechat", "typescript-sdk"]),
        |r, reply| member(r, reply, SERVER, "code_challenge_methods_supported", Value::Null),
    ),
    ("no-pkce", All, |r, reply| member(r, reply, SERVER, "code_challenge_methods_supported", json!(["plain"]))),
    ("no-code-flow", All, |r, reply| member(r, reply, SERVER, "response_types_supported", json!(["token"]))),
    ("no-refresh", Nobody, |r, reply| member(r, reply, SERVER, "grant_types_supported", json!(["authorization_code"]))),
    ("no-registration", All, |r, reply| {
        let reply = member(r, reply, SERVER, "registration_endpoint", Value::Null);
        member(r, reply, SERVER, "client_id_metadata_document_supported", json!(false))
    }),
    (
        "documents-only",
        These(&[
            "cursor",
            "vscode",
            "gemini-cli",
            "codex",
            "inspector",
            "mcp-remote",
            "librechat",
            "typescript-sdk",
            "python-sdk",
        ]),
        |r, reply| member(r, reply, SERVER, "registration_endpoint", Value::Null),
    ),
    ("documents-without-public-clients", Nobody, |r, reply| {
        member(r, reply, SERVER, "token_endpoint_auth_methods_supported", json!(["client_secret_basic"]))
    }),
];

const BROKEN_ENDPOINTS: &[(&str, Fails, Change)] = &[
    (
        "registration-closed",
        These(&[
            "cursor",
            "vscode",
            "gemini-cli",
            "codex",
            "inspector",
            "mcp-remote",
            "librechat",
            "typescript-sdk",
            "python-sdk",
        ]),
        |r, reply| {
            unless(
                is(r, "POST", "/register"),
                reply,
                Reply::json("401 Unauthorized", json!({"error": "invalid_token"})),
            )
        },
    ),
    ("registration-refused", These(&["cursor"]), |r, reply| {
        let is_cursor = is(r, "POST", "/register") && String::from_utf8_lossy(&r.body).contains("cursor://");
        unless(is_cursor, reply, Reply::json("400 Bad Request", json!({"error": "invalid_redirect_uri"})))
    }),
    ("registration-limited", Nobody, |r, reply| {
        unless(is(r, "POST", "/register"), reply, Reply::json("429 Too Many Requests", json!({"error": "slow_down"})))
    }),
    (
        "registration-incomplete",
        These(&[
            "chatgpt",
            "cursor",
            "vscode",
            "gemini-cli",
            "codex",
            "inspector",
            "mcp-remote",
            "librechat",
            "typescript-sdk",
            "python-sdk",
        ]),
        |r, reply| member(r, reply, "/register", "redirect_uris", Value::Null),
    ),
    ("registration-without-refresh", These(&["chatgpt"]), |r, reply| {
        member(r, reply, "/register", "grant_types", json!(["authorization_code"]))
    }),
    ("authorization-refused", These(&["cursor"]), |r, reply| {
        let is_cursor = query(r, "redirect_uri").is_some_and(|uri| uri.starts_with("cursor:"));
        unless(is_cursor, reply, Reply::page("400 Bad Request", "This redirect URI is not allowed"))
    }),
    ("loopback-port", Nobody, |r, reply| {
        let is_other = query(r, "redirect_uri").is_some_and(|uri| uri.contains(":33419/"))
            && query(r, "client_id").is_some_and(|id| id.contains(":33418/"));
        unless(is_other, reply, Reply::page("400 Bad Request", "redirect_uri does not match"))
    }),
    ("document-refused", These(&["claude", "claude-code", "goose"]), |r, reply| {
        let is_document = query(r, "client_id").is_some_and(|id| id.ends_with("metadata") || id.ends_with(".json"));
        unless(is_document, reply, Reply::page("400 Bad Request", "invalid_client"))
    }),
    ("redirect-not-checked", Nobody, |r, reply| {
        let is_foreign = query(r, "redirect_uri").is_some_and(|uri| uri.contains("attacker.example"));
        unless(is_foreign, reply, Reply::page("200 OK", "Sign in"))
    }),
    ("redirect-not-checked", Nobody, |r, reply| {
        let is_foreign = query(r, "redirect_uri").is_some_and(|uri| uri.contains("attacker.example"));
        let to = "https://attacker.example/callback?error=access_denied&state=doctor";
        unless(is_foreign, reply, Reply::new("302 Found", "").with("Location", to))
    }),
    ("pkce-not-required", Nobody, |r, reply| {
        let is_plain = path(r) == "/authorize" && query(r, "code_challenge").is_none();
        unless(is_plain, reply, Reply::page("200 OK", "Sign in"))
    }),
    ("token-endpoint-fails", All, |r, reply| {
        unless(is(r, "POST", "/token"), reply, Reply::page("403 Forbidden", "Forbidden"))
    }),
    ("token-error-unknown", Nobody, |r, reply| member(r, reply, "/token", "error", "server_confused".into())),
    ("cors-mcp", These(&["inspector"]), |r, reply| {
        unless(is(r, "OPTIONS", "/mcp"), reply, Reply::new("401 Unauthorized", ""))
    }),
    ("cors-challenge", These(&["inspector"]), |r, reply| {
        challenge(r, reply, |reply| reply.with("Access-Control-Expose-Headers", ""))
    }),
    ("cors-oauth", These(&["inspector"]), |r, reply| {
        unless(is(r, "OPTIONS", "/token"), reply, Reply::new("405 Method Not Allowed", ""))
    }),
];

fn finds(cases: &[(&str, Fails, Change)]) {
    for (code, fails, change) in cases {
        let server = start(*change);
        let (exit, report) = for_all(&format!("http://127.0.0.1:{}/mcp", server.port));
        let found = findings(&report);
        let Some((_, kept_out)) = found.iter().find(|(found, _)| found == code) else {
            panic!("{code} is not found: {report:#}")
        };
        match fails {
            All => assert_eq!(kept_out.len(), ALL_CLIENTS.len(), "{code}: {report:#}"),
            Nobody => assert!(kept_out.is_empty(), "{code}: {report:#}"),
            These(names) => {
                let names: BTreeSet<String> = names.iter().map(|name| name.to_string()).collect();
                assert_eq!(*kept_out, names, "{code}: {report:#}");
            }
        }
        assert_eq!(exit, 2, "those at their vendors never get through to this machine");
    }
}

#[test]
fn each_way_to_break_the_challenge_is_found() {
    finds(BROKEN_CHALLENGES);
}

#[test]
fn each_way_to_break_the_documents_is_found() {
    finds(BROKEN_DOCUMENTS);
}

#[test]
fn each_way_to_break_the_endpoints_is_found() {
    finds(BROKEN_ENDPOINTS);
}

#[test]
fn names_and_addresses_that_lead_nowhere_are_found() {
    let closed = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
    for (url, code) in [
        ("https://nothing.invalid/mcp".to_string(), "unknown-name"),
        (format!("http://127.0.0.1:{closed}/mcp"), "no-connection"),
    ] {
        let (exit, report) = doctor(&url, &[]);
        assert!(exit == 2 && codes(&report).iter().any(|found| found == code), "{url}: {report:#}");
    }
    let server = start(|_, reply| reply);
    for (url, wanted) in
        [("ftp://a/mcp", "is not an https:// URL"), ("https://u:p@a/", "user name"), ("mcp", "https://")]
    {
        let output = command().args(["doctor", url]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(wanted), "{url}: {said}");
    }
    let output =
        command().args(["doctor", "--client", "netscape", &format!("http://127.0.0.1:{}", server.port)]).output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("no client 'netscape'") && said.contains("claude-code"), "{said}");
}

/// A certificate for `name`, valid from and until so many days from now, signed by an authority between it and the root; the
/// one between, and the root.
fn chain(name: &str, from: i64, until: i64) -> [String; 4] {
    let now = std::time::SystemTime::now();
    let day = |days: i64| match days {
        0.. => now + Duration::from_secs(86_400 * days.unsigned_abs()),
        _ => now - Duration::from_secs(86_400 * days.unsigned_abs()),
    };
    let authority = |title: &str| {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, title);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (parameters, KeyPair::generate().unwrap())
    };
    let (root, root_key) = authority("a root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let root = Issuer::new(root, root_key);
    let (between, between_key) = authority("one between");
    let between_pem = between.signed_by(&between_key, &root).unwrap().pem();
    let between = Issuer::new(between, between_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec![name.to_string()]).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, "a server");
    (leaf.not_before, leaf.not_after) = (day(from).into(), day(until).into());
    let leaf = leaf.signed_by(&key, &between).unwrap().pem();
    [leaf, key.serialize_pem(), between_pem, root_pem]
}

#[test]
fn each_fault_of_a_certificate_is_found() {
    let scratch = Scratch::new();
    let answer = || b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec();
    let look = |port: u16, root: Option<&str>| {
        let file = scratch.path("root.pem");
        std::fs::write(&file, root.unwrap_or_default()).unwrap();
        let url = format!("https://localhost:{port}/mcp");
        let args = if root.is_some() { vec!["--ca-file", file.as_str()] } else { Vec::new() };
        codes(&doctor(&url, &args).1)
    };
    for (code, name, from, until, is_root_known) in [
        ("certificate-expired", "localhost", -90, -1, true),
        ("certificate-not-yet-valid", "localhost", 1, 90, true),
        ("certificate-wrong-name", "other.example", -1, 90, true),
        ("certificate-expires-soon", "localhost", -80, 5, true),
        ("certificate-private-authority", "localhost", -1, 60, true),
        ("certificate-not-trusted", "localhost", -1, 60, false),
    ] {
        let [leaf, key, between, root] = chain(name, from, until);
        let port = serve(&format!("{leaf}{between}"), &key, answer());
        let found = look(port, is_root_known.then_some(root.as_str()));
        assert!(found.iter().any(|found| found == code), "{code}: {found:?}");
    }
    let [leaf, key, _, root] = chain("localhost", -1, 60);
    let found = look(serve(&leaf, &key, answer()), Some(&root));
    assert!(found.contains(&"certificate-chain-incomplete".to_string()), "{found:?}");
    let (certificate, key) = Authority::new().certificate(&["localhost"]);
    let good = look(serve(&certificate, &key, answer()), None);
    assert!(good.contains(&"certificate-chain-incomplete".to_string()), "its root is not known either: {good:?}");
    let plain = start(|_, reply| reply);
    assert!(look(plain.port, None).contains(&"tls-failed".to_string()));
}

#[test]
fn an_https_server_that_names_http_endpoints_is_found() {
    let [leaf, key, between, root] = chain("localhost", -1, 60);
    let scratch = Scratch::new();
    std::fs::write(scratch.path("root.pem"), root).unwrap();
    // It has one answer for everything: a challenge, a document of the resource and one of the server.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let base = format!("https://localhost:{port}");
    let body = json!({
        "resource": format!("{base}/mcp"), "authorization_servers": [base], "issuer": base,
        "authorization_endpoint": "http://localhost/authorize", "token_endpoint": "http://localhost/token",
        "response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"],
    });
    let challenge =
        format!("WWW-Authenticate: Bearer resource_metadata=\"{base}/.well-known/oauth-protected-resource/mcp\"\r\n");
    let body = body.to_string();
    let answers = move |head: &str| {
        let (status, fields, body) = match head.contains(" /mcp ") {
            true => ("401 Unauthorized", challenge.as_str(), ""),
            false => ("200 OK", "Content-Type: application/json\r\n", body.as_str()),
        };
        format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    serve_on(listener, &format!("{leaf}{between}"), &key, answers);
    let (exit, report) = doctor(&format!("{base}/mcp"), &["--ca-file", &scratch.path("root.pem")]);
    assert!(exit == 2 && codes(&report).iter().any(|code| code == "endpoint-not-https"), "{report:#}");
}

/// A proxy in front of the real one that reads the whole answer before it passes it on, or changes it.
fn in_front(port: u16, change: fn(&Received, String) -> String) -> FakeUpstream {
    FakeUpstream::start(move |request, out| {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let is_mine = |name: &str| ["connection", "content-length"].iter().any(|n| name.eq_ignore_ascii_case(n));
        let fields: String =
            request.headers.iter().filter(|(n, _)| !is_mine(n)).map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let head = format!(
            "{} {} HTTP/1.1\r\n{fields}Connection: close\r\nContent-Length: {}\r\n\r\n",
            request.method,
            request.target,
            request.body.len()
        );
        socket.write_all(change(request, head).as_bytes()).unwrap();
        socket.write_all(&request.body).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let answer = change(request, String::from_utf8(answer).unwrap());
        let _ = out.write_all(answer.as_bytes());
        let _ = out.shutdown(std::net::Shutdown::Both);
    })
}

#[test]
fn what_a_proxy_in_between_does_to_events_and_tokens_is_found() {
    let proxy = Proxy::start(FakeUpstream::ok().port, &[]);
    let args = ["--client", "cursor", "--no-registration"];
    let look = |port: u16| codes(&doctor(&format!("http://localhost:{port}/mcp"), &args).1);
    assert_eq!(look(proxy.port), Vec::<String>::new(), "the proxy itself");
    let holds = look(in_front(proxy.port, |_, text| text).port);
    assert!(holds.contains(&"events-buffered".to_string()), "{holds:?}");
    let takes = look(
        in_front(proxy.port, |_, text| {
            text.lines().filter(|line| !line.starts_with("authorization:")).map(|line| format!("{line}\r\n")).collect()
        })
        .port,
    );
    assert!(takes.contains(&"authorization-taken".to_string()), "{takes:?}");
    let squeezes = look(
        in_front(proxy.port, |_, text| {
            text.replace("content-type: text/event-stream", "content-encoding: gzip\r\ncontent-type: text/event-stream")
        })
        .port,
    );
    assert!(squeezes.contains(&"events-compressed".to_string()), "{squeezes:?}");
}

#[test]
fn with_a_token_it_begins_a_session_and_ends_it() {
    let scratch = Scratch::new();
    let server = start(|request, reply| match request.header("authorization") {
        Some("Bearer good-token") if request.method == "POST" && path(request) == "/mcp" => {
            Reply::json("200 OK", json!({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-06-18"}}))
                .with("Mcp-Session-Id", "one")
        }
        Some("Bearer good-token") if request.method == "GET" => {
            Reply::new("200 OK", ": hello\n\n").with("Content-Type", "text/event-stream")
        }
        Some("Bearer good-token") => Reply::new("200 OK", ""),
        _ => reply,
    });
    let url = format!("http://127.0.0.1:{}/mcp", server.port);
    let file = scratch.path("token");
    std::fs::write(&file, "good-token\n").unwrap();
    let (exit, report) = doctor(&url, &["--client", "cursor", "--token-file", &file]);
    assert_eq!((exit, codes(&report)), (0, Vec::new()), "{report:#}");
    assert!(!report.to_string().contains("good-token"));
    let ended = server.received().iter().any(|r| r.method == "DELETE" && r.header("mcp-session-id") == Some("one"));
    assert!(ended, "the session is ended");
    std::fs::write(&file, "bad-token\n").unwrap();
    let (exit, report) = doctor(&url, &["--client", "cursor", "--token-file", &file]);
    assert!(exit == 2 && codes(&report).contains(&"session-fails".to_string()), "{report:#}");
}

#[test]
fn a_stranger_s_text_can_t_write_to_the_terminal() {
    let server = start(|r, reply| challenge(r, reply, |_| Reply::new("404 Not Found", "\x1b[2Jgone\u{202e}\u{9b}31m")));
    let output = command().args(["doctor", &format!("http://127.0.0.1:{}/mcp", server.port)]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("gone") && !text.contains(['\x1b', '\u{202e}', '\u{9b}']), "{text:?}");
}

#[test]
fn a_path_at_which_a_stdio_server_does_not_answer_is_found() {
    let published = Published::start(&[], &[]);
    let (_, report) = doctor(&format!("http://localhost:{}/notes/mcp", published.proxy.port), &["--no-registration"]);
    assert_eq!(codes(&report), ["not-found"], "{report:#}");
    assert!(
        report.to_string().contains(&format!("says that it is http://localhost:{}/mcp", published.proxy.port)),
        "{report:#}"
    );
}

#[test]
fn few_can_look_through_the_echo_at_one_time() {
    let proxy = Proxy::start(FakeUpstream::ok().port, &[]);
    let mut open: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    for connection in &mut open {
        connection.write("GET /.idp/echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer of-somebody\r\n\r\n");
    }
    let answers: Vec<_> = open.iter_mut().map(|connection| connection.reply(false).unwrap()).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 1, "{statuses:?}");
    assert!(answers.iter().all(|answer| !answer.text().contains("of-somebody")), "the token is not given back");
}

/// Everything that doctor writes.
fn output(url: &str, args: &[&str]) -> String {
    let output = command().arg("doctor").args(args).arg(url).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_token_goes_nowhere_else_and_is_not_printed() {
    let scratch = Scratch::new();
    let file = scratch.path("token");
    std::fs::write(&file, "of-the-user\n").unwrap();
    let other = start(|_, reply| reply);
    let port = other.port;
    let redirects = start(move |request, reply| {
        let to = format!("http://127.0.0.1:{port}/mcp");
        challenge(request, reply, |_| Reply::new("307 Temporary Redirect", "").with("Location", &to))
    });
    output(&format!("http://127.0.0.1:{}/mcp", redirects.port), &["--token-file", &file]);
    let carries = |request: &Received| request.headers.iter().any(|(_, value)| value.contains("of-the-user"));
    assert!(!other.received().is_empty() && !other.received().iter().any(carries), "another origin has the token");
    // Its own server has it, and says it back.
    let own = start(|request, reply| match request.header("authorization") {
        Some(said) => Reply::new("403 Forbidden", format!("no: {said}")),
        None => {
            let other = format!("http://{}/of-the-user", request.header("host").unwrap());
            member(request, reply, RESOURCE, "resource", other.into())
        }
    });
    for format in ["--strict", "--json"] {
        let said = output(&format!("http://127.0.0.1:{}/mcp", own.port), &["--token-file", &file, format]);
        assert!(said.contains("no: Bearer …") && said.contains("Give clients http://127.0.0.1:"), "{said}");
        assert!(!said.contains("of-the-user"), "{said}");
    }
    assert!(own.received().iter().any(carries), "where the user has sent it");
    // A certificate that nobody trusts: it could be anybody's server.
    let (certificate, key) = Authority::new().certificate(&["localhost"]);
    let heads = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let (listener, log) = (TcpListener::bind("127.0.0.1:0").unwrap(), heads.clone());
    let port = listener.local_addr().unwrap().port();
    serve_on(listener, &certificate, &key, move |head| {
        log.lock().unwrap().push_str(head);
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer x=1\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    output(&format!("https://localhost:{port}/mcp"), &["--token-file", &file]);
    let heads = heads.lock().unwrap();
    assert!(heads.contains("POST /mcp") && !heads.contains("of-the-user"), "{heads}");
}

#[test]
fn what_was_registered_is_removed_at_its_own_server_only() {
    let other = start(|_, reply| reply);
    let elsewhere = format!("http://127.0.0.1:{}/register/one", other.port);
    let server = start(move |request, reply| {
        if is(request, "POST", "/register") {
            reply.set("registration_client_uri", elsewhere.clone().into())
        } else {
            reply
        }
    });
    let (exit, report) = doctor(&format!("http://127.0.0.1:{}/mcp", server.port), &["--client", "cursor"]);
    assert_eq!((exit, report["left_registered"].as_array().unwrap().len()), (0, 1), "{report:#}");
    assert!(other.received().is_empty(), "a server sends doctor elsewhere");
}

#[test]
fn a_hostile_server_costs_little() {
    use std::io::Write;
    // An echo without an end, a body without an end, and a handshake of single bytes.
    let endless = FakeUpstream::start(|request, out| {
        let kind = if path(request) == "/.idp/echo" { "text/event-stream" } else { "application/json" };
        let _ = write!(out, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n");
        let piece = [b'a'; 64 << 10];
        while out.write_all(&piece).is_ok() {}
    });
    let mut limited = std::process::Command::new("prlimit");
    limited.args(["--as=600000000", env!("CARGO_BIN_EXE_mcp-auth-proxy"), "doctor", "--json"]);
    let done = limited.arg(format!("http://127.0.0.1:{}/mcp", endless.port)).output().unwrap();
    assert_eq!(done.status.code(), Some(2), "{}", String::from_utf8_lossy(&done.stderr));
    let dripping = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = dripping.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut socket in dripping.incoming().map_while(Result::ok) {
            // The beginning of a record of a kilobyte, a byte at a time.
            std::thread::spawn(move || {
                for byte in [22, 3, 3, 4, 0, 2].into_iter().chain(std::iter::repeat_n(0, 600)) {
                    if socket.write_all(&[byte]).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
        }
    });
    let (_, report) = doctor(&format!("https://localhost:{port}/mcp"), &[]);
    assert!(codes(&report).contains(&"tls-failed".to_string()), "{report:#}");
}

#[test]
fn interrupted_it_takes_back_what_it_has_registered() {
    let server = start(|request, reply| {
        let pause = if path(request) == "/authorize" { Duration::from_millis(500) } else { Duration::ZERO };
        Reply { pause, ..reply }
    });
    let mut running = command();
    running
        .args(["doctor", "--json", &format!("http://127.0.0.1:{}/mcp", server.port)])
        .stdout(std::process::Stdio::piped());
    let running = running.spawn().unwrap();
    let count = |method: &str, at: &str| server.received().iter().filter(|request| is(request, method, at)).count();
    crate::support::eventually("it authorizes", || count("GET", "/authorize") > 0);
    let pid = running.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = running.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["stopped"], "it was interrupted", "{report:#}");
    assert_eq!(codes(&report), Vec::<String>::new(), "what was cut short says nothing");
    assert_eq!(count("DELETE", "/register/one"), count("POST", "/register"), "{report:#}");
    assert!(count("POST", "/register") > 5 && count("GET", "/authorize") < 5);
}
