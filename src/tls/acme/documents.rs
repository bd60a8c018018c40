//! The JSON documents of an authority (RFC 8555 section 7.1), their status, and the types of problems.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::AcmeError;

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
    /// The status of the order.
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
    /// The status of the authorization.
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
    }
}
