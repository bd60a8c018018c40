//! How clients authenticate at the token and revocation endpoints (RFC 6749 section 2.3).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;

use super::error::OAuthError;
use crate::core::Core;
use crate::encoding::base64url;
use crate::http::Response;
use crate::http::form::Form;
use crate::identity::ClientId;
use crate::store::rows::{AuthMethod, Client};
use crate::tokens::{Kind, equal};

/// A client's credentials as it sent them.
#[derive(Debug, PartialEq)]
pub struct Credentials {
    /// The client id that the client claims.
    pub id: String,
    /// Its secret, where it sent one.
    pub secret: Option<String>,
    /// True if they came in the Authorization field, false if in the form.
    pub basic: bool,
}

/// Reads the credentials from the Authorization field or from the form. Credentials in both are an error.
pub fn credentials(headers: &HeaderMap, form: &Form) -> Result<Credentials, OAuthError> {
    let in_form = form.get("client_id");
    let Some(field) = headers.get(AUTHORIZATION) else {
        let id = in_form.ok_or_else(|| OAuthError::new("invalid_request", "client_id is missing"))?;
        return Ok(Credentials { id: id.into(), secret: form.get("client_secret").map(Into::into), basic: false });
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
        return Err(OAuthError::new("invalid_request", "the client authenticates in two ways at once"));
    }
    Ok(Credentials { id, secret: Some(secret).filter(|s| !s.is_empty()), basic: true })
}

/// Identifies and authenticates the client.
pub fn authenticate(core: &Core, headers: &HeaderMap, form: &Form) -> Result<Client, OAuthError> {
    let credentials = credentials(headers, form)?;
    let client =
        core.state.get::<Client>(&credentials.id)?.ok_or_else(|| invalid_client("the client is not registered"))?;
    if client.auth_method == AuthMethod::None {
        return Ok(client);
    }
    let secret = credentials.secret.ok_or_else(|| invalid_client("the client's secret is missing"))?;
    if secret_is_right(core, &client.id, &secret) {
        Ok(client)
    } else {
        Err(invalid_client("the client's secret is wrong"))
    }
}

fn secret_is_right(core: &Core, id: &ClientId, secret: &str) -> bool {
    let right = core.keys.macs(Kind::ClientSecret, id.as_str().as_bytes());
    right.iter().fold(false, |found, mac| found | equal(base64url(mac).as_bytes(), secret.as_bytes()))
}

fn invalid_client(description: &str) -> OAuthError {
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
