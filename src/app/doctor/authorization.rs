//! The authorization request of each client, up to the page for people.

use std::net::ToSocketAddrs;

use form_urlencoded::Serializer;
use http::{Method, StatusCode};

use super::clients::KnownClient;
use super::examination::Examination;
use super::findings::{
    AUTHORIZATION_REFUSED, DOCUMENT_NOT_FETCHED, DOCUMENT_REFUSED, DOCUMENTS_NOT_SEEN, LOOPBACK_PORT,
    PKCE_NOT_REQUIRED, REDIRECT_NOT_CHECKED,
};
use super::in_between::described;
use super::link::Link;
use super::probe::{Ask, Reply};
use super::registration::Registered;
use super::server::ServerMetadata;

const STEP: &str = "authorization";
/// The example of RFC 7636 appendix B. No code is ever issued for it, since nobody signs in.
pub(super) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CODE_CHALLENGE: &str = "E9Melhoa2OwvFrEMTJGuCHaoeK1t8URWbuGJSstw-cM";
/// A redirect URI that no client registers.
const FOREIGN_REDIRECT: &str = "https://attacker.example/callback";

/// What the server makes of an authorization request.
enum Outcome {
    /// A page, or the way to one: the person can sign in.
    Page,
    /// Back to the client with an error.
    Returned(String),
    /// An error page.
    Refused(Reply),
}

/// Asks for authorization as each client does. No page is answered, so nothing is granted.
pub(super) fn look(exam: &mut Examination, metadata: &ServerMetadata, registered: &[Registered]) {
    let mut accepted = Vec::new();
    for Registered { client, id, .. } in registered {
        if look_as(exam, metadata, client, id) {
            accepted.push(client.name);
        }
    }
    if metadata.takes_documents {
        for client in exam.report.clients() {
            if let Some(document) = client.document {
                with_document(exam, metadata, client, document);
            }
        }
    }
    if !accepted.is_empty() {
        exam.report.good(STEP, format!("the sign-in opens for {}", accepted.join(", ")));
    }
    if let Some(Registered { client, id, .. }) = registered.first() {
        foreign_redirect(exam, metadata, id);
        without_pkce(exam, metadata, client, id);
    }
}

fn look_as(exam: &mut Examination, metadata: &ServerMetadata, client: &'static KnownClient, id: &str) -> bool {
    let ask = parameters(exam, id, client.redirect_uri, true);
    let seen = match request(exam, &metadata.authorization, &ask, client.redirect_uri) {
        Ok(Outcome::Page) => {
            with_other_port(exam, metadata, client, id);
            return true;
        }
        Ok(Outcome::Returned(error)) => format!("{}: back to the client with error={error}", client.title),
        Ok(Outcome::Refused(reply)) => format!("{} with {}: {}", client.title, client.redirect_uri, described(&reply)),
        Err(why) => format!("{}: {why}", client.title),
    };
    exam.report.found_for(STEP, &AUTHORIZATION_REFUSED, seen, &[client]);
    false
}

fn with_other_port(exam: &mut Examination, metadata: &ServerMetadata, client: &KnownClient, id: &str) {
    let Some(redirect_uri) = client.other_port else { return };
    let ask = parameters(exam, id, redirect_uri, true);
    if let Ok(Outcome::Refused(reply)) = request(exam, &metadata.authorization, &ask, redirect_uri)
        && reply.status.is_client_error()
    {
        let seen = format!("{} with {redirect_uri}: {}", client.title, described(&reply));
        exam.report.found(STEP, &LOOPBACK_PORT, seen);
    }
}

fn with_document(exam: &mut Examination, metadata: &ServerMetadata, client: &'static KnownClient, document: &str) {
    // A document names loopback addresses without a port.
    let redirect_uri = client.other_port.unwrap_or(client.redirect_uri);
    let ask = parameters(exam, document, redirect_uri, true);
    let seen = match request(exam, &metadata.authorization, &ask, redirect_uri) {
        Ok(Outcome::Page) => {
            exam.report.good(STEP, format!("the document {document} is accepted"));
            return;
        }
        Ok(Outcome::Returned(error)) => format!("{document}: back to the client with error={error}"),
        Ok(Outcome::Refused(reply)) if reply.status.is_server_error() => {
            let seen = format!("{document}: {}", described(&reply));
            if exam.url.is_loopback() && !is_reachable(document) {
                exam.report.found(STEP, &DOCUMENTS_NOT_SEEN, seen);
                return;
            }
            exam.report.found_for(STEP, &DOCUMENT_NOT_FETCHED, seen, &[client]);
            return;
        }
        Ok(Outcome::Refused(reply)) => format!("{document}: {}", described(&reply)),
        Err(why) => format!("{document}: {why}"),
    };
    exam.report.found_for(STEP, &DOCUMENT_REFUSED, seen, &[client]);
}

/// Does this machine know an address of the document's host? The server here is on this machine.
fn is_reachable(document: &str) -> bool {
    let link = Link::parse(document).ok();
    link.is_some_and(|link| {
        (link.host().as_str(), link.port()).to_socket_addrs().is_ok_and(|mut found| found.next().is_some())
    })
}

/// Codes must go nowhere but to the client (RFC 9700 section 4.1).
fn foreign_redirect(exam: &mut Examination, metadata: &ServerMetadata, id: &str) {
    let ask = parameters(exam, id, FOREIGN_REDIRECT, true);
    let outcome = request(exam, &metadata.authorization, &ask, FOREIGN_REDIRECT);
    if let Ok(Outcome::Page | Outcome::Returned(_)) = outcome {
        let seen = format!("{} takes {FOREIGN_REDIRECT}, which was not registered", metadata.authorization);
        exam.report.found(STEP, &REDIRECT_NOT_CHECKED, seen);
    } else {
        exam.report.good(STEP, "a redirect URI that was not registered is refused");
    }
}

fn without_pkce(exam: &mut Examination, metadata: &ServerMetadata, client: &KnownClient, id: &str) {
    let ask = parameters(exam, id, client.redirect_uri, false);
    if let Ok(Outcome::Page) = request(exam, &metadata.authorization, &ask, client.redirect_uri) {
        exam.report.found(STEP, &PKCE_NOT_REQUIRED, "a request without code_challenge gets a sign-in");
    }
}

fn parameters(exam: &Examination, id: &str, redirect_uri: &str, has_pkce: bool) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("response_type", "code").append_pair("client_id", id).append_pair("redirect_uri", redirect_uri);
    query.append_pair("state", "doctor").append_pair("resource", &exam.url.to_string());
    if has_pkce {
        query.append_pair("code_challenge", CODE_CHALLENGE).append_pair("code_challenge_method", "S256");
    }
    query.finish()
}

fn request(exam: &mut Examination, endpoint: &Link, query: &str, redirect_uri: &str) -> Result<Outcome, String> {
    let separator = if endpoint.target().contains('?') { '&' } else { '?' };
    let place = endpoint.at(&format!("{}{separator}{query}", endpoint.target()));
    let ask = Ask { method: Method::GET, link: &place, fields: vec![("accept", "text/html".into())], body: Vec::new() };
    let reply = exam.prober.send(&ask)?;
    let location = reply.field("location");
    Ok(match reply.status {
        status if status.is_redirection() && location.starts_with(redirect_uri) => match error_in(location) {
            Some(error) => Outcome::Returned(error),
            None => Outcome::Page,
        },
        status if status.is_redirection() && !location.is_empty() => Outcome::Page,
        // A page that asks for a password may have this status.
        StatusCode::OK | StatusCode::UNAUTHORIZED if reply.is_html() => Outcome::Page,
        _ => Outcome::Refused(reply),
    })
}

/// The parameter `error` in the query of a redirect.
fn error_in(location: &str) -> Option<String> {
    let (_, query) = location.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "error").map(|(_, value)| value.into_owned())
}
