//! What arrives of an event stream, and of a token: through the proxies in between, as far as that can be seen from outside.
//!
//! This program has a path that answers with two events, a pause apart, and tells whether it saw an `Authorization` field.
//! Of another server, this can be seen only with a token.

use std::io::Read;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::challenge::first_request;
use super::examination::Examination;
use super::findings::{AUTHORIZATION_TAKEN, EVENTS_BUFFERED, EVENTS_COMPRESSED, SESSION_FAILS};
use super::in_between::described;
use super::link::Link;
use super::probe::{Ask, Reply};
use crate::app::echo;

const STEP: &str = "events";
/// Events this much closer than they were sent were held back.
const LEAST_GAP: Duration = Duration::from_millis(echo::PAUSE.as_millis() as u64 / 2);
/// Most bytes that are read of the echo, which has a hundred.
const MAX_ECHO: usize = 4 << 10;
/// How long the head of a stream may take. The stream itself may be silent.
const HEAD_PATIENCE: Duration = Duration::from_secs(3);

/// Looks at what is in between, if the server is this program.
pub(super) fn ask_echo(exam: &mut Examination, url: &Link) {
    let place = url.at(echo::PATH);
    let fields = vec![("accept", "text/event-stream".into()), (AUTHORIZATION.as_str(), "Bearer doctor.made.up".into())];
    let ask = Ask { method: Method::GET, link: &place, fields, body: Vec::new() };
    let Ok((reply, mut body)) = exam.prober.open(&ask) else { return };
    if reply.status == StatusCode::TOO_MANY_REQUESTS && reply.fields.contains_key("retry-after") {
        exam.report.good(STEP, "not looked at, since others are looking at the moment");
    }
    if reply.status != StatusCode::OK || reply.media_type() != "text/event-stream" {
        return;
    }
    body.set_deadline(Instant::now() + echo::PAUSE + HEAD_PATIENCE);
    let (mut text, mut piece, mut first) = (Vec::new(), [0; 4096], None);
    while text.len() < MAX_ECHO
        && let Ok(n @ 1..) = body.read(&mut piece)
    {
        text.extend_from_slice(&piece[..n]);
        first.get_or_insert_with(Instant::now);
    }
    let gap = first.map(|first| first.elapsed()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    tell_compression(exam, &reply);
    let said = text.lines().find_map(|line| line.strip_prefix("data: "));
    let Some(said) = said.and_then(|said| serde_json::from_str::<Map<String, Value>>(said).ok()) else { return };
    let Some(has_arrived) = said.get("authorization").and_then(Value::as_bool) else { return };
    exam.is_ours = true;
    match has_arrived {
        false => {
            exam.report.found(
                STEP,
                &AUTHORIZATION_TAKEN,
                format!("{place} saw no Authorization, although one was sent"),
            );
        }
        true => exam.report.good(STEP, "the server is mcp-auth-proxy, and Authorization arrives there"),
    }
    match gap < LEAST_GAP {
        true => {
            let (sent, came) = (echo::PAUSE.as_millis(), gap.as_millis());
            let seen = format!("two events were sent {sent} ms apart, and came {came} ms apart");
            exam.report.found(STEP, &EVENTS_BUFFERED, seen);
        }
        false => exam.report.good(STEP, "events come one by one"),
    }
}

fn tell_compression(exam: &mut Examination, reply: &Reply) {
    let encoding = reply.field("content-encoding");
    if !matches!(encoding, "" | "identity") {
        exam.report.found(STEP, &EVENTS_COMPRESSED, format!("Content-Encoding: {encoding} on text/event-stream"));
    }
}

/// Begins a session with the user's token, opens its stream, and ends it.
pub(super) fn with_token(exam: &mut Examination) {
    let Some(token) = exam.token.clone() else { return };
    let url = &exam.url.clone();
    if url.origin() != exam.typed.origin() || !exam.prober.is_trusted(url) {
        let seen = format!(
            "the token is not sent to {}, which is another place or has a certificate that nobody trusts",
            url.origin()
        );
        return exam.report.good("session", seen);
    }
    let authorization = format!("Bearer {token}");
    let ask = first_request(url).with(AUTHORIZATION.as_str(), authorization.as_str());
    let failed = |seen: &str| format!("initialize with the token: {seen}");
    let reply = match exam.prober.send(&ask) {
        Ok(reply) if reply.status.is_success() && reply.text().contains("\"protocolVersion\"") => reply,
        Ok(reply) => return exam.report.found("session", &SESSION_FAILS, failed(&described(&reply))),
        Err(why) => return exam.report.found("session", &SESSION_FAILS, failed(&why)),
    };
    tell_compression(exam, &reply);
    exam.report.good("session", "initialize with the token is answered");
    let session = reply.field("mcp-session-id").to_string();
    if session.is_empty() {
        return;
    }
    let fields = |accept: &str| {
        vec![
            ("accept", accept.to_string()),
            (AUTHORIZATION.as_str(), authorization.clone()),
            ("mcp-session-id", session.clone()),
            ("mcp-protocol-version", "2025-06-18".into()),
        ]
    };
    let begun = Instant::now();
    let stream = Ask { method: Method::GET, link: url, fields: fields("text/event-stream"), body: Vec::new() };
    match exam.prober.open(&stream) {
        Ok((reply, _)) if reply.status == StatusCode::OK && begun.elapsed() < HEAD_PATIENCE => {
            tell_compression(exam, &reply);
            exam.report.good("session", "its event stream opens");
        }
        Ok((reply, _)) if reply.status == StatusCode::METHOD_NOT_ALLOWED => {
            exam.report.good("session", "the server has no stream for its own messages");
        }
        Ok((reply, _)) if reply.status == StatusCode::OK => {
            let seen = format!("the head of the stream came after {} ms", begun.elapsed().as_millis());
            exam.report.found("session", &EVENTS_BUFFERED, seen);
        }
        Ok((reply, _)) => exam.report.found("session", &SESSION_FAILS, format!("GET {url}: {}", described(&reply))),
        // Nothing came at all, although the head of a stream is sent at once.
        Err(why) => exam.report.found("session", &EVENTS_BUFFERED, format!("GET {url} with the token: {why}")),
    }
    let end = Ask { method: Method::DELETE, link: url, fields: fields("application/json"), body: Vec::new() };
    let _ = exam.prober.send(&end);
}
