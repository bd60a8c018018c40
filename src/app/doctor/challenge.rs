//! The first request of a client, which has no token: 401, and where to go on.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::examination::Examination;
use super::findings::{
    AGENT_BLOCKED, ANY_TOKEN_ACCEPTED, AUTHORIZATION_TAKEN, CHALLENGE_FORM, CHALLENGE_NOT_BEARER, CHALLENGE_WITH_ERROR,
    CHALLENGE_WITHOUT_FIELD, CHALLENGE_WITHOUT_METADATA, GET_ANSWERED, GET_WITHOUT_CHALLENGE, HEAD_WITHOUT_CHALLENGE,
    NO_ANSWER, NO_CHALLENGE, NOT_FOUND, NOT_MCP, OFFLINE_ACCESS_IN_CHALLENGE, OPEN, REDIRECTED, SIGN_IN_IN_FRONT,
    TOKEN_NOT_NOTICED,
};
use super::in_between::{described, finding};
use super::link::Link;
use super::network;
use super::probe::{Ask, Reply};

const STEP: &str = "challenge";
/// A token that nobody has issued.
const MADE_UP: &str = "doctor.made.up";

/// The answer to the first request.
pub(super) struct Challenge {
    pub(super) reply: Reply,
    /// The URL of the resource metadata that it names.
    pub(super) metadata: Option<String>,
}

/// `initialize`, as clients of a revision that every server knows send it.
pub(super) fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "doctor", "version": env!("CARGO_PKG_VERSION")}}})
}

/// `initialize` to the MCP server.
pub(super) fn first_request(url: &Link) -> Ask<'_> {
    Ask::json(url, &initialize()).with("accept", "application/json, text/event-stream")
}

/// Sends the first request, after redirects that keep the method, and looks at what comes.
pub(super) fn look(exam: &mut Examination) -> Option<Challenge> {
    let url = exam.url.clone();
    let reply = match exam.prober.send(&first_request(&url)) {
        Ok(reply) => reply,
        Err(why) => {
            exam.report.found(STEP, &NO_ANSWER, format!("POST {url}: {why}"));
            return None;
        }
    };
    if matches!(reply.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
        && let Some(to) = followed(exam, &reply)
    {
        exam.url = to;
        return look(exam);
    }
    if reply.status.is_redirection() && !std::ptr::eq(finding(&reply)?, &SIGN_IN_IN_FRONT) {
        // Also one that keeps the method, if it leads nowhere, or around.
        exam.report.found(STEP, &REDIRECTED, format!("POST {url}: {}{}", reply.status, location(&reply)));
        return None;
    }
    if let Some(finding) = finding(&reply) {
        exam.report.found(STEP, finding, format!("POST {url}: {}{}", described(&reply), location(&reply)));
        return None;
    }
    match reply.status {
        StatusCode::UNAUTHORIZED => {}
        status if status.is_success() && !is_initialized(&reply) => {
            exam.report.found(STEP, &NOT_MCP, format!("POST {url}: {}", described(&reply)));
            return None;
        }
        status if status.is_success() => {
            exam.report.found(STEP, &OPEN, format!("POST {url} without a token: {status}"));
            return Some(Challenge { reply, metadata: None });
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
            exam.report.found(STEP, &NOT_FOUND, format!("POST {url}: {}", described(&reply)));
            advise_resource(exam, &url);
            return None;
        }
        _ => {
            exam.report.found(STEP, &NO_CHALLENGE, format!("POST {url}: {}", described(&reply)));
            return None;
        }
    }
    let challenge = read(exam, reply)?;
    by_other_methods(exam, &url);
    with_made_up_token(exam, &url);
    by_agents(exam, &url);
    Some(challenge)
}

/// The document at the root names the server, where there is one.
fn advise_resource(exam: &mut Examination, url: &Link) {
    let root = url.at("/.well-known/oauth-protected-resource");
    let object = exam.prober.document(&root).ok().and_then(|reply| reply.object());
    let resource = object.as_ref().and_then(|object| object.get("resource")).and_then(Value::as_str);
    if let Some(resource) =
        resource.filter(|resource| Link::parse(resource).is_ok_and(|link| link.origin() == url.origin()))
    {
        exam.report.advise(&format!("Correct the path: the server says that it is {resource}."));
    }
}

/// Is it the result of `initialize`, as JSON or as an event?
fn is_initialized(reply: &Reply) -> bool {
    let text = reply.text();
    text.contains("\"result\"") && text.contains("\"protocolVersion\"")
}

fn location(reply: &Reply) -> String {
    match reply.field("location") {
        "" => String::new(),
        to => format!(", to {to}"),
    }
}

/// Where a redirect leads, if it can be followed.
fn followed(exam: &mut Examination, reply: &Reply) -> Option<Link> {
    let location = reply.field("location");
    let to = if location.starts_with('/') { exam.url.at(location) } else { Link::parse(location).ok()? };
    let found = finding(reply)?;
    let is_new = to.to_string() != exam.url.to_string();
    // One step is enough to tell; a second would be the same finding.
    if !is_new || exam.report.has(found) || !std::ptr::eq(found, &super::findings::REDIRECTED_KEEPING_METHOD) {
        return None;
    }
    exam.report.found(STEP, found, format!("POST {}: {}, to {to}", exam.url, reply.status));
    network::reach(exam, &to, false).then_some(to)
}

/// Reads the challenge of a 401 (RFC 6750 section 3, RFC 9728 section 5.1).
fn read(exam: &mut Examination, reply: Reply) -> Option<Challenge> {
    let fields: Vec<String> = reply
        .fields
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    if fields.is_empty() {
        exam.report.found(STEP, &CHALLENGE_WITHOUT_FIELD, described(&reply));
        return Some(Challenge { reply, metadata: None });
    }
    let Some(field) = fields.iter().find_map(|field| bearer_in(field)) else {
        exam.report.found(STEP, &CHALLENGE_NOT_BEARER, format!("WWW-Authenticate: {}", fields.join(", ")));
        return None;
    };
    let metadata = parameter(field, "resource_metadata");
    exam.report.good(STEP, format!("401, WWW-Authenticate: {field}"));
    if metadata.is_none() {
        exam.report.found(STEP, &CHALLENGE_WITHOUT_METADATA, format!("WWW-Authenticate: {field}"));
    }
    let is_absolute = metadata.as_ref().is_none_or(|url| Link::parse(url).is_ok());
    let is_quoted = metadata.is_none() || field.contains("resource_metadata=\"");
    if !is_absolute || !is_quoted || !fields[0].starts_with("Bearer ") {
        exam.report.found(STEP, &CHALLENGE_FORM, format!("WWW-Authenticate: {}", fields.join(", ")));
    }
    if let Some(error) = parameter(field, "error") {
        exam.report.found(STEP, &CHALLENGE_WITH_ERROR, format!("error=\"{error}\", although the request had no token"));
    }
    if parameter(field, "scope").is_some_and(|scope| scope.split(' ').any(|one| one == "offline_access")) {
        exam.report.found(STEP, &OFFLINE_ACCESS_IN_CHALLENGE, format!("WWW-Authenticate: {field}"));
    }
    Some(Challenge { reply, metadata })
}

/// The challenge for bearer tokens in a field, which may have others before it.
fn bearer_in(field: &str) -> Option<&str> {
    let lower = field.to_ascii_lowercase();
    let begins = |at: usize| at == 0 || lower[..at].trim_end().ends_with(',');
    let at = lower.match_indices("bearer").map(|(at, _)| at).find(|at| begins(*at))?;
    field.get(at..)
}

/// A parameter of a challenge; in quotation marks or not.
pub(super) fn parameter(field: &str, name: &str) -> Option<String> {
    let mut rest = field.split_once(' ')?.1;
    while let Some((key, value)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ', '\t']);
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_once(',').unwrap_or((value, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.trim().to_string());
        }
        rest = after;
    }
    None
}

/// Clients also ask by GET and HEAD.
fn by_other_methods(exam: &mut Examination, url: &Link) {
    let mut good = Vec::new();
    for (method, finding) in [(Method::GET, &GET_WITHOUT_CHALLENGE), (Method::HEAD, &HEAD_WITHOUT_CHALLENGE)] {
        let name = method.to_string();
        let ask = Ask { method, link: url, fields: vec![("accept", "text/event-stream".into())], body: Vec::new() };
        match exam.prober.send(&ask) {
            Ok(reply) if reply.status == StatusCode::UNAUTHORIZED && reply.fields.contains_key(WWW_AUTHENTICATE) => {
                good.push(name)
            }
            Ok(reply) if name == "GET" && reply.status.is_success() => {
                exam.report.found(STEP, &GET_ANSWERED, format!("GET {url}: {}", described(&reply)));
            }
            Ok(reply) => exam.report.found(STEP, finding, format!("{name} {url}: {}", described(&reply))),
            Err(why) => exam.report.found(STEP, finding, format!("{name} {url}: {why}")),
        }
    }
    if !good.is_empty() {
        exam.report.good(STEP, format!("the same for {}", good.join(" and ")));
    }
}

/// Some protections block clients by their name alone.
fn by_agents(exam: &mut Examination, url: &Link) {
    for client in exam.report.clients() {
        for agent in client.agents {
            let ask = first_request(url).with("user-agent", *agent);
            let Ok(reply) = exam.prober.send(&ask) else { continue };
            if reply.status != StatusCode::UNAUTHORIZED {
                let seen = format!("POST {url} as {agent}: {}", described(&reply));
                exam.report.found_for("user agent", &AGENT_BLOCKED, seen, &[client]);
            }
        }
    }
}

/// A token that nobody has issued must be refused, and the refusal must say so.
fn with_made_up_token(exam: &mut Examination, url: &Link) {
    let ask = first_request(url).with(AUTHORIZATION.as_str(), format!("Bearer {MADE_UP}"));
    let Ok(reply) = exam.prober.send(&ask) else { return };
    if reply.status.is_success() && !reply.is_html() {
        exam.report.found(STEP, &ANY_TOKEN_ACCEPTED, format!("POST {url} with a made-up token: {}", reply.status));
    } else if reply.status == StatusCode::UNAUTHORIZED {
        match parameter(reply.field(WWW_AUTHENTICATE), "error") {
            // That is told in another way, if the server is this program.
            None if exam.report.has(&AUTHORIZATION_TAKEN) => {}
            Some(error) => exam.report.good(STEP, format!("a made-up token is refused with {error}")),
            None => exam.report.found(
                STEP,
                &TOKEN_NOT_NOTICED,
                format!("POST {url} with a made-up token: {}", described(&reply)),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bearer_challenge_is_found_behind_others() {
        assert_eq!(bearer_in("Basic realm=\"bearer\", Bearer x=1"), Some("Bearer x=1"));
        assert_eq!(bearer_in("bearer"), Some("bearer"));
        assert_eq!(bearer_in("Basic realm=\"the bearer\""), None);
    }

    #[test]
    fn a_challenge_is_taken_apart() {
        let field = "Bearer realm=\"a, b=c\", error=invalid_token, resource_metadata=\"https://a/.well-known/x\"";
        assert_eq!(parameter(field, "resource_metadata").as_deref(), Some("https://a/.well-known/x"));
        assert_eq!(parameter(field, "error").as_deref(), Some("invalid_token"));
        assert_eq!(parameter(field, "realm").as_deref(), Some("a, b=c"));
        assert_eq!(parameter(field, "b"), None);
        assert_eq!(parameter("Bearer", "error"), None);
        assert_eq!(parameter("Bearer error=\"x", "error"), None);
    }
}
