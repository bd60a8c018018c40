//! What can go wrong with an authority: problem documents (RFC 9457, RFC 8555 section 6.7) and everything else.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

const PROBLEM: &str = "urn:ietf:params:acme:error:";
/// Longest detail of a problem, in characters.
const MAX_DETAIL: usize = 400;

/// Why an exchange with the authority failed.
#[derive(Debug)]
pub enum AcmeError {
    /// The authority answered with an error.
    Problem(Problem),
    /// The authority could not be reached; says why.
    Unreachable(String),
    /// The authority's answer does not conform to the protocol; says how.
    Malformed(String),
    /// The authority did not finish in time; says how long it had.
    Slow(String),
    /// The name could not be validated with either challenge type; says why for both.
    NotValidated(String),
    /// A failure on this machine, or one that the user has to fix; says why.
    Permanent(String),
}

/// The parts of a problem document (RFC 9457) that are used here.
#[derive(Debug)]
pub struct Problem {
    /// Its type.
    pub kind: ProblemType,
    /// Text for the log, including that of subproblems.
    pub detail: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// How long to wait before the next request (Retry-After).
    pub retry_after: Option<Duration>,
}

impl AcmeError {
    /// True for a problem of the type `kind`.
    pub fn is(&self, kind: &ProblemType) -> bool {
        matches!(self, AcmeError::Problem(problem) if problem.kind == *kind)
    }

    /// True for a temporary failure: the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            AcmeError::Unreachable(_) | AcmeError::Slow(_) => true,
            AcmeError::Problem(problem) => {
                problem.status == 429 || problem.status >= 500 || problem.kind == ProblemType::BadNonce
            }
            _ => false,
        }
    }

    /// How long the authority asks to wait before the next request (Retry-After).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            AcmeError::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for AcmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcmeError::Problem(Problem { kind, detail, status, .. }) => {
                match kind {
                    ProblemType::RateLimited => f.write_str("the authority has had too many requests for this name or address")?,
                    ProblemType::Dns => f.write_str("the authority can't look the name up: it must be in public DNS")?,
                    ProblemType::Caa => f.write_str("a CAA record in DNS forbids this authority to certify the name")?,
                    ProblemType::Connection => f.write_str(
                        "the authority can't connect to this machine: port 443 or 80 of the name's address must lead here",
                    )?,
                    ProblemType::Unauthorized => f.write_str(
                        "the authority did not find its challenge: another machine or program answers under this name",
                    )?,
                    ProblemType::RejectedIdentifier => f.write_str("the authority gives no certificate for this name")?,
                    ProblemType::ExternalAccountRequired => f.write_str(
                        "the authority wants an account to be bound: set --acme-eab-kid (ACME_EAB_KID) and --acme-eab-hmac-key (ACME_EAB_HMAC_KEY)",
                    )?,
                    ProblemType::UserActionRequired => f.write_str("the authority's terms have changed: look at the page that it names")?,
                    ProblemType::BadCsr => f.write_str("the authority refuses the certificate request")?,
                    ProblemType::InvalidContact => {
                        f.write_str("the authority refuses the address of --acme-email (ACME_EMAIL)")?
                    }
                    ProblemType::None if (200..300).contains(status) => f.write_str("the authority refused without a reason")?,
                    ProblemType::None => write!(f, "the authority answered {status}")?,
                    ProblemType::AccountDoesNotExist => f.write_str("the authority does not know the account any more")?,
                    ProblemType::BadNonce => f.write_str("the authority refused every nonce")?,
                    ProblemType::OrderNotReady => f.write_str("the authority says that the order is not ready")?,
                    ProblemType::Other(name) => write!(f, "the authority refused ({name})")?,
                }
                if detail.is_empty() { Ok(()) } else { write!(f, "; it says: {detail}") }
            }
            AcmeError::Unreachable(why) => write!(f, "the authority can't be reached: {why}"),
            AcmeError::Slow(why) | AcmeError::NotValidated(why) => f.write_str(why),
            AcmeError::Malformed(why) => write!(f, "the authority's answer is no ACME: {why}"),
            AcmeError::Permanent(why) => f.write_str(why),
        }
    }
}

impl Problem {
    /// Reads a problem document. Any other document gives an empty type and detail.
    pub fn read(document: &Value, status: StatusCode) -> Problem {
        let kind = document["type"].as_str().and_then(|t| t.strip_prefix(PROBLEM)).unwrap_or_default();
        let mut said = vec![document["detail"].as_str().unwrap_or_default().to_string()];
        for sub in document["subproblems"].as_array().into_iter().flatten() {
            let name = sub["identifier"]["value"].as_str().unwrap_or_default();
            said.push(format!("{name}: {}", sub["detail"].as_str().unwrap_or_default()));
        }
        said.extend(document["instance"].as_str().map(str::to_string));
        let detail = said.iter().filter(|s| !s.is_empty()).cloned().collect::<Vec<_>>().join("; ");
        Problem {
            kind: ProblemType::of(kind),
            detail: detail.chars().take(MAX_DETAIL).collect(),
            status: status.as_u16(),
            retry_after: None,
        }
    }
}

/// The problem types (RFC 8555 section 6.7) that this program handles or explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// The authority does not know the account.
    AccountDoesNotExist,
    /// The authority refuses the certificate request (CSR).
    BadCsr,
    /// The authority refuses the nonce, but may accept another one.
    BadNonce,
    /// A CAA record forbids this authority to certify the name.
    Caa,
    /// The authority could not connect for a validation.
    Connection,
    /// The authority could not look up the name.
    Dns,
    /// The authority requires an external account binding.
    ExternalAccountRequired,
    /// The authority refuses the e-mail address (invalidContact or unsupportedContact).
    InvalidContact,
    /// The order can't be finalized, or is finalized already.
    OrderNotReady,
    /// Too many requests.
    RateLimited,
    /// The authority does not certify this name.
    RejectedIdentifier,
    /// The validation did not find the expected answer.
    Unauthorized,
    /// The user has to visit a page, for example to accept new terms.
    UserActionRequired,
    /// The answer has no ACME problem type.
    None,
    /// Any other type, by its name.
    Other(String),
}

impl ProblemType {
    /// Converts the last part of the type's URN, such as `rateLimited`.
    pub fn of(name: &str) -> ProblemType {
        match name {
            "accountDoesNotExist" => ProblemType::AccountDoesNotExist,
            "badCSR" => ProblemType::BadCsr,
            "badNonce" => ProblemType::BadNonce,
            "caa" => ProblemType::Caa,
            "connection" => ProblemType::Connection,
            "dns" => ProblemType::Dns,
            "externalAccountRequired" => ProblemType::ExternalAccountRequired,
            "invalidContact" | "unsupportedContact" => ProblemType::InvalidContact,
            "orderNotReady" => ProblemType::OrderNotReady,
            "rateLimited" => ProblemType::RateLimited,
            "rejectedIdentifier" => ProblemType::RejectedIdentifier,
            "unauthorized" => ProblemType::Unauthorized,
            "userActionRequired" => ProblemType::UserActionRequired,
            "" => ProblemType::None,
            other => ProblemType::Other(other.chars().filter(char::is_ascii_alphanumeric).take(64).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_is_told_in_words() {
        let document = json!({
            "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates",
            "subproblems": [{"identifier": {"type": "dns", "value": "a.example"}, "detail": "five a week"}],
        });
        let problem = Problem::read(&document, StatusCode::TOO_MANY_REQUESTS);
        let text = AcmeError::Problem(problem).to_string();
        for part in ["too many requests", "too many certificates", "a.example: five a week"] {
            assert!(text.contains(part), "{text}");
        }
        let none = AcmeError::Problem(Problem::read(&Value::Null, StatusCode::BAD_GATEWAY)).to_string();
        assert_eq!(none, "the authority answered 502");
    }

    #[test]
    fn an_unknown_type_is_cleaned() {
        assert_eq!(ProblemType::of("new\u{1b}[m"), ProblemType::Other("newm".into()));
    }
}
