//! How clients authenticate at the token, revocation and introspection endpoints (RFC 6749 section 2.3, RFC 7523 section 2.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;

use super::client_metadata::is_document;
use super::clients::NoClient;
use super::error::OAuthError;
use super::server::AuthorizationServer;
use crate::core::Core;
use crate::encoding::{base64url, digest};
use crate::http::form::Form;
use crate::http::{Caller, Response};
use crate::identity::ClientId;
use crate::rules::strings;
use crate::store::rows::{AuthMethod, Client, UsedAssertion};
use crate::tokens::jwt::{ALGORITHMS, LEEWAY, Unverified};
use crate::tokens::{Kind, equal};

/// The type of an assertion that authenticates a client (RFC 7523 section 2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long an assertion may be good, in seconds: it is remembered for so long.
const LONGEST_ASSERTION: u64 = 300;
/// Longest `jti`, in bytes.
const MAX_JTI: usize = 256;

/// A client's credentials as it sent them.
#[derive(Debug, PartialEq)]
pub struct Credentials {
    /// The client id that the client claims.
    pub id: String,
    /// Its secret, where it sent one.
    pub secret: Option<String>,
    /// Its assertion, where it sent one.
    pub assertion: Option<String>,
    /// True if they came in the Authorization field, false if in the form.
    pub basic: bool,
}

/// A client that is what it says.
pub struct Authenticated {
    /// The client.
    pub client: Client,
    /// How it has authenticated.
    pub how: AuthMethod,
}

/// Reads the credentials from the Authorization field or from the form. Credentials in both are an error.
pub fn credentials(headers: &HeaderMap, form: &Form) -> Result<Credentials, OAuthError> {
    let in_form = form.get("client_id");
    let twice = || OAuthError::new("invalid_request", "the client authenticates in two ways at once");
    let assertion = form.get("client_assertion");
    if let Some(assertion) = assertion {
        if headers.contains_key(AUTHORIZATION) || form.get("client_secret").is_some() {
            return Err(twice());
        }
        return of_assertion(assertion, in_form, form.get("client_assertion_type"));
    }
    let Some(field) = headers.get(AUTHORIZATION) else {
        let id = in_form.ok_or_else(|| OAuthError::new("invalid_request", "client_id is missing"))?;
        let secret = form.get("client_secret").map(Into::into);
        return Ok(Credentials { id: id.into(), secret, assertion: None, basic: false });
    };
    let malformed = || invalid_client("the Authorization field is not Basic credentials");
    let text = field.to_str().map_err(|_| malformed())?;
    let (scheme, encoded) = text.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(malformed)?;
    let (id, secret) = decoded.split_once(':').ok_or_else(malformed)?;
    // RFC 6749 section 2.3.1 requires form-encoding for both parts. Our own ids and secrets have no characters that the
    // encoding changes, so clients that skip it work as well.
    let decode = |part: &str| percent_decode_str(part).decode_utf8().map(|s| s.into_owned()).map_err(|_| malformed());
    let (id, secret) = (decode(id)?, decode(secret)?);
    if form.get("client_secret").is_some() || in_form.is_some_and(|f| f != id) {
        return Err(twice());
    }
    Ok(Credentials { id, secret: Some(secret).filter(|s| !s.is_empty()), assertion: None, basic: true })
}

/// The client of an assertion is its issuer and its subject (RFC 7523 section 3); `client_id` may be left out.
fn of_assertion(assertion: &str, in_form: Option<&str>, kind: Option<&str>) -> Result<Credentials, OAuthError> {
    if kind != Some(ASSERTION_TYPE) {
        let why = format!("client_assertion_type must be {ASSERTION_TYPE}");
        return Err(OAuthError::new("invalid_request", why));
    }
    let token =
        Unverified::parse(assertion).map_err(|why| invalid_client(&format!("the client's assertion: {why}")))?;
    let id = token.text("sub").ok_or_else(|| invalid_client("the client's assertion has no subject (sub)"))?;
    if token.text("iss") != Some(id) || in_form.is_some_and(|f| f != id) {
        return Err(invalid_client("iss and sub of the client's assertion must both be the client_id"));
    }
    Ok(Credentials { id: id.into(), secret: None, assertion: Some(assertion.into()), basic: false })
}

/// Identifies and authenticates the client. `prove` looks whether the rest of the request is right, given the client's id;
/// the client's document and keys are fetched only after it.
pub fn authenticate(
    server: &AuthorizationServer,
    headers: &HeaderMap,
    form: &Form,
    caller: Caller,
    prove: &dyn Fn(&str) -> Result<(), OAuthError>,
) -> Result<Authenticated, OAuthError> {
    let credentials = credentials(headers, form)?;
    if let Some(assertion) = &credentials.assertion {
        return by_assertion(server, &credentials.id, assertion, caller, prove);
    }
    let client = server.clients.known(&server.core, &credentials.id).map_err(no_client)?;
    let how = match client.auth_method {
        AuthMethod::None => AuthMethod::None,
        // A document may declare it, and the client may leave it out. A grant that began with it keeps it.
        AuthMethod::PrivateKeyJwt if is_document(client.id.as_str()) => AuthMethod::None,
        AuthMethod::PrivateKeyJwt => {
            return Err(invalid_client("the client's assertion (client_assertion) is missing"));
        }
        AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost => {
            let secret = credentials.secret.ok_or_else(|| invalid_client("the client's secret is missing"))?;
            if !secret_is_right(&server.core, &client, &secret) {
                return Err(invalid_client("the client's secret is wrong"));
            }
            client.auth_method
        }
    };
    Ok(Authenticated { client, how })
}

/// RFC 7523 section 3: an assertion for this server, soon over, signed by the client, and not used before.
fn by_assertion(
    server: &AuthorizationServer,
    id: &str,
    assertion: &str,
    caller: Caller,
    prove: &dyn Fn(&str) -> Result<(), OAuthError>,
) -> Result<Authenticated, OAuthError> {
    let core = &*server.core;
    let refuse = |why: &str| invalid_client(&format!("the client's assertion: {why}"));
    let token = Unverified::parse(assertion).map_err(refuse)?;
    if !token.is_signed_with(&ALGORITHMS) {
        return Err(refuse("its algorithm is none of ES256, RS256 and EdDSA"));
    }
    let is_type = |typ: &String| ["jwt", "client-authentication+jwt"].iter().any(|own| typ.eq_ignore_ascii_case(own));
    if token.typ.as_ref().is_some_and(|typ| !is_type(typ)) {
        return Err(refuse("its type (typ) is that of another kind of token"));
    }
    let audiences = strings(token.claims.get("aud"));
    let is_for_us = |aud: &String| *aud == core.keys.issuer() || *aud == core.url("/.idp/token");
    if audiences.len() != 1 || !audiences.iter().all(is_for_us) {
        return Err(refuse("its audience (aud) must be the issuer, or the URL of the token endpoint"));
    }
    let now = core.now();
    let exp = token.check_times(now).map_err(refuse)?;
    if exp > now + LONGEST_ASSERTION + LEEWAY {
        return Err(refuse("it is good for more than five minutes (exp)"));
    }
    let jti = token.text("jti").filter(|jti| jti.len() <= MAX_JTI).ok_or_else(|| refuse("it has no id (jti)"))?;
    prove(id)?;
    let client = server.clients.find(core, id, caller.address).map_err(no_client)?;
    if client.auth_method != AuthMethod::PrivateKeyJwt {
        return Err(invalid_client("the client is not registered for private_key_jwt"));
    }
    let keys = server.clients.keys(&client, caller.address).map_err(|why| unreachable(&why))?;
    if token.verify(&keys).is_none() {
        return Err(refuse("none of the client's keys has signed it"));
    }
    let key = digest(format!("{id}\0{jti}").as_bytes());
    let is_first = core.state.transact(move |tx| {
        if tx.get::<UsedAssertion>(&key)?.is_some() {
            return Ok(false);
        }
        tx.put(&key, &UsedAssertion { expires_at: exp + LEEWAY });
        Ok(true)
    })?;
    match is_first {
        true => Ok(Authenticated { client, how: AuthMethod::PrivateKeyJwt }),
        false => Err(refuse("it was used before (jti)")),
    }
}

fn secret_is_right(core: &Core, client: &Client, secret: &str) -> bool {
    if !client.secret_digests.is_empty() {
        let presented = digest(secret.as_bytes());
        return client.secret_digests.iter().fold(false, |found, d| found | equal(d.as_bytes(), presented.as_bytes()));
    }
    derived_secrets(core, &client.id).iter().fold(false, |found, s| found | equal(s.as_bytes(), secret.as_bytes()))
}

/// The secrets of a client that registered with an earlier version, which derived them from the id.
pub fn derived_secrets(core: &Core, id: &ClientId) -> Vec<String> {
    core.keys.macs(Kind::ClientSecret, id.as_str().as_bytes()).iter().map(base64url).collect()
}

fn no_client(error: NoClient) -> OAuthError {
    match error {
        NoClient::Unknown => invalid_client("the client is not registered"),
        NoClient::Document(why) => invalid_client(&why),
        NoClient::Unreachable(why) => unreachable(&why),
        NoClient::Store(error) => error.into(),
    }
}

/// Not `invalid_client`: the client would take its registration for gone.
fn unreachable(why: &str) -> OAuthError {
    let description = format!("the client's metadata can't be fetched: {why}; try again in a minute");
    OAuthError { status: StatusCode::SERVICE_UNAVAILABLE, code: "temporarily_unavailable", description }
}

pub(super) fn invalid_client(description: &str) -> OAuthError {
    OAuthError { status: StatusCode::UNAUTHORIZED, code: "invalid_client", description: description.into() }
}

/// Builds the error response. A client that used the Authorization field gets the matching challenge (RFC 6749 section
/// 5.2).
pub fn refusal(error: &OAuthError, headers: &HeaderMap) -> Response {
    let response = error.response();
    if error.status == StatusCode::UNAUTHORIZED && headers.contains_key(AUTHORIZATION) {
        response.with(WWW_AUTHENTICATE, "Basic realm=\"token endpoint\"")
    } else {
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorization: Option<&str>, form: &str) -> Result<(String, Option<String>), &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        let form = Form::parse(form.as_bytes()).unwrap();
        credentials(&headers, &form).map(|c| (c.id, c.secret)).map_err(|e| e.code)
    }

    #[test]
    fn credentials_come_from_one_place() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let pair = |id: &str, secret: &str| Ok((id.to_string(), Some(secret.to_string())));
        assert_eq!(read(None, "client_id=a"), Ok(("a".into(), None)));
        assert_eq!(read(None, "client_id=a&client_secret=s"), pair("a", "s"));
        assert_eq!(read(Some(&basic("a:s")), "client_id=a"), pair("a", "s"));
        assert_eq!(read(Some(&basic("a%2Db:s%3A")), ""), pair("a-b", "s:"));
        assert_eq!(read(Some(&basic("a:")), ""), Ok(("a".into(), None)));
        assert_eq!(read(Some(&basic("a:s")), "client_secret=s"), Err("invalid_request"));
        assert_eq!(read(Some(&basic("a:s")), "client_id=b"), Err("invalid_request"));
        assert_eq!(read(None, ""), Err("invalid_request"));
        for bad in ["Bearer x", "Basic", "Basic !", "Basic YQ==", &basic("%ff:s")] {
            assert_eq!(read(Some(bad), "client_id=a"), Err("invalid_client"), "{bad}");
        }
    }
}
