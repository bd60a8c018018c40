//! The metadata of the authorization server (RFC 8414, or OpenID discovery): its endpoints and what it can do.

use serde_json::{Map, Value};

use super::examination::Examination;
use super::findings::{
    DOCUMENTS_ONLY, DOCUMENTS_WITHOUT_PUBLIC_CLIENTS, ENDPOINT_MISSING, ENDPOINT_NOT_HTTPS, ISSUER_DIFFERS,
    NO_CODE_FLOW, NO_PKCE, NO_REFRESH, NO_REGISTRATION, NO_SERVER_METADATA, NOT_JSON,
};
use super::in_between::described;
use super::link::Link;
use super::network;

const STEP: &str = "server";

/// What the authorization server says of itself.
pub(super) struct ServerMetadata {
    /// Where the document was found.
    pub(super) place: Link,
    pub(super) authorization: Link,
    pub(super) token: Link,
    pub(super) registration: Option<Link>,
    /// Clients may bring a metadata document.
    pub(super) takes_documents: bool,
}

/// Finds the document of `issuer` where clients look for it.
pub(super) fn look(exam: &mut Examination, issuer: &Link) -> Option<ServerMetadata> {
    if !network::reach(exam, issuer, false) {
        return None;
    }
    let path = issuer.path().trim_end_matches('/');
    let mut places = vec![
        issuer.at(&format!("/.well-known/oauth-authorization-server{path}")),
        issuer.at(&format!("/.well-known/openid-configuration{path}")),
    ];
    if !path.is_empty() {
        places.push(issuer.at(&format!("{path}/.well-known/openid-configuration")));
    }
    let mut seen = Vec::new();
    for place in places {
        let reply = match exam.prober.document(&place) {
            Ok(reply) => reply,
            Err(why) => {
                seen.push(format!("{place}: {why}"));
                continue;
            }
        };
        match reply.object() {
            Some(object) if reply.status.is_success() => {
                exam.report.good(STEP, format!("{place} has a document"));
                return read(exam, issuer, place, &object);
            }
            _ if reply.status.is_success() => {
                exam.report.found(STEP, &NOT_JSON, format!("{place}: {}", described(&reply)));
                return None;
            }
            _ => seen.push(format!("{place}: {}", described(&reply))),
        }
    }
    exam.report.found(STEP, &NO_SERVER_METADATA, seen.join("; "));
    None
}

fn read(exam: &mut Examination, issuer: &Link, place: Link, object: &Map<String, Value>) -> Option<ServerMetadata> {
    let said = object.get("issuer").and_then(Value::as_str).unwrap_or_default();
    // The origin was taken for the issuer if there was no resource metadata; then there is nothing to compare with.
    if said != issuer.to_string() {
        exam.report.found(STEP, &ISSUER_DIFFERS, format!("issuer is '{said}', and the server was called {issuer}"));
    }
    grants(exam, object);
    let registration = endpoint(exam, object, "registration_endpoint", false);
    let takes_documents = object.get("client_id_metadata_document_supported").and_then(Value::as_bool) == Some(true);
    introductions(exam, object, registration.is_some(), takes_documents);
    let authorization = endpoint(exam, object, "authorization_endpoint", true);
    let token = endpoint(exam, object, "token_endpoint", true);
    let metadata =
        ServerMetadata { place, authorization: authorization?, token: token?, registration, takes_documents };
    for link in
        [Some(&metadata.authorization), Some(&metadata.token), metadata.registration.as_ref()].into_iter().flatten()
    {
        if !network::reach(exam, link, false) {
            return None;
        }
    }
    Some(metadata)
}

fn endpoint(exam: &mut Examination, object: &Map<String, Value>, name: &str, is_needed: bool) -> Option<Link> {
    let link = match object.get(name).and_then(Value::as_str).map(Link::parse) {
        Some(Ok(link)) => link,
        Some(Err(why)) => {
            exam.report.found(STEP, &ENDPOINT_MISSING, format!("{name}: {why}"));
            return None;
        }
        None if is_needed => {
            exam.report.found(STEP, &ENDPOINT_MISSING, format!("{name} is missing"));
            return None;
        }
        None => return None,
    };
    if exam.url.is_secure() && !link.is_secure() {
        exam.report.found(STEP, &ENDPOINT_NOT_HTTPS, format!("{name} is {link}"));
        return None;
    }
    Some(link)
}

/// The texts of a list; `None` if it is not there.
fn list<'o>(object: &'o Map<String, Value>, name: &str) -> Option<Vec<&'o str>> {
    Some(object.get(name)?.as_array()?.iter().filter_map(Value::as_str).collect())
}

fn grants(exam: &mut Examination, object: &Map<String, Value>) {
    match list(object, "code_challenge_methods_supported") {
        Some(methods) if methods.contains(&"S256") => exam.report.good(STEP, "PKCE with S256"),
        Some(methods) => {
            let seen = format!("code_challenge_methods_supported is [{}]", methods.join(", "));
            // Clients that don't need the list still read it if it is there.
            let clients = exam.report.clients();
            exam.report.found_for(STEP, &NO_PKCE, seen, &clients);
        }
        None => exam.report.found(STEP, &NO_PKCE, "code_challenge_methods_supported is missing"),
    }
    let responses = list(object, "response_types_supported").unwrap_or_default();
    let types = list(object, "grant_types_supported");
    if !responses.contains(&"code") {
        exam.report.found(STEP, &NO_CODE_FLOW, format!("response_types_supported is [{}]", responses.join(", ")));
    } else if types.as_ref().is_some_and(|types| !types.contains(&"authorization_code")) {
        exam.report.found(STEP, &NO_CODE_FLOW, "grant_types_supported has no authorization_code");
    }
    // Without the list, RFC 8414 means authorization_code and implicit.
    if !types.unwrap_or_default().contains(&"refresh_token") {
        exam.report.found(STEP, &NO_REFRESH, "grant_types_supported has no refresh_token");
    }
}

/// How clients can introduce themselves.
fn introductions(exam: &mut Examination, object: &Map<String, Value>, registers: bool, takes_documents: bool) {
    let methods = list(object, "token_endpoint_auth_methods_supported").unwrap_or_default();
    match (registers, takes_documents) {
        (true, true) => exam.report.good(STEP, "clients register, or bring a metadata document"),
        (true, false) => exam.report.good(STEP, "clients register"),
        (false, true) => exam.report.found(STEP, &DOCUMENTS_ONLY, "there is no registration_endpoint"),
        (false, false) => {
            let seen = "there is neither registration_endpoint nor client_id_metadata_document_supported";
            exam.report.found(STEP, &NO_REGISTRATION, seen);
        }
    }
    if takes_documents && !methods.contains(&"none") {
        let seen = format!("token_endpoint_auth_methods_supported is [{}]", methods.join(", "));
        exam.report.found(STEP, &DOCUMENTS_WITHOUT_PUBLIC_CLIENTS, seen);
    }
}
