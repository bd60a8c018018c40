//! The metadata of the protected resource (RFC 9728): who gives tokens for it.

use http::StatusCode;
use serde_json::{Map, Value};

use super::challenge::Challenge;
use super::examination::Examination;
use super::findings::{
    METADATA_ELSEWHERE, NO_AUTHORIZATION_SERVER, NO_RESOURCE_METADATA, NOT_JSON, OFFLINE_ACCESS_IN_CHALLENGE,
    RESOURCE_DIFFERS, RESOURCE_SPELLED_OTHERWISE, ROOT_METADATA_MISSING, WELL_KNOWN_PAGE,
};
use super::in_between::described;
use super::link::Link;
use super::network;
use super::probe::Ask;

const STEP: &str = "resource";
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Finds the document and returns the authorization server that it names. If a server has no such document, clients of the
/// revision 2025-03-26 take its origin for the authorization server.
pub(super) fn look(exam: &mut Examination, challenge: &Challenge) -> Option<Link> {
    if challenge.reply.status != StatusCode::UNAUTHORIZED {
        return None;
    }
    let url = exam.url.clone();
    unknown_document(exam, &url);
    let mut places = Vec::new();
    if let Some(named) = challenge.metadata.as_deref().and_then(|text| Link::parse(text).ok()) {
        if named.origin() != url.origin() {
            // What follows would only tell the same in other words.
            let seen = format!("resource_metadata=\"{named}\", for a client of {url}");
            exam.report.found(STEP, &METADATA_ELSEWHERE, seen);
            if exam.is_ours {
                exam.report.advise(&format!(
                    "Start mcp-auth-proxy with --external-url {} (EXTERNAL_URL), or give clients {}{}.",
                    url.origin(),
                    named.origin(),
                    url.path()
                ));
            }
            return None;
        }
        places.push(named);
    }
    let path_form = url.at(&format!("{WELL_KNOWN}{}", url.path()));
    let root = url.at(WELL_KNOWN);
    for place in [&path_form, &root] {
        if !places.contains(place) {
            places.push(place.clone());
        }
    }
    let mut found: Option<Map<String, Value>> = None;
    for place in &places {
        let is_last = place == places.last().unwrap_or(place);
        if found.is_some() && *place != root {
            continue;
        }
        match document(exam, place) {
            Ok(object) if found.is_none() => found = Some(object),
            Ok(_) => {}
            Err(Some(missing)) if found.is_some() => exam.report.found(STEP, &ROOT_METADATA_MISSING, missing.seen),
            Err(Some(missing)) if missing.is_other => {
                exam.report.found(STEP, &NOT_JSON, missing.seen);
                return None;
            }
            Err(Some(missing)) if is_last => exam.report.found(STEP, &NO_RESOURCE_METADATA, missing.seen),
            Err(_) => {}
        }
    }
    match found {
        Some(object) => read(exam, &object),
        None => {
            if !exam.report.has(&NO_RESOURCE_METADATA) {
                exam.report.found(STEP, &NO_RESOURCE_METADATA, format!("nothing at {path_form}"));
            }
            Some(url.at(""))
        }
    }
}

/// What came instead of a document.
struct Missing {
    seen: String,
    /// Something was there, but no document.
    is_other: bool,
}

/// A document, or what came in its place; `None` if nothing came.
fn document(exam: &mut Examination, place: &Link) -> Result<Map<String, Value>, Option<Missing>> {
    if !network::reach(exam, place, false) {
        return Err(None);
    }
    let Ok(reply) = exam.prober.document(place) else {
        return Err(None);
    };
    match reply.object() {
        Some(object) if reply.status.is_success() => {
            exam.report.good(STEP, format!("{place} has a document"));
            Ok(object)
        }
        _ => {
            Err(Some(Missing { seen: format!("{place}: {}", described(&reply)), is_other: reply.status.is_success() }))
        }
    }
}

fn read(exam: &mut Examination, object: &Map<String, Value>) -> Option<Link> {
    let url = exam.url.clone();
    match object.get("resource").and_then(Value::as_str) {
        Some(resource) => compare(exam, &url, resource),
        None => exam.report.found(STEP, &RESOURCE_DIFFERS, "the document has no resource"),
    }
    let scopes = object.get("scopes_supported").and_then(Value::as_array);
    if scopes.is_some_and(|scopes| scopes.iter().any(|scope| scope == "offline_access")) {
        exam.report.found(STEP, &OFFLINE_ACCESS_IN_CHALLENGE, "scopes_supported of the resource has offline_access");
    }
    let servers: Vec<&str> = object
        .get("authorization_servers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some(first) = servers.first() else {
        exam.report.found(STEP, &NO_AUTHORIZATION_SERVER, "authorization_servers is missing, or empty");
        return None;
    };
    match Link::parse(first) {
        Ok(link) => {
            exam.report.good(STEP, format!("tokens come from {first}"));
            Some(link)
        }
        Err(why) => {
            exam.report.found(STEP, &NO_AUTHORIZATION_SERVER, why);
            None
        }
    }
}

/// Compares `resource` with the URL, as clients do: letter by letter, or as a parent of it.
fn compare(exam: &mut Examination, url: &Link, resource: &str) {
    if resource == url.to_string() {
        exam.report.good(STEP, format!("it is for {resource}"));
        return;
    }
    let is_parent = Link::parse(resource).is_ok_and(|link| {
        let slashed = |path: &str| format!("{}/", path.trim_end_matches('/'));
        link.origin() == url.origin() && slashed(url.path()).starts_with(&slashed(link.path()))
    });
    let seen = format!("resource is {resource}, and not {url}");
    match is_parent {
        true => exam.report.found(STEP, &RESOURCE_SPELLED_OTHERWISE, seen),
        false => {
            exam.report.found(STEP, &RESOURCE_DIFFERS, seen);
            if Link::parse(resource).is_ok_and(|link| link.origin() == url.origin()) {
                exam.report.advise(&format!("Give clients {resource}."));
            }
        }
    }
}

/// Asks for a document that nobody has.
fn unknown_document(exam: &mut Examination, url: &Link) {
    let place = url.at("/.well-known/doctor-asks-for-what-is-not-there");
    let Ok(reply) = exam.prober.send(&Ask::get(&place)) else { return };
    if reply.status.is_success() || reply.status.is_server_error() {
        exam.report.found(STEP, &WELL_KNOWN_PAGE, format!("{place}: {}", described(&reply)));
    }
}
