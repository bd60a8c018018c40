//! Signed requests to the authority, nonces, and problem documents (RFC 8555 section 6).

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method};
use serde_json::{Value, json};

use super::account::AccountKey;
use super::error::{AcmeError, Problem, ProblemType};
use crate::http::client::{Answer, Fetcher, RemoteUrl};

/// Attempts per request while the authority refuses the nonce. It may refuse a fresh one too; if it refused half of
/// them, one request in a million would fail.
const NONCES: usize = 20;
const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
const JOSE: &str = "application/jose+json";

/// The authority's directory (RFC 8555 section 7.1.1).
pub struct Directory {
    /// URL for a new nonce.
    pub new_nonce: RemoteUrl,
    /// URL to create an account.
    pub new_account: RemoteUrl,
    /// URL to create an order.
    pub new_order: RemoteUrl,
    /// URL for renewal windows (RFC 9773), if the authority supports them.
    pub renewal_info: Option<RemoteUrl>,
    /// URL of the terms of service, which `--tls-accept-tos` accepts.
    pub terms: Option<String>,
    /// The authority creates an account only with an external account binding (RFC 8555 section 7.3.4).
    pub needs_external_account: bool,
}

/// A series of requests to one authority.
pub struct Conversation<'c> {
    fetcher: &'c Fetcher,
    /// The authority's URLs.
    pub directory: Directory,
    key: &'c AccountKey,
    /// The account's URL, once it is known.
    pub account: Option<String>,
    nonce: Option<String>,
}

impl<'c> Conversation<'c> {
    /// Reads the authority's directory.
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

    /// POST of `payload`. Returns the answer's JSON document and its header fields.
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

    /// The nonce of the last answer, or else a new one (RFC 8555 section 7.2).
    fn take_nonce(&mut self) -> Result<String, AcmeError> {
        if let Some(nonce) = self.nonce.take() {
            return Ok(nonce);
        }
        let url = self.directory.new_nonce.clone();
        let answer = self.send(Method::HEAD, &url, String::new())?;
        field(&answer.fields, &REPLAY_NONCE).ok_or_else(|| refused(&answer))
    }

    /// Sends a request, and repeats it once if it failed. A request that arrives twice does no harm, since its nonce is
    /// valid only once.
    fn send(&self, method: Method, url: &RemoteUrl, body: String) -> Result<Answer, AcmeError> {
        let fields: &[(HeaderName, &str)] = if body.is_empty() { &[] } else { &[(CONTENT_TYPE, JOSE)] };
        let once = || self.fetcher.send(method.clone(), url, fields, body.clone().into_bytes());
        once().or_else(|_| once()).map_err(|e| AcmeError::Unreachable(e.to_string()))
    }
}

/// The URL of a new account or order (Location).
pub fn location(fields: &HeaderMap) -> Result<String, AcmeError> {
    field(fields, &LOCATION).ok_or_else(|| AcmeError::Malformed("an answer names no Location".into()))
}

/// How long to wait before the next request, if the answer says so (RFC 9110 section 10.2.3).
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

#[cfg(test)]
mod tests {
    use super::*;

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
