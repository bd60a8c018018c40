//! Dynamic client registration (RFC 7591), with what each client sends; and its end (RFC 7592), where the server offers it.

use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::clients::KnownClient;
use super::examination::Examination;
use super::findings::{
    REGISTRATION_CLOSED, REGISTRATION_INCOMPLETE, REGISTRATION_LIMITED, REGISTRATION_REFUSED,
    REGISTRATION_WITHOUT_REFRESH,
};
use super::in_between::{described, finding};
use super::link::Link;
use super::probe::{Ask, Reply};
use super::server::ServerMetadata;

const STEP: &str = "registration";

/// A client that has been registered.
pub(super) struct Registered {
    pub(super) client: &'static KnownClient,
    pub(super) id: String,
    /// Where it can be removed, and the token for that.
    management: Option<(Link, String)>,
}

/// Registers each client that can't bring a metadata document instead.
pub(super) fn look(exam: &mut Examination, metadata: &ServerMetadata) -> Vec<Registered> {
    let Some(place) = metadata.registration.as_ref().filter(|_| exam.may_register) else { return Vec::new() };
    let mut registered = Vec::new();
    let clients = exam.report.clients();
    // Whoever has a document does not register where documents are taken.
    let registers = |client: &&&'static KnownClient| !(metadata.takes_documents && client.document.is_some());
    for client in clients.iter().filter(registers) {
        let reply = match exam.prober.send(&Ask::json(place, &client.registration())) {
            Ok(reply) => reply,
            Err(why) => {
                exam.report.found_for(STEP, &REGISTRATION_REFUSED, format!("POST {place}: {why}"), &[client]);
                continue;
            }
        };
        match reply.status {
            StatusCode::CREATED | StatusCode::OK if reply.object().is_some() => {
                registered.extend(read(exam, place, client, &reply))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                exam.report.found(STEP, &REGISTRATION_LIMITED, format!("POST {place}: {}", described(&reply)));
                exam.report.stop("there were too many registrations");
                break;
            }
            StatusCode::UNAUTHORIZED => {
                let seen = format!("POST {place}: {}", described(&reply));
                let without: Vec<_> =
                    clients.iter().copied().filter(|c| !(c.brings_document && metadata.takes_documents)).collect();
                exam.report.found_for(STEP, &REGISTRATION_CLOSED, seen, &without);
                break;
            }
            _ if finding(&reply).is_some() => {
                if let Some(finding) = finding(&reply) {
                    exam.report.found(STEP, finding, format!("POST {place}: {}", described(&reply)));
                }
                break;
            }
            _ => {
                let seen = format!("POST {place} as {}: {}", client.title, described(&reply));
                exam.report.found_for(STEP, &REGISTRATION_REFUSED, seen, &[client]);
            }
        }
    }
    if !registered.is_empty() {
        let names: Vec<&str> = registered.iter().map(|one: &Registered| one.client.name).collect();
        exam.report.good(STEP, format!("accepted for {}", names.join(", ")));
    }
    registered
}

fn read(exam: &mut Examination, place: &Link, client: &'static KnownClient, reply: &Reply) -> Option<Registered> {
    let object = reply.object()?;
    let Some(id) = object.get("client_id").and_then(Value::as_str) else {
        exam.report.found_for(
            STEP,
            &REGISTRATION_INCOMPLETE,
            format!("client_id is missing: {}", described(reply)),
            &[client],
        );
        return None;
    };
    let management = management(&object).filter(|(link, _)| link.origin() == place.origin());
    if management.is_none() {
        exam.report.stays(id);
    }
    let missing: Vec<&str> = ["redirect_uris", "client_name", "token_endpoint_auth_method"]
        .into_iter()
        .filter(|name| is_absent(&object, name))
        .collect();
    if !missing.is_empty() {
        let seen = format!("the answer lacks {}", missing.join(", "));
        exam.report.found_for(STEP, &REGISTRATION_INCOMPLETE, seen, &[client]);
    }
    let grants = object.get("grant_types").and_then(Value::as_array);
    if !grants.is_some_and(|grants| grants.iter().any(|grant| grant == "refresh_token")) {
        exam.report.found(STEP, &REGISTRATION_WITHOUT_REFRESH, "grant_types of the answer has no refresh_token");
    }
    Some(Registered { client, id: id.to_string(), management })
}

fn is_absent(object: &Map<String, Value>, name: &str) -> bool {
    object.get(name).is_none_or(Value::is_null)
}

fn management(object: &Map<String, Value>) -> Option<(Link, String)> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    Some((Link::parse(text("registration_client_uri")?).ok()?, text("registration_access_token")?.to_string()))
}

/// Removes what was registered (RFC 7592 section 2.3).
pub(super) fn take_back(exam: &mut Examination, registered: Vec<Registered>) {
    exam.prober.allow_more();
    let mut removed = 0;
    for Registered { id, management, .. } in registered {
        let Some((link, token)) = management else { continue };
        let fields = vec![(AUTHORIZATION.as_str(), format!("Bearer {token}"))];
        let ask = Ask { method: Method::DELETE, link: &link, fields, body: Vec::new() };
        match exam.prober.send(&ask) {
            Ok(reply) if reply.status.is_success() => removed += 1,
            _ => exam.report.stays(&id),
        }
    }
    if removed > 0 {
        exam.report.good(STEP, format!("{removed} registered clients are removed again"));
    }
}
