//! What each fuzz target does with its input. Shared with `cargo test`, which runs the same bodies over the corpus and
//! over generated inputs, so that nothing is skipped where there is no fuzzer.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mcp_auth_proxy::app::config::issuers;
use mcp_auth_proxy::app::control;
use mcp_auth_proxy::http::BodyError;
use mcp_auth_proxy::http::client::GuardedUrl;
use mcp_auth_proxy::http::form::Form;
use mcp_auth_proxy::http::h1::framing::{Framed, Progress};
use mcp_auth_proxy::http::h1::head::{self, Framing};
use mcp_auth_proxy::http::h1::input::Input;
use mcp_auth_proxy::login::htpasswd::{accounts, groups, is_name};
use mcp_auth_proxy::mcp::jsonrpc;
use mcp_auth_proxy::mcp::message::{Id, Message, one_line, split};
use mcp_auth_proxy::net::client_address::TrustedProxies;
use mcp_auth_proxy::oauth::client_auth;
use mcp_auth_proxy::oauth::client_metadata;
use mcp_auth_proxy::oauth::register;
use mcp_auth_proxy::pages::display_name;
use mcp_auth_proxy::redirect_pattern::RedirectPattern;
use mcp_auth_proxy::redirect_uri::{Destination, RedirectUri};
use mcp_auth_proxy::resource_url::ResourceUrl;
use mcp_auth_proxy::servers_file::{Transport, read};
use mcp_auth_proxy::tls::x509::CertificateInfo;
use mcp_auth_proxy::tokens::access::AccessToken;
use mcp_auth_proxy::tokens::artefacts::{
    AuthorizationCode, AuthorizationRequest, BrowserCookie, DeviceCookie, PlainForm, RefreshToken, SessionCookie,
};
use mcp_auth_proxy::tokens::jwt::{ALGORITHMS, KeySet, Unverified};
use mcp_auth_proxy::tokens::{Keys, Secret};
use mcp_auth_proxy::upstream::stdio::event_stream::{EventStream, lost_request, split_event_id, stream_name};
use mcp_auth_proxy::upstream::stdio::lines::{Lines, TooLong};

/// A target by its name.
pub(super) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(super) const TARGETS: &[Target] = &[
    ("request_head", request_head),
    ("chunked_body", chunked_body),
    ("form", form),
    ("registration", registration),
    ("redirect_uri", redirect_uri),
    ("tokens", tokens),
    ("forwarded_for", forwarded_for),
    ("json_rpc", json_rpc),
    ("stdio_lines", stdio_lines),
    ("event_stream", event_stream),
    ("certificate", certificate),
    ("servers_file", servers_file),
    ("htpasswd", htpasswd),
    ("client_document", client_document),
    ("jwt", jwt),
    ("trusted_issuers", trusted_issuers),
    ("control_request", control_request),
    ("patterns", patterns),
];

/// A head that is accepted says one thing only, however its bytes arrive.
pub(super) fn request_head(data: &[u8]) {
    let whole = head::find_end(data, 0);
    let Ok(Some(end)) = whole else { return };
    // Found piece by piece, it ends at the same place.
    let middle = end / 2;
    assert_eq!(head::find_end(&data[..middle], 0), Ok(None));
    assert_eq!(head::find_end(data, middle), whole);
    let Ok(head) = head::parse(&data[..end], 100) else { return };
    let text = data[..end].to_ascii_lowercase();
    let count = |name: &[u8]| text.windows(name.len()).filter(|w| *w == name).count();
    assert!(!data[..end].contains(&0));
    match head.framing {
        Framing::Chunked => assert!(!head.parts.headers.contains_key("content-length")),
        Framing::Length(_) => assert!(!head.parts.headers.contains_key("transfer-encoding")),
        Framing::None => assert!(count(b"\r\ncontent-length:") == 0 && count(b"\r\ntransfer-encoding:") == 0),
    }
    assert!(head.parts.headers.get_all("host").iter().count() <= 1);
    assert!(head.parts.uri.authority().is_none(), "the target is in origin form");
}

/// A body never yields more than its limit, ends, and leaves the bytes after it alone.
pub(super) fn chunked_body(data: &[u8]) {
    const LIMIT: u64 = 1 << 10;
    let mut input = Input::new(data);
    let mut progress = Progress::new(Framing::Chunked, LIMIT, Duration::from_secs(1));
    let mut framed = Framed::new(&mut input, &mut progress);
    let mut out = Vec::new();
    match framed.read_to_end(&mut out) {
        Ok(_) => assert!(progress.is_done()),
        Err(e) => {
            assert!(BodyError::of(&e).is_some(), "{e}");
            assert!(framed.read(&mut [0; 8]).is_err(), "a failed body stays failed");
            assert!(!progress.is_done());
        }
    }
    assert!(out.len() as u64 <= LIMIT);
}

/// Parameters stand once, and a resource that is accepted is one on the external origin for any parser.
pub(super) fn form(data: &[u8]) {
    let Ok(form) = Form::parse(data) else { return };
    for url in form.all("resource").filter_map(|text| ResourceUrl::parse(text, "https://mcp.example.com")) {
        let uri: http::Uri = url.as_str().parse().expect("an accepted resource is a URL");
        let authority = uri.authority().expect("it has a host").as_str().to_ascii_lowercase();
        assert!(matches!(authority.as_str(), "mcp.example.com" | "mcp.example.com:443"), "{authority}");
        assert_eq!(uri.scheme_str(), Some("https"));
        let own = uri.path().strip_suffix('/').unwrap_or(uri.path());
        assert!(url.covers(&format!("{own}/x")) && !url.covers(&format!("{own}x/")) || own.is_empty());
    }
    let mut headers = http::HeaderMap::new();
    if let Some(value) = form.get("authorization").and_then(|v| http::HeaderValue::from_str(v).ok()) {
        headers.insert("authorization", value);
    }
    if let Ok(credentials) = client_auth::credentials(&headers, &form) {
        assert_eq!(credentials.basic, headers.contains_key("authorization"));
    }
}

/// A registration that is accepted has redirect URIs that are accepted.
pub(super) fn registration(data: &[u8]) {
    let Ok((client, _)) = register::parse(data, "https://mcp.example.com", 1) else { return };
    assert!(!client.redirect_uris.is_empty());
    for uri in &client.redirect_uris {
        redirect_uri(uri.as_bytes());
        assert!(RedirectUri::parse(uri).is_ok());
    }
    if let Some(name) = &client.name {
        let shown = display_name(name);
        assert!(shown.chars().count() <= 65 && !shown.chars().any(char::is_control));
    }
}

/// A redirect URI that is accepted leads where it says and can't break out of a header or a policy.
pub(super) fn redirect_uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(uri) = RedirectUri::parse(text) else { return };
    assert_eq!(uri.as_str(), text);
    assert!(uri.matches(&uri));
    assert!(!uri.policy_source().contains([';', ' ', ',', '\'', '"']), "{}", uri.policy_source());
    let answer = uri.with_parameters(&[("code", "a b&c"), ("state", "\r\n")]);
    assert!(http::HeaderValue::from_str(&answer).is_ok() && answer.starts_with(text));
    if matches!(uri.scheme(), "http" | "https") {
        let parsed: http::Uri = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(parsed.host().map(str::to_ascii_lowercase).as_deref(), Some(uri.host()), "{text}");
    }
}

/// Nothing that was not signed here is accepted as anything.
pub(super) fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let secret = Secret::from_base64("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("32 bytes");
    let keys = Keys::new("https://mcp.example.com", &secret, &[]);
    assert!(AccessToken::verify(text, &keys, 0).is_err());
    assert!(keys.verify::<AuthorizationCode>(text, 0).is_err());
    assert!(keys.verify::<AuthorizationRequest>(text, 0).is_err());
    assert!(keys.verify::<RefreshToken>(text, 0).is_err());
    assert!(keys.verify::<SessionCookie>(text, 0).is_err());
    assert!(keys.verify::<BrowserCookie>(text, 0).is_err());
    assert!(keys.verify::<DeviceCookie>(text, 0).is_err());
    assert!(keys.verify::<PlainForm>(text, 0).is_err());
}

/// Without a trusted peer nothing is believed; with one, the chain ends at the peer.
pub(super) fn forwarded_for(data: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(data) else { return };
    let mut headers = http::HeaderMap::new();
    headers.insert("x-forwarded-for", value);
    let (peer, stranger) = ([10, 0, 0, 1].into(), [192, 0, 2, 1].into());
    let networks = ["10.0.0.0/8".parse().expect("a network")];
    let trusted = TrustedProxies(&networks);
    let chain = trusted.chain(peer, &headers);
    assert_eq!(chain.last(), Some(&peer));
    assert!(chain[1..].iter().all(|a| trusted.contains(*a)));
    assert_eq!(trusted.chain(stranger, &headers), [stranger]);
}

/// An id that is echoed is a JSON string or number.
pub(super) fn json_rpc(data: &[u8]) {
    let Some(id) = jsonrpc::request_id(data) else { return };
    // A number may be too large for a float and is echoed all the same: only its form counts.
    let form: &serde_json::value::RawValue = serde_json::from_str(id.get()).expect("an id is JSON");
    assert!(form.get().starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()));
    let answer = jsonrpc::error(http::StatusCode::BAD_GATEWAY, Some(data), -32603, "\"quoted\"\n");
    if let mcp_auth_proxy::http::Payload::Bytes(bytes) = answer.body {
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).is_ok());
    }
}

/// Lines are the same however they arrive, and splicing changes what it is to change and nothing else.
pub(super) fn stdio_lines(data: &[u8]) {
    const LIMIT: usize = 256;
    let Some((size, data)) = data.split_first() else { return };
    let collect = |chunk: usize| {
        let (mut lines, mut out) = (Lines::new(LIMIT), Vec::new());
        for piece in data.chunks(chunk.max(1)) {
            lines.add(piece, |line| out.push(line));
        }
        lines.finish(|line| out.push(line));
        out
    };
    let lines: Vec<Result<Vec<u8>, TooLong>> = collect(data.len());
    assert_eq!(lines, collect(usize::from(*size)));
    for line in lines {
        match line {
            Ok(line) => {
                assert!(!line.is_empty() && line.len() <= LIMIT && !line.contains(&b'\n'));
                if let Ok(text) = std::str::from_utf8(&line) {
                    message(text);
                }
            }
            Err(line) => assert!(line.answered().is_none_or(|id| id.parse::<u64>().is_ok())),
        }
    }
}

fn message(text: &str) {
    let Ok((parts, _)) = split(text) else { return };
    for part in parts {
        let Ok(message) = Message::parse(part) else { continue };
        let line = one_line(part);
        assert!(!line.contains(['\r', '\n']));
        assert_eq!(Message::parse(&line).map(|m| m.kind), Ok(message.kind.clone()));
        let token = message.progress_token().filter(|raw| Id::of(raw).is_some());
        let (Some(id), false) = (message.raw_id(), message.is_ambiguous()) else { continue };
        let changes: Vec<_> = [Some((id, "41")), token.map(|raw| (raw, "42"))].into_iter().flatten().collect();
        let spliced = message.splice(&changes);
        let again = Message::parse(&spliced).expect("a spliced message is one");
        assert_eq!(again.raw_id().map(|raw| raw.get()), Some("41"));
        assert_eq!(
            again.progress_token().map(|raw| raw.get()),
            token.map(|_| "42").or(message.progress_token().map(|r| r.get()))
        );
        let removed: usize = changes.iter().map(|(raw, _)| raw.get().len()).sum();
        assert_eq!(spliced.len(), part.len() - removed + 2 * changes.len());
    }
}

/// Whatever is pushed, forgotten and asked for again, a stream gives each event once to a reader, and counts its bytes.
pub(super) fn event_stream(data: &[u8]) {
    let (id, script) = data.split_at(data.len().min(16));
    if let Ok(id) = std::str::from_utf8(id) {
        let (name, _) = split_event_id(id);
        let _ = lost_request(name);
        let named = stream_name("epoch", 7, Some(id));
        let event = format!("{named}.3");
        assert_eq!(split_event_id(&event), (named.as_str(), Some(3)));
        if let Some(lost) = lost_request(&named) {
            assert_eq!(lost.trim(), id.trim());
        }
    }
    let held = Arc::new(AtomicUsize::new(0));
    let stream = EventStream::new(Some("s".into()), false, held.clone());
    let (mut pushed, mut bytes) = (0u64, 0);
    for step in script.chunks(9) {
        let number = step.get(1..9).map_or(u64::MAX, |n| u64::from_le_bytes(n.try_into().expect("eight bytes")));
        match step[0] % 4 {
            0 => {
                pushed += 1;
                bytes += step.len() + 64;
                stream.push(format!("{pushed:0>width$}", width = step.len()).into_bytes());
            }
            1 => stream.forget(number % 2 == 0),
            _ => {
                // A reader that comes and goes.
                let mut reader = stream.read((step[0] % 4 == 2).then_some(number), false).expect("an event descriptor");
                if pushed > 0 && number % 3 == 0 {
                    stream.push(b"last".to_vec());
                    (pushed, bytes) = (pushed + 1, bytes + 4 + 64);
                    let mut piece = [0; 32];
                    assert!(reader.read(&mut piece).expect("there is an event") > 0);
                }
            }
        }
        assert!(held.load(Ordering::Relaxed) <= bytes);
    }
    stream.finish();
    let mut text = String::new();
    stream.read(Some(0), false).expect("an event descriptor").read_to_string(&mut text).expect("text");
    let numbers: Vec<u64> = text.lines().filter_map(|l| l.strip_prefix("id: s.")?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers.last().is_none_or(|n| *n == pushed));
    drop(stream);
    assert_eq!(held.load(Ordering::Relaxed), 0);
}

/// A certificate that is read is for the hosts that it names.
pub(super) fn certificate(data: &[u8]) {
    let Some(facts) = CertificateInfo::of(data) else { return };
    for name in &facts.names {
        let host = name.replacen('*', "any", 1);
        assert!(facts.is_for(&host) || name.contains('*') && !name.starts_with("*."), "{name}");
    }
}

/// A servers file that is accepted has servers with plain, different paths and with something to reach; no error is longer
/// than what it is about, and no value of the proxy's own secrets gets anywhere.
pub(super) fn servers_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| Some(if name == "PASSWORD" { "s3cret-of-the-proxy" } else { "value" }.to_string());
    let environment_file = |_: &std::path::Path| Ok("A=1\n".to_string());
    let path = std::path::Path::new("/etc/mcp.json");
    let content = match read(path, text, &env, &["PASSWORD"], &environment_file) {
        Ok(content) => content,
        Err(error) => {
            assert!(error.starts_with("/etc/mcp.json:") && !error.contains("s3cret-of-the-proxy"), "{error}");
            return;
        }
    };
    let mut paths: Vec<&str> = content.entries.iter().map(|entry| entry.path.as_str()).collect();
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    assert!(paths.iter().all(|p| (1..=64).contains(&p.len()) && !p.starts_with('.') && p.bytes().all(is_plain)));
    let count = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), count);
    for entry in &content.entries {
        match &entry.transport {
            Transport::Stdio { command, .. } => assert!(!command[0].is_empty()),
            Transport::Http { url, .. } => assert!(!url.contains("s3cret-of-the-proxy")),
        }
        assert!(!format!("{entry:?}").contains("s3cret-of-the-proxy"));
    }
}

/// Accounts that are accepted have different names that a line can begin with, and hashes of a cost in bounds.
pub(super) fn htpasswd(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(accounts) = accounts(text) {
        let mut names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
        assert!(!names.is_empty() && names.iter().all(|name| is_name(name)));
        assert!(accounts.iter().all(|account| account.hash.starts_with("$2") && account.hash.len() == 60));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
    if let Ok(groups) = groups(text) {
        assert!(groups.values().flatten().all(|group| is_name(group)));
    }
}

/// A document that is accepted is that of its own URL, has redirect URIs that may be used, and no secret.
pub(super) fn client_document(data: &[u8]) {
    let url = "https://app.example/client.json";
    let Ok(client) = client_metadata::parse(url, data, 1) else { return };
    assert_eq!(client.id.as_str(), url);
    assert!(!client.redirect_uris.is_empty() && client.secret_digests.is_empty() && client.preregistered.is_none());
    assert!(client.redirect_uris.iter().all(|uri| RedirectUri::parse(uri).is_ok()));
    assert!(!client.shown_name().trim().is_empty());
}

/// No made-up JWT verifies, and a URL that is guarded has one spelling of host and port.
pub(super) fn jwt(data: &[u8]) {
    let keys = br#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let keys = KeySet::parse(keys).expect("the key of RFC 7515 appendix A.3");
    let _ = KeySet::parse(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = Unverified::parse(text) {
        assert!(token.verify(&keys).is_none());
        let _ = (token.is_signed_with(&ALGORITHMS), token.check_times(0), token.text("iss"), token.time("exp"));
    }
    if let Ok(url) = GuardedUrl::parse(text) {
        let host = url.host();
        assert!(host.contains('.') && !host.contains(['@', ':', '/', '[', '\\']), "{host}");
        assert!(host.parse::<std::net::IpAddr>().is_err(), "{host}");
        assert!(url.to_string().starts_with("https://"));
    }
}

/// A file that is accepted trusts nobody without a rule.
pub(super) fn trusted_issuers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(all) = issuers::parse(text, &[]) else { return };
    for issuer in &all {
        assert!(!issuer.rules.is_empty() && !issuer.kinds.is_empty() && issuer.token_lifetime <= 3_600);
        assert!(issuer.issuer.starts_with("https://") || issuer.issuer.starts_with("http://"));
    }
}

/// Any line on the control socket is a request or an error.
pub(super) fn control_request(data: &[u8]) {
    control::parse(data);
}

/// What fits a pattern is on the host that the pattern names.
pub(super) fn patterns(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((pattern, uri)) = text.split_once(' ') else { return };
    let (Ok(pattern), Ok(uri)) = (RedirectPattern::parse(pattern), RedirectUri::parse(uri)) else { return };
    if pattern.fits(&uri) {
        let named = text.split("://").nth(1).unwrap_or_default().split(['/', '?', ' ']).next().unwrap_or_default();
        let host = named.trim_start_matches("*.").to_ascii_lowercase();
        let bare = match uri.destination() {
            Destination::PrivateUse => host.clone(),
            _ => host.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':').to_string(),
        };
        assert!(uri.host().ends_with(&host) || uri.host().ends_with(&bare), "{text}");
    }
}
