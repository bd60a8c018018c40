//! What a script of another origin may do, in a browser (CORS).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ORIGIN, WWW_AUTHENTICATE,
};
use http::{Method, StatusCode};

use super::challenge::first_request;
use super::clients::Place;
use super::examination::Examination;
use super::findings::{CORS_CHALLENGE, CORS_MCP, CORS_OAUTH};
use super::link::Link;
use super::probe::{Ask, Reply};
use super::server::ServerMetadata;

const STEP: &str = "browser";
/// The origin of a script on its user's machine.
const SCRIPT: &str = "http://localhost:6274";
const NEEDED: [&str; 4] = ["authorization", "content-type", "mcp-protocol-version", "mcp-session-id"];

/// Looks only if one of the clients runs in a browser.
pub(super) fn look(exam: &mut Examination, metadata: Option<&ServerMetadata>) {
    if !exam.report.clients().iter().any(|client| client.place == Place::Browser) {
        return;
    }
    let url = exam.url.clone();
    let mut is_good = preflight(exam, &url);
    is_good &= challenge(exam, &url);
    if let Some(metadata) = metadata {
        is_good &= endpoints(exam, metadata);
    }
    if is_good {
        exam.report.good(STEP, "scripts of other origins may use it (CORS)");
    }
}

fn allows(reply: &Reply) -> bool {
    matches!(reply.field(ACCESS_CONTROL_ALLOW_ORIGIN), "*" | SCRIPT)
}

fn ask_before(exam: &mut Examination, link: &Link, fields: &str) -> Result<Reply, String> {
    let fields = vec![
        (ORIGIN.as_str(), SCRIPT.to_string()),
        ("access-control-request-method", "POST".into()),
        ("access-control-request-headers", fields.into()),
    ];
    exam.prober.send(&Ask { method: Method::OPTIONS, link, fields, body: Vec::new() })
}

fn preflight(exam: &mut Examination, url: &Link) -> bool {
    let reply = match ask_before(exam, url, &NEEDED.join(",")) {
        Ok(reply) => reply,
        Err(why) => {
            exam.report.found(STEP, &CORS_MCP, format!("OPTIONS {url}: {why}"));
            return false;
        }
    };
    let allowed = reply.field(ACCESS_CONTROL_ALLOW_HEADERS).to_ascii_lowercase();
    let is_named = |name: &str| allowed.split(',').any(|one| one.trim() == name);
    // A star does not stand for Authorization (Fetch standard, "CORS-preflight fetch").
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|name| !is_named(name) && (allowed.trim() != "*" || *name == "authorization"))
        .collect();
    if !reply.status.is_success() || !allows(&reply) || !missing.is_empty() {
        let seen = format!(
            "OPTIONS {url}: {}, Access-Control-Allow-Origin: '{}', not allowed: {}",
            reply.status,
            reply.field(ACCESS_CONTROL_ALLOW_ORIGIN),
            if missing.is_empty() { "nothing".into() } else { missing.join(", ") }
        );
        exam.report.found(STEP, &CORS_MCP, seen);
        return false;
    }
    true
}

fn challenge(exam: &mut Examination, url: &Link) -> bool {
    let Ok(reply) = exam.prober.send(&first_request(url).with(ORIGIN.as_str(), SCRIPT)) else { return false };
    let exposed = reply.field(ACCESS_CONTROL_EXPOSE_HEADERS).to_ascii_lowercase();
    let is_hidden = |name: &str| exposed.trim() != "*" && !exposed.split(',').any(|one| one.trim() == name);
    let hides_challenge = reply.status == StatusCode::UNAUTHORIZED && is_hidden(WWW_AUTHENTICATE.as_str());
    if !allows(&reply) || hides_challenge || is_hidden("mcp-session-id") {
        let seen = format!(
            "POST {url} from {SCRIPT}: {}, Access-Control-Allow-Origin: '{}', Access-Control-Expose-Headers: '{}'",
            reply.status,
            reply.field(ACCESS_CONTROL_ALLOW_ORIGIN),
            reply.field(ACCESS_CONTROL_EXPOSE_HEADERS)
        );
        exam.report.found(STEP, &CORS_CHALLENGE, seen);
        return false;
    }
    true
}

fn endpoints(exam: &mut Examination, metadata: &ServerMetadata) -> bool {
    let mut refused = Vec::new();
    let document = exam.prober.send(&Ask::get(&metadata.place).with(ORIGIN.as_str(), SCRIPT));
    if !document.is_ok_and(|reply| allows(&reply)) {
        refused.push(metadata.place.to_string());
    }
    for link in [Some(&metadata.token), metadata.registration.as_ref()].into_iter().flatten() {
        if !ask_before(exam, link, "content-type").is_ok_and(|reply| reply.status.is_success() && allows(&reply)) {
            refused.push(link.to_string());
        }
    }
    if refused.is_empty() {
        return true;
    }
    exam.report.found(STEP, &CORS_OAUTH, format!("not allowed: {}", refused.join(", ")));
    false
}
