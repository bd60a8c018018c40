//! The token endpoint, with a code that nobody has issued.

use http::Method;
use serde_json::Value;

use super::authorization::VERIFIER;
use super::examination::Examination;
use super::findings::{TOKEN_ENDPOINT_FAILS, TOKEN_ERROR_UNKNOWN};
use super::in_between::described;
use super::probe::Ask;
use super::registration::Registered;
use super::server::ServerMetadata;

const STEP: &str = "token";

/// Sends a made-up code. The answer must be an error that clients understand (RFC 6749 section 5.2).
pub(super) fn look(exam: &mut Examination, metadata: &ServerMetadata, registered: &[Registered]) {
    let (id, redirect_uri) = match registered.iter().find(|one| one.client.auth_method == "none") {
        Some(one) => (one.id.as_str(), one.client.redirect_uri),
        None => ("doctor", "http://localhost:51823/callback"),
    };
    let url = exam.url.to_string();
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", "doctor-made-this-up"),
        ("client_id", id),
        ("redirect_uri", redirect_uri),
        ("code_verifier", VERIFIER),
        ("resource", &url),
    ];
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let fields =
        vec![("accept", "application/json".into()), ("content-type", "application/x-www-form-urlencoded".into())];
    let ask = Ask { method: Method::POST, link: &metadata.token, fields, body: body.into_bytes() };
    let reply = match exam.prober.send(&ask) {
        Ok(reply) => reply,
        Err(why) => {
            exam.report.found(STEP, &TOKEN_ENDPOINT_FAILS, format!("POST {}: {why}", metadata.token));
            return;
        }
    };
    let object = reply.object();
    let error = object.as_ref().and_then(|object| object.get("error")).and_then(Value::as_str);
    match error {
        Some(error) if reply.status.is_client_error() => match error {
            "invalid_grant" | "invalid_client" => {
                exam.report.good(STEP, format!("a made-up code is refused with {error}"))
            }
            error => exam.report.found(STEP, &TOKEN_ERROR_UNKNOWN, format!("a made-up code is refused with {error}")),
        },
        _ => exam.report.found(STEP, &TOKEN_ENDPOINT_FAILS, format!("POST {}: {}", metadata.token, described(&reply))),
    }
}
