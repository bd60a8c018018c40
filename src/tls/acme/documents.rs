//! The JSON documents of an authority (RFC 8555 section 7.1), their status, and the types of problems.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::AcmeError;

/// The status of an order or an authorization (RFC 8555 section 7.1.6).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The client has to act: prove control over a name.
    Pending,
    /// The names are validated; the order can be finalized.
    Ready,
    /// The authority is processing it.
    Processing,
    /// Done: the certificate is issued, or the name is validated.
    Valid,
    /// Failed, expired, or a status that this program does not know.
    #[serde(other)]
    Invalid,
}

/// An order for a certificate.
#[derive(Debug, Deserialize)]
pub struct Order {
    /// How far it is.
    pub status: Status,
    /// URLs of the authorizations that the order needs.
    #[serde(default)]
    pub authorizations: Vec<String>,
    /// URL to send the certificate request (CSR) to.
    pub finalize: String,
    /// URL of the certificate chain, once the order is valid.
    pub certificate: Option<String>,
    /// Why the order is invalid: a problem document.
    #[serde(default)]
    pub error: Value,
}

/// An authorization: the challenges to prove control over one name.
#[derive(Debug, Deserialize)]
pub struct Authorization {
    /// How far it is.
    pub status: Status,
    /// The challenges on offer; completing one is enough.
    #[serde(default)]
    pub challenges: Vec<Challenge>,
}

/// One way to prove control over a name.
#[derive(Debug, Deserialize)]
pub struct Challenge {
    /// The challenge type, such as `http-01`.
    #[serde(rename = "type")]
    pub kind: String,
    /// URL at which the client tells the authority to start the validation.
    pub url: String,
    /// The token, with which the key authorization begins; empty for challenge types without one.
    #[serde(default)]
    pub token: String,
    /// Why the challenge failed: a problem document.
    #[serde(default)]
    pub error: Value,
}

/// A document with a status.
pub trait HasStatus: DeserializeOwned {
    /// The document's status.
    fn status(&self) -> Status;
}

impl HasStatus for Order {
    fn status(&self) -> Status {
        self.status
    }
}

impl HasStatus for Authorization {
    fn status(&self) -> Status {
        self.status
    }
}

/// Reads a document. A malformed one is [`AcmeError::Malformed`].
pub fn read<D: DeserializeOwned>(document: Value) -> Result<D, AcmeError> {
    serde_json::from_value(document).map_err(|e| AcmeError::Malformed(e.to_string()))
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
    fn documents_are_read_and_unknown_states_are_failures() {
        let order = json!({"status": "ready", "authorizations": ["https://ca/a"], "finalize": "https://ca/f", "x": 1});
        let order: Order = read(order).unwrap();
        assert_eq!((order.status, order.certificate), (Status::Ready, None));
        let odd: Authorization = read(json!({"status": "deactivated"})).unwrap();
        assert_eq!(odd.status, Status::Invalid);
        assert!(read::<Order>(json!({"status": "ready"})).is_err() && read::<Order>(Value::Null).is_err());
        assert_eq!(ProblemType::of("new\u{1b}[m"), ProblemType::Other("newm".into()));
    }
}
