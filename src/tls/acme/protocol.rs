//! Signed requests to the authority, nonces, and problem documents (RFC 8555 section 6).

use std::fmt;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde_json::{Value, json};

use super::account::AccountKey;
use super::documents::ProblemType;
use crate::http::client::{Answer, Fetcher, RemoteUrl};

/// A fresh nonce may be refused too; with half of them refused, one request in a million fails.
const NONCES: usize = 20;
const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
const JOSE: &str = "application/jose+json";
const PROBLEM: &str = "urn:ietf:params:acme:error:";
/// What is said about a fault, at most.
const MAX_DETAIL: usize = 400;

/// The authority's directory (RFC 8555 section 7.1.1).
pub struct Directory {
    /// Hands out nonces.
    pub new_nonce: RemoteUrl,
    /// Makes accounts.
    pub new_account: RemoteUrl,
    /// Makes orders.
    pub new_order: RemoteUrl,
    /// Says when to renew (RFC 9773), where the authority does.
    pub renewal_info: Option<RemoteUrl>,
    /// What `--tls-accept-tos` accepts.
    pub terms: Option<String>,
    /// No account without one elsewhere.
    pub needs_external_account: bool,
}

/// What went wrong.
#[derive(Debug)]
pub enum AcmeError {
    /// The authority says so.
    Problem(Problem),
    /// It could not be asked; says why.
    Unreachable(String),
    /// It answered with something else than the protocol has.
    Malformed(String),
    /// It takes too long; says for what.
    Slow(String),
    /// The name could not be validated, whichever way; says why.
    NotValidated(String),
    /// It can't go on by itself; says why and what to do.
    Permanent(String),
}

/// A problem document (RFC 9457), as far as it matters.
#[derive(Debug)]
pub struct Problem {
    /// Its type.
    pub kind: ProblemType,
    /// Words for a person, with those of subproblems.
    pub detail: String,
    /// Status of the answer.
    pub status: u16,
    /// Not before so long from now.
    pub retry_after: Option<Duration>,
}

impl AcmeError {
    /// Is it a problem of that type?
    pub fn is(&self, kind: &ProblemType) -> bool {
        matches!(self, AcmeError::Problem(problem) if problem.kind == *kind)
    }

    /// May the same request be answered otherwise next time?
    pub fn is_passing(&self) -> bool {
        match self {
            AcmeError::Unreachable(_) | AcmeError::Slow(_) => true,
            AcmeError::Problem(problem) => {
                problem.status == 429 || problem.status >= 500 || problem.kind == ProblemType::BadNonce
            }
            _ => false,
        }
    }

    /// How long the authority wants to be left alone.
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

/// A conversation with one authority.
pub struct Conversation<'c> {
    fetcher: &'c Fetcher,
    /// Where things are.
    pub directory: Directory,
    key: &'c AccountKey,
    /// The account's URL, once it is known.
    pub account: Option<String>,
    nonce: Option<String>,
}

impl<'c> Conversation<'c> {
    /// Reads the directory.
    pub fn begin(
        fetcher: &'c Fetcher,
        directory: &RemoteUrl,
        key: &'c AccountKey,
        account: Option<String>,
    ) -> Result<Conversation<'c>, AcmeError> {
        let answer = fetcher.get(directory, &[]).map_err(|e| AcmeError::Unreachable(e.to_string()))?;
        if !answer.status.is_success() {
            return Err(refused(&answer));
        }
        let document = document(&answer)?;
        let url = |name: &str| match document[name].as_str() {
            Some(text) => RemoteUrl::parse(text).map_err(|e| AcmeError::Malformed(format!("{name}: {e}"))),
            None => Err(AcmeError::Malformed(format!("{directory} is no ACME directory: it has no {name}"))),
        };
        let meta = &document["meta"];
        let directory = Directory {
            new_nonce: url("newNonce")?,
            new_account: url("newAccount")?,
            new_order: url("newOrder")?,
            renewal_info: url("renewalInfo").ok(),
            terms: meta["termsOfService"].as_str().map(str::to_string),
            needs_external_account: meta["externalAccountRequired"].as_bool().unwrap_or_default(),
        };
        Ok(Conversation { fetcher, directory, key, account, nonce: None })
    }

    /// The account's key.
    pub fn key(&self) -> &'c AccountKey {
        self.key
    }

    /// POST-as-GET (RFC 8555 section 6.3) of a JSON document.
    pub fn read(&mut self, url: &RemoteUrl) -> Result<(Value, HeaderMap), AcmeError> {
        let answer = self.post(url, "")?;
        Ok((document(&answer)?, answer.fields))
    }

    /// POST of `payload`; the answer's document, and its fields.
    pub fn write(&mut self, url: &RemoteUrl, payload: &Value) -> Result<(Value, HeaderMap), AcmeError> {
        let answer = self.post(url, &payload.to_string())?;
        Ok((document(&answer)?, answer.fields))
    }

    /// POST-as-GET of a text.
    pub fn read_text(&mut self, url: &RemoteUrl) -> Result<String, AcmeError> {
        let answer = self.post(url, "")?;
        String::from_utf8(answer.body).map_err(|_| AcmeError::Malformed("a text is not UTF-8".into()))
    }

    /// Reads a document that needs no signature.
    pub fn get(&mut self, url: &RemoteUrl) -> Result<(Value, HeaderMap), AcmeError> {
        let answer = self.fetcher.get(url, &[]).map_err(|e| AcmeError::Unreachable(e.to_string()))?;
        if !answer.status.is_success() {
            return Err(refused(&answer));
        }
        Ok((document(&answer)?, answer.fields))
    }

    fn post(&mut self, url: &RemoteUrl, payload: &str) -> Result<Answer, AcmeError> {
        let mut refusal = None;
        for _ in 0..NONCES {
            let nonce = self.take_nonce()?;
            let mut protected = json!({"nonce": nonce, "url": url.to_string()});
            match &self.account {
                Some(account) => protected["kid"] = account.as_str().into(),
                None => protected["jwk"] = self.key.jwk(),
            }
            let body = self.key.sign(protected, payload).map_err(AcmeError::Permanent)?;
            let answer = self.send(Method::POST, url, body)?;
            self.nonce = field(&answer.fields, &REPLAY_NONCE);
            if answer.status.is_success() {
                return Ok(answer);
            }
            let error = refused(&answer);
            if !error.is(&ProblemType::BadNonce) {
                return Err(error);
            }
            refusal = Some(error);
        }
        Err(refusal.unwrap_or_else(|| AcmeError::Malformed("no request was made".into())))
    }

    /// One that the last answer brought, or a new one (RFC 8555 section 7.2).
    fn take_nonce(&mut self) -> Result<String, AcmeError> {
        if let Some(nonce) = self.nonce.take() {
            return Ok(nonce);
        }
        let url = self.directory.new_nonce.clone();
        let answer = self.send(Method::HEAD, &url, String::new())?;
        field(&answer.fields, &REPLAY_NONCE).ok_or_else(|| refused(&answer))
    }

    /// Once more where the connection failed: a request that was heard twice does no harm, since its nonce is good once.
    fn send(&self, method: Method, url: &RemoteUrl, body: String) -> Result<Answer, AcmeError> {
        let fields: &[(HeaderName, &str)] = if body.is_empty() { &[] } else { &[(CONTENT_TYPE, JOSE)] };
        let once = || self.fetcher.send(method.clone(), url, fields, body.clone().into_bytes());
        once().or_else(|_| once()).map_err(|e| AcmeError::Unreachable(e.to_string()))
    }
}

/// The account's or order's URL.
pub fn location(fields: &HeaderMap) -> Result<String, AcmeError> {
    field(fields, &LOCATION).ok_or_else(|| AcmeError::Malformed("an answer names no Location".into()))
}

/// How long to wait, where the answer says so (RFC 9110 section 10.2.3).
pub fn retry_after(fields: &HeaderMap) -> Option<Duration> {
    let text = field(fields, &RETRY_AFTER)?;
    let until = |date: SystemTime| date.duration_since(SystemTime::now()).unwrap_or_default();
    let seconds = text.parse().map(Duration::from_secs).ok();
    seconds.or_else(|| httpdate::parse_http_date(&text).ok().map(until))
}

fn field(fields: &HeaderMap, name: &HeaderName) -> Option<String> {
    fields.get(name)?.to_str().ok().map(str::to_string)
}

fn document(answer: &Answer) -> Result<Value, AcmeError> {
    serde_json::from_slice(&answer.body).map_err(|e| AcmeError::Malformed(format!("an answer is not JSON: {e}")))
}

fn refused(answer: &Answer) -> AcmeError {
    let document = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    AcmeError::Problem(Problem { retry_after: retry_after(&answer.fields), ..Problem::read(&document, answer.status) })
}

impl Problem {
    /// Reads a problem document; one that is none has neither type nor words.
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

#[cfg(test)]
mod tests {
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
    fn a_wait_is_told_in_seconds_or_by_a_date() {
        let fields = |text: &str| HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
        assert_eq!(retry_after(&fields("120")), Some(Duration::from_secs(120)));
        assert_eq!(retry_after(&fields("Thu, 01 Jan 1970 00:00:00 GMT")), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!((90..=100).contains(&retry_after(&fields(&later)).unwrap().as_secs()));
        assert_eq!(retry_after(&fields("soon")), None);
    }
}
