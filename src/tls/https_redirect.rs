//! The plain HTTP port beside the TLS port: it answers ACME challenges, and redirects every other request to https.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ALLOW, LOCATION};
use http::request::Parts;
use http::{Method, StatusCode};
use ipnet::IpNet;

use super::acme::challenges::Challenges;
use crate::http::{Handler, Request, Response};
use crate::net::client_address::TrustedProxies;

/// Path of the HTTP challenges (RFC 8555 section 8.3).
const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// The handler of the plain HTTP port.
pub struct HttpsRedirect {
    /// The open challenges of the authority.
    pub challenges: Arc<Challenges>,
    /// The origin of the external URL, which is the redirect target whatever host the request names.
    pub origin: String,
    /// Reverse proxies whose connections are not counted per address.
    pub trusted_proxies: Vec<IpNet>,
}

impl Handler for HttpsRedirect {
    fn handle(&self, request: Request<'_>) -> Response {
        let uri = &request.parts.uri;
        if let Some(token) = uri.path().strip_prefix(CHALLENGE_PATH) {
            if !matches!(request.parts.method, Method::GET | Method::HEAD) {
                let text = "the methods here are GET, HEAD";
                return Response::text(StatusCode::METHOD_NOT_ALLOWED, text).with(ALLOW, "GET, HEAD");
            }
            return match self.challenges.key_authorization(token) {
                Some(text) => Response::new(StatusCode::OK).with_body("application/octet-stream", text.into_bytes()),
                None => Response::text(StatusCode::NOT_FOUND, "no such challenge is open here"),
            };
        }
        let target = uri.path_and_query().map_or("/", |p| p.as_str());
        // The request target `*` of OPTIONS is not a path.
        let target = if target.starts_with('/') { target } else { "/" };
        Response::text(StatusCode::PERMANENT_REDIRECT, "this server speaks https")
            .with(LOCATION, format!("{}{target}", self.origin))
    }

    fn wants_body(&self, _: &Parts, _: IpAddr) -> bool {
        false
    }

    fn exempt(&self, peer: IpAddr) -> bool {
        TrustedProxies(&self.trusted_proxies).contains(peer)
    }
}
