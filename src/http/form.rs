//! Parameters of queries and forms. Their number is limited, and each may appear only once.

use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::h1::framing::BodyError;
use super::request::Request;

/// Largest form, in bytes.
const MAX_FORM: usize = 32 << 10;
/// Most parameters of a query or form.
const MAX_PARAMETERS: usize = 64;

/// Parsed parameters.
#[derive(Debug)]
pub struct Form(Vec<(String, String)>);

/// Why a form is refused.
#[derive(Debug)]
pub struct FormError {
    /// The status of the answer.
    pub status: StatusCode,
    /// The reason, as half a sentence for the client.
    pub reason: String,
}

impl Form {
    /// Parses a query or a form body. A repeated parameter is refused (RFC 6749 section 3.1), except `resource`, which
    /// may be repeated (RFC 8707 section 2), and `server`, of which the consent page has one for each box.
    pub fn parse(text: &[u8]) -> Result<Form, String> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text) {
            let is_box = name == "server";
            if !is_box && pairs.iter().filter(|(n, _)| n != "server").count() >= MAX_PARAMETERS {
                return Err("there are too many parameters".into());
            }
            if !matches!(&*name, "resource" | "server") && pairs.iter().any(|(n, _)| *n == name) {
                // RFC 6749 section 5.2: no character outside of printable ASCII, no quote, no backslash.
                let shown: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
                return Err(format!("the parameter '{shown}' appears more than once"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Form(pairs))
    }

    /// Reads the body of a request as a form.
    pub fn read(request: &mut Request<'_>) -> Result<Form, FormError> {
        let bad = |reason: &str| FormError { status: StatusCode::BAD_REQUEST, reason: reason.into() };
        let content_type = request.parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(bad("the Content-Type is not application/x-www-form-urlencoded"));
        }
        let body = request.body.read_all(MAX_FORM).map_err(|e| {
            let error = BodyError::of(&e).unwrap_or(BodyError::Gone);
            FormError { status: error.status(), reason: error.to_string() }
        })?;
        Form::parse(&body).map_err(|reason| bad(&reason))
    }

    /// A parameter's value; empty counts as absent (RFC 6749 section 3.1).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter that may appear more than once.
    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0.iter().filter(move |(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_stands_once_and_empty_is_absent() {
        let form = Form::parse(b"a=1&b=&resource=x&resource=y&c=%C3%A4+b").unwrap();
        assert_eq!((form.get("a"), form.get("b"), form.get("c")), (Some("1"), None, Some("ä b")));
        assert_eq!(form.all("resource").count(), 2);
        assert!(Form::parse(b"a=1&a=1").is_err());
        assert!(Form::parse("x=&".repeat(100).as_bytes()).is_err());
    }
}
