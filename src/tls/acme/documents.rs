//! The documents of an authority (RFC 8555 section 7.1), and their states.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::AcmeError;

/// The state of an order or an authorization (RFC 8555 section 7.1.6).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The client has to act: show control over a name.
    Pending,
    /// The names are validated; the order can be finalized.
    Ready,
    /// The authority works on it.
    Processing,
    /// Done: the certificate is there, or the name is validated.
    Valid,
    /// Failed, expired, or in a state that this program does not know.
    #[serde(other)]
    Invalid,
}

/// An order for a certificate.
#[derive(Debug, Deserialize)]
pub struct Order {
    /// How far it is.
    pub status: Status,
    /// URLs of the authorizations that it needs.
    #[serde(default)]
    pub authorizations: Vec<String>,
    /// Where the certificate request goes.
    pub finalize: String,
    /// URL of the chain, once it is valid.
    pub certificate: Option<String>,
    /// Why it is invalid: a problem document.
    #[serde(default)]
    pub error: Value,
}

/// What it takes to show control over a name.
#[derive(Debug, Deserialize)]
pub struct Authorization {
    /// How far it is.
    pub status: Status,
    /// Each is enough.
    #[serde(default)]
    pub challenges: Vec<Challenge>,
}

/// One way to show control over a name.
#[derive(Debug, Deserialize)]
pub struct Challenge {
    /// Such as `http-01`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where the client says that it is ready.
    pub url: String,
    /// What the key authorization begins with; other kinds have none.
    #[serde(default)]
    pub token: String,
    /// Why it failed: a problem document.
    #[serde(default)]
    pub error: Value,
}

/// A document that has a state.
pub trait HasStatus: DeserializeOwned {
    /// The state.
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

/// Reads a document.
pub fn read<D: DeserializeOwned>(document: Value) -> Result<D, AcmeError> {
    serde_json::from_value(document).map_err(|e| AcmeError::Malformed(e.to_string()))
}

/// The type of a problem (RFC 8555 section 6.7), as far as it makes a difference here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// The account is not known any more.
    AccountDoesNotExist,
    /// The certificate request is refused.
    BadCsr,
    /// The nonce is not good; another may be.
    BadNonce,
    /// A CAA record forbids it.
    Caa,
    /// The authority could not connect for a validation.
    Connection,
    /// The authority could not look up the name.
    Dns,
    /// An account elsewhere has to be bound.
    ExternalAccountRequired,
    /// The e-mail address is refused.
    InvalidContact,
    /// The order can't be finalized, or was already.
    OrderNotReady,
    /// Too many requests.
    RateLimited,
    /// The authority does not certify this name.
    RejectedIdentifier,
    /// The validation found something else.
    Unauthorized,
    /// A person has to visit a page.
    UserActionRequired,
    /// The answer was no problem document.
    None,
    /// Another type, by its name.
    Other(String),
}

impl ProblemType {
    /// From the last part of the type's URN.
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
