//! One order, from the host name to the certificate chain (RFC 8555 section 7.4).

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde_json::{Value, json};
use yasna::models::GeneralizedTime;

use super::account::AccountKey;
use super::challenges::{Challenges, OpenChallenge};
use super::config::AcmeConfig;
use super::documents::{self, Authorization, HasStatus, Order, Status};
use super::error::{AcmeError, Problem, ProblemType};
use super::protocol::{Conversation, location, retry_after};
use super::storage::{KeptOrder, Storage};
use crate::encoding::base64url;
use crate::http::client::{Fetcher, RemoteUrl};
use crate::tls::certificate_and_key::CertificateAndKey;

/// Timeout for validation, and for issuance, by the authority.
const PATIENCE: Duration = Duration::from_secs(180);
/// Bounds on the pause between two polls. Without Retry-After, the pause doubles with each poll.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The way to prove control over the host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeType {
    /// With a certificate on the TLS port (RFC 8737).
    TlsAlpn,
    /// With an answer on the plain port (RFC 8555 section 8.3).
    Http,
}

impl ChallengeType {
    fn name(self) -> &'static str {
        match self {
            ChallengeType::TlsAlpn => "tls-alpn-01",
            ChallengeType::Http => "http-01",
        }
    }

    fn other(self) -> ChallengeType {
        match self {
            ChallengeType::TlsAlpn => ChallengeType::Http,
            ChallengeType::Http => ChallengeType::TlsAlpn,
        }
    }
}

/// Obtains certificates.
pub struct Issuer {
    /// The authority, and the host to certify.
    pub config: AcmeConfig,
    /// Account, certificate and unfinished order on disk.
    pub storage: Storage,
    /// Sends the requests to the authority.
    pub fetcher: Fetcher,
}

impl Issuer {
    /// Obtains a certificate and stores it. Tries the challenge type `way` first, then the other, and sets `way` to the
    /// one that worked. `replaces` identifies the certificate that the new one replaces (RFC 9773 section 5).
    pub fn issue(
        &self,
        challenges: &Challenges,
        way: &mut ChallengeType,
        replaces: Option<&str>,
    ) -> Result<CertificateAndKey, AcmeError> {
        let (key, account) = self.storage.account().map_err(AcmeError::Permanent)?;
        let mut talk = Conversation::begin(&self.fetcher, &self.config.directory, &key, account)?;
        if talk.account.is_none() {
            self.register(&mut talk)?;
        }
        let first = match self.order(&mut talk, challenges, *way, replaces) {
            Err(e) if e.is(&ProblemType::AccountDoesNotExist) => {
                log::warn!("the certificate authority does not know this proxy's account any more; it is made again");
                talk.account = None;
                self.storage.forget_order();
                self.register(&mut talk)?;
                // The old certificate belongs to the lost account, so an order of the new one can't replace it.
                self.order(&mut talk, challenges, *way, None)
            }
            other => other,
        };
        let error = match first {
            Err(Failed::ChallengeType(error)) => error,
            other => return other.map_err(Failed::into),
        };
        let other = way.other();
        log::info!(way = way.name(), next = other.name(), error:% = error; "the authority could not validate the name this way; trying the other");
        match self.order(&mut talk, challenges, other, replaces) {
            Ok(pair) => {
                *way = other;
                Ok(pair)
            }
            Err(Failed::ChallengeType(second)) => {
                // Report both errors: the user may need either of them to find the cause.
                Err(AcmeError::NotValidated(format!(
                    "{} failed: {error}. {} failed: {second}",
                    way.name(),
                    other.name()
                )))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The start and end of the window in which the authority suggests to renew `certificate`, and the Retry-After for
    /// the next query (RFC 9773). `None` if the authority does not support this.
    pub fn renewal_window(&self, certificate: &str) -> Result<Option<(u64, u64, Option<Duration>)>, AcmeError> {
        let (key, account) = self.storage.account().map_err(AcmeError::Permanent)?;
        let mut talk = Conversation::begin(&self.fetcher, &self.config.directory, &key, account)?;
        let Some(url) = talk.directory.renewal_info.clone() else { return Ok(None) };
        let url = url.join(&format!("/{certificate}")).map_err(AcmeError::Malformed)?;
        let (document, fields) = talk.get(&url)?;
        let window = &document["suggestedWindow"];
        let time = |name: &str| window[name].as_str().and_then(rfc3339);
        match (time("start"), time("end")) {
            (Some(start), Some(end)) if start < end => Ok(Some((start, end, retry_after(&fields)))),
            _ => Err(AcmeError::Malformed("a renewal window has no start and end".into())),
        }
    }

    /// Creates the account (RFC 8555 section 7.3). If the key has one already, the authority returns that one's URL.
    fn register(&self, talk: &mut Conversation<'_>) -> Result<(), AcmeError> {
        let mut payload = json!({"termsOfServiceAgreed": true});
        if let Some(email) = &self.config.email {
            payload["contact"] = json!([format!("mailto:{email}")]);
        }
        let url = talk.directory.new_account.clone();
        match &self.config.external_account {
            Some(external) => {
                let binding = external.bind(talk.key(), &url.to_string()).map_err(AcmeError::Permanent)?;
                payload["externalAccountBinding"] = binding;
            }
            None if talk.directory.needs_external_account => {
                let kind = ProblemType::ExternalAccountRequired;
                return Err(AcmeError::Problem(Problem { kind, detail: String::new(), status: 0, retry_after: None }));
            }
            None => {}
        }
        let (_, fields) = talk.write(&url, &payload)?;
        let account = location(&fields)?;
        self.storage.keep_account(talk.key(), Some(&account)).map_err(AcmeError::Permanent)?;
        talk.account = Some(account);
        log::info!(
            authority = url.host(), terms = talk.directory.terms.as_deref().unwrap_or("none");
            "an account was made at the certificate authority, whose terms --tls-accept-tos (TLS_ACCEPT_TOS) accepts"
        );
        Ok(())
    }

    fn order(
        &self,
        talk: &mut Conversation<'_>,
        challenges: &Challenges,
        way: ChallengeType,
        replaces: Option<&str>,
    ) -> Result<CertificateAndKey, Failed> {
        let taken_up = self.take_up_order(talk)?;
        let is_old = taken_up.is_some();
        let (url, mut order, key) = match taken_up {
            Some(order) => order,
            None => self.new_order(talk, replaces)?,
        };
        let kept = || KeptOrder { url: url.to_string(), key: key.serialize_pem() };
        self.storage.keep_order(&kept()).map_err(AcmeError::Permanent)?;
        let result = self.complete(talk, challenges, way, &url, &mut order, &key);
        // Keep an order that failed temporarily: the next attempt resumes it. A refused one would be refused again.
        if !matches!(&result, Err(Failed::Other(e)) if e.is_passing()) {
            self.storage.forget_order();
        }
        match result {
            // The resumed order is so old that its certificate has expired: order a new one.
            Ok(pair) if is_old && pair.info.not_after < now() => self.order(talk, challenges, way, replaces),
            other => other,
        }
    }

    /// The unfinished order of this process or an earlier one, if the authority still accepts it.
    fn take_up_order(&self, talk: &mut Conversation<'_>) -> Result<Option<(RemoteUrl, Order, KeyPair)>, AcmeError> {
        let Some(kept) = self.storage.order() else { return Ok(None) };
        let url = RemoteUrl::parse(&kept.url).ok();
        let Some((url, key)) = url.zip(KeyPair::from_pem(&kept.key).ok()) else { return Ok(None) };
        let order = match talk.read(&url).and_then(|(order, _)| documents::read::<Order>(order)) {
            Ok(order) => Some(order),
            Err(e) if e.is_passing() || e.is(&ProblemType::AccountDoesNotExist) => return Err(e),
            Err(_) => None,
        };
        if let Some(order) = order.filter(|order| order.status != Status::Invalid) {
            log::info!("an unfinished certificate order is resumed");
            return Ok(Some((url, order, key)));
        }
        self.storage.forget_order();
        Ok(None)
    }

    fn new_order(
        &self,
        talk: &mut Conversation<'_>,
        replaces: Option<&str>,
    ) -> Result<(RemoteUrl, Order, KeyPair), AcmeError> {
        let mut payload = json!({"identifiers": [{"type": "dns", "value": self.config.host}]});
        if let Some(old) = replaces {
            payload["replaces"] = old.into();
        }
        let url = talk.directory.new_order.clone();
        let (order, fields) = match talk.write(&url, &payload) {
            // Another order already replaces the certificate, or the authority does not know it. The problem type
            // differs between authorities, so retry without `replaces` after any but the two below.
            Err(AcmeError::Problem(problem))
                if replaces.is_some()
                    && !matches!(problem.kind, ProblemType::RateLimited | ProblemType::AccountDoesNotExist) =>
            {
                log::debug!(error:% = AcmeError::Problem(problem); "the authority refused the field 'replaces'; ordering without it");
                return self.new_order(talk, None);
            }
            other => other?,
        };
        let key = KeyPair::generate().map_err(|e| AcmeError::Permanent(format!("no key could be made: {e}")))?;
        Ok((parse(&location(&fields)?)?, documents::read(order)?, key))
    }

    fn complete(
        &self,
        talk: &mut Conversation<'_>,
        challenges: &Challenges,
        way: ChallengeType,
        url: &RemoteUrl,
        order: &mut Order,
        key: &KeyPair,
    ) -> Result<CertificateAndKey, Failed> {
        if order.status == Status::Pending {
            for authorization in &order.authorizations {
                self.authorize(talk, challenges, way, &parse(authorization)?)?;
            }
            *order = poll(talk, url, Status::Pending)?;
        }
        if order.status == Status::Ready {
            let mut parameters = CertificateParams::new(vec![self.config.host.clone()])
                .map_err(|e| AcmeError::Permanent(format!("no certificate can be asked for: {e}")))?;
            parameters.distinguished_name = DistinguishedName::new();
            let request = parameters
                .serialize_request(key)
                .map_err(|e| AcmeError::Permanent(format!("no certificate can be asked for: {e}")))?;
            let payload = json!({"csr": base64url(request.der())});
            match talk.write(&parse(&order.finalize)?, &payload) {
                // An earlier finalize request arrived, but its answer was lost.
                Err(e) if e.is(&ProblemType::OrderNotReady) => {}
                other => drop(other?),
            }
            *order = poll(talk, url, Status::Ready)?;
        }
        if order.status == Status::Processing {
            *order = poll(talk, url, Status::Processing)?;
        }
        if order.status != Status::Valid {
            let problem = Problem::read(&order.error, StatusCode::OK);
            return Err(AcmeError::Problem(problem).into());
        }
        let chain = talk.read_text(&parse(order.certificate.as_deref().unwrap_or_default())?)?;
        let key = key.serialize_pem();
        let pair = CertificateAndKey::from_pem(chain.as_bytes(), key.as_bytes()).map_err(AcmeError::Malformed)?;
        if !pair.info.is_for(&self.config.host) {
            return Err(AcmeError::Malformed("the certificate is for another name".into()).into());
        }
        if let Err(e) = self.storage.keep_pair(&key, &chain) {
            log::error!(error = e.as_str(); "the new certificate can't be stored: it is used until the proxy stops, and another one is ordered after that");
        }
        Ok(CertificateAndKey { is_trusted: true, ..pair })
    }

    /// Completes one authorization of an order (RFC 8555 section 7.5).
    fn authorize(
        &self,
        talk: &mut Conversation<'_>,
        challenges: &Challenges,
        way: ChallengeType,
        url: &RemoteUrl,
    ) -> Result<(), Failed> {
        let authorization: Authorization = documents::read(talk.read(url)?.0)?;
        if authorization.status == Status::Valid {
            return Ok(());
        }
        let Some(challenge) = authorization.challenges.iter().find(|c| c.kind == way.name()) else {
            let error = AcmeError::Permanent(format!("the authority does not offer {}", way.name()));
            return Err(Failed::ChallengeType(error));
        };
        let token = challenge.token.as_str();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err(AcmeError::Malformed("a challenge has a bad token".into()).into());
        }
        let _open = self.open(challenges, way, talk.key(), token).map_err(AcmeError::Permanent)?;
        talk.write(&parse(&challenge.url)?, &json!({}))?;
        let after: Authorization = poll(talk, url, Status::Pending)?;
        if after.status == Status::Valid {
            return Ok(());
        }
        let error = after.challenges.iter().map(|c| &c.error).find(|e| e.is_object()).unwrap_or(&Value::Null);
        let problem = Problem::read(error, StatusCode::OK);
        Err(Failed::ChallengeType(AcmeError::Problem(problem)))
    }

    fn open<'c>(
        &self,
        challenges: &'c Challenges,
        way: ChallengeType,
        key: &AccountKey,
        token: &str,
    ) -> Result<OpenChallenge<'c>, String> {
        let key_authorization = key.key_authorization(token);
        match way {
            ChallengeType::Http => Ok(challenges.open_http(token, key_authorization)),
            ChallengeType::TlsAlpn => challenges.open_tls(&self.config.host, &key_authorization),
        }
    }
}

/// Why an order failed.
enum Failed {
    /// The name could not be validated with this challenge type; the other may work.
    ChallengeType(AcmeError),
    Other(AcmeError),
}

impl Failed {
    fn is(&self, kind: &ProblemType) -> bool {
        match self {
            Failed::ChallengeType(e) | Failed::Other(e) => e.is(kind),
        }
    }
}

impl From<AcmeError> for Failed {
    fn from(error: AcmeError) -> Failed {
        Failed::Other(error)
    }
}

impl From<Failed> for AcmeError {
    fn from(failed: Failed) -> AcmeError {
        match failed {
            Failed::ChallengeType(error) | Failed::Other(error) => error,
        }
    }
}

/// Polls `url` until its status is no longer `status`.
fn poll<D: HasStatus>(talk: &mut Conversation<'_>, url: &RemoteUrl, status: Status) -> Result<D, AcmeError> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let (document, fields) = talk.read(url)?;
        let document: D = documents::read(document)?;
        if document.status() != status {
            return Ok(document);
        }
        let wait = retry_after(&fields).unwrap_or(pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        if Instant::now() + wait > deadline {
            return Err(AcmeError::Slow(format!("the authority did not finish within {} s", PATIENCE.as_secs())));
        }
        sleep(wait);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn parse(url: &str) -> Result<RemoteUrl, AcmeError> {
    RemoteUrl::parse(url).map_err(AcmeError::Malformed)
}

/// The machine's clock, in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Parses a date and time (RFC 3339) as seconds since 1970. Without its punctuation it is a GeneralizedTime of ASN.1, which
/// is parsed for certificates anyway.
fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let has_shape =
        |part: &str, mark: u8, marks: [usize; 2]| marks.iter().all(|at| part.as_bytes().get(*at) == Some(&mark));
    if date.len() != 10 || !has_shape(date, b'-', [4, 7]) || !has_shape(time, b':', [2, 5]) {
        return None;
    }
    let seconds = time.split_at_checked(8)?.0;
    let plain = format!("{}{}", date.replace('-', ""), time.to_ascii_uppercase().replace(':', ""));
    if !seconds.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    u64::try_from(GeneralizedTime::parse(plain.as_bytes())?.datetime().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_window_are_read() {
        for (text, seconds) in [
            ("2026-11-24T00:00:00Z", 1_795_478_400),
            ("2026-11-24T01:30:00.5+01:30", 1_795_478_400),
            ("2026-11-23T19:00:00-05:00", 1_795_478_400),
        ] {
            assert_eq!(rfc3339(text), Some(seconds), "{text}");
        }
        for text in
            ["", "Z", "99999999999-01-01T00:00:00Z", "2026-11-24", "2026-11-24T00:00Z", "soon", "2026-11-24T00:00:00"]
        {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }
}
