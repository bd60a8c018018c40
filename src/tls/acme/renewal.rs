//! The thread that decides when to order or renew the certificate.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::challenges::Challenges;
use super::error::AcmeError;
use super::issue::{ChallengeType, Issuer};
use crate::clock::{Clock, Timestamp};
use crate::encoding::base64url;
use crate::lock::Unpoisoned;
use crate::tls::certificates::Certificates;
use crate::tls::files::date;
use crate::tls::x509::CertificateInfo;
use crate::tokens::random;

/// The longest sleep, so that a change of the system clock is noticed within this time.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause after the first failure. It doubles with each further one, up to `LONGEST_BACK_OFF`.
const FIRST_BACK_OFF: Duration = Duration::from_secs(60);
/// Pause after the first failed validation of the name. Let's Encrypt allows five failed validations of a name per
/// hour, and an attempt with both challenge types counts as two.
const FIRST_BACK_OFF_OF_NAME: Duration = Duration::from_secs(20 * 60);
/// How long this process keeps a certificate that it has just obtained (at most a third of its lifetime), whatever the
/// clock or the authority's renewal window say. It prevents orders in a loop.
const KEPT_AT_LEAST: Duration = Duration::from_secs(86_400);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(12 * 3_600);
/// The longest Retry-After of an authority that is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// Pause between two queries for the renewal window (RFC 9773 section 4.3.2): the default, and the bounds on the
/// authority's Retry-After.
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3_600);
const SOONEST_QUESTION: Duration = Duration::from_secs(60);
const LATEST_QUESTION: Duration = Duration::from_secs(86_400);

/// Obtains one certificate and renews it.
pub struct Renewal {
    issuer: Issuer,
    certificates: Arc<Certificates>,
    challenges: Arc<Challenges>,
    clock: Arc<Clock>,
    retry: Arc<RetryTrigger>,
    way: ChallengeType,
    failures: u32,
    /// After a failure: no attempt before this time, unless [`RetryTrigger::retry`] is called.
    back_off: Option<Instant>,
    /// No attempt before this time, because the authority sent Retry-After.
    sent_away: Option<Instant>,
    /// When to renew the certificate in use.
    plan: Option<Plan>,
}

/// Wakes the renewal thread, so that it does not wait for the back-off after a failure to end.
#[derive(Default)]
pub struct RetryTrigger(Mutex<bool>, Condvar);

impl RetryTrigger {
    /// Makes the thread try again if a certificate is due or an order has failed: at once, unless the authority has asked
    /// to wait (Retry-After).
    pub fn retry(&self) {
        *self.0.lock().unpoisoned() = true;
        self.1.notify_all();
    }

    /// Waits for at most `time`. True if [`RetryTrigger::retry`] was called.
    fn wait(&self, time: Duration) -> bool {
        let guard = self.0.lock().unpoisoned();
        let mut guard = self.1.wait_timeout_while(guard, time, |is_asked| !*is_asked).unpoisoned().0;
        std::mem::take(&mut *guard)
    }
}

/// The renewal plan of the certificate in use.
struct Plan {
    serial: Vec<u8>,
    /// The point in the renewal window, from 0 to 1, at random: many proxies must not renew at the same time.
    fraction: f64,
    /// The renewal window that the authority suggests.
    window: Option<(Timestamp, Timestamp)>,
    ask_at: Instant,
    /// When this process got the certificate: from the authority if `fresh`, else from disk. Replaces the system clock
    /// when that is wrong.
    since: Instant,
    fresh: bool,
    /// The system clock was within the certificate's validity period at least once.
    was_valid: bool,
}

impl Renewal {
    /// Looks after `certificates`; the first may be a self-signed one.
    pub fn new(
        issuer: Issuer,
        certificates: Arc<Certificates>,
        challenges: Arc<Challenges>,
        clock: Arc<Clock>,
        retry: Arc<RetryTrigger>,
    ) -> Renewal {
        let (way, failures, back_off, sent_away, plan) = (ChallengeType::TlsAlpn, 0, None, None, None);
        Renewal { issuer, certificates, challenges, clock, retry, way, failures, back_off, sent_away, plan }
    }

    /// Runs the renewal loop for as long as the process lives.
    pub fn run(mut self) {
        loop {
            let wait = self.look();
            if self.retry.wait(wait.min(LOOK_EVERY)) {
                self.back_off = None;
            }
        }
    }

    /// Orders a certificate if one is due. Returns the time until the next call.
    fn look(&mut self) -> Duration {
        let now = Instant::now();
        if let Some(until) = self.back_off.max(self.sent_away)
            && until > now
        {
            return until - now;
        }
        let current = self.certificates.current();
        if current.is_trusted {
            self.ask_for_window(&current.info);
            let wait = self.time_left(&current.info);
            if !wait.is_zero() {
                return wait;
            }
        }
        let replaces = current.is_trusted.then(|| certificate_id(&current.info)).flatten();
        match self.issuer.issue(&self.challenges, &mut self.way, replaces.as_deref()) {
            Ok(pair) => {
                let info = pair.info.clone();
                self.certificates.replace(pair);
                (self.failures, self.back_off) = (0, None);
                self.plan = Some(Plan::new(&info, true));
                self.report(&info);
                Duration::ZERO
            }
            Err(error) => self.failed(&error, current.is_trusted.then_some(&current.info)),
        }
    }

    fn report(&self, info: &CertificateInfo) {
        let now = self.clock.now();
        log::info!(host = self.issuer.config.host.as_str(), until = date(info.not_after); "a certificate was obtained and is in use");
        if !(info.not_before..=info.not_after).contains(&now) {
            log::error!(now = date(now), from = date(info.not_before); "the new certificate is not valid by this machine's clock, so the clock is wrong: set it");
        }
    }

    fn failed(&mut self, error: &AcmeError, current: Option<&CertificateInfo>) -> Duration {
        let first = if matches!(error, AcmeError::NotValidated(_)) { FIRST_BACK_OFF_OF_NAME } else { FIRST_BACK_OFF };
        let doubled = first.saturating_mul(1 << self.failures.min(16)).min(LONGEST_BACK_OFF);
        // A certificate with a lifetime of days or minutes needs a shorter pause.
        let lifetime = current.map(|f| Duration::from_secs(f.not_after.saturating_sub(f.not_before)));
        let pause = lifetime.map_or(doubled, |l| doubled.min(l / 20)).max(Duration::from_secs(1));
        let pause = pause.mul_f64(0.8 + 0.4 * fraction());
        let away = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        self.failures += 1;
        self.back_off = Some(Instant::now() + pause);
        self.sent_away = Some(Instant::now() + away);
        let pause = pause.max(away);
        let text = format!("{error}{}", clock_hint(error, self.clock.now()));
        let (host, retry) = (self.issuer.config.host.as_str(), pause.as_secs());
        match current {
            Some(info) => {
                log::warn!(host = host, error = text.as_str(), retry_in_s = retry, until = date(info.not_after); "the certificate could not be renewed; the old one stays in use");
            }
            None => {
                log::error!(host = host, error = text.as_str(), retry_in_s = retry; "no certificate could be obtained; a self-signed one is in use, which clients refuse; SIGHUP tries again at once, unless the authority has asked to wait");
            }
        }
        pause
    }

    /// The time until the certificate is due for renewal.
    fn time_left(&mut self, info: &CertificateInfo) -> Duration {
        let now = self.clock.now();
        let plan = self.plan.get_or_insert_with(|| Plan::new(info, false));
        plan.time_left(info, now)
    }

    /// Queries the authority for the renewal window, if the next query is due.
    fn ask_for_window(&mut self, info: &CertificateInfo) {
        if self.plan.as_ref().is_none_or(|p| p.serial != info.serial) {
            self.plan = Some(Plan::new(info, false));
        }
        let Some(plan) = &mut self.plan else { return };
        let now = Instant::now();
        if plan.ask_at > now {
            return;
        }
        plan.ask_at = now + ASK_AGAIN;
        let Some(id) = certificate_id(info) else { return };
        match self.issuer.renewal_window(&id) {
            Ok(Some((start, end, again))) => {
                let again = again.unwrap_or(ASK_AGAIN).clamp(SOONEST_QUESTION, LATEST_QUESTION);
                plan.ask_at = now + again;
                if plan.window != Some((start, end)) {
                    log::debug!(start = date(start), end = date(end); "the authority says when to renew the certificate");
                }
                plan.window = Some((start, end));
            }
            Ok(None) => {}
            Err(e) => log::debug!(error:% = e; "the authority does not say when to renew the certificate"),
        }
    }
}

impl Plan {
    fn new(info: &CertificateInfo, fresh: bool) -> Plan {
        let now = Instant::now();
        Plan {
            serial: info.serial.clone(),
            fraction: fraction(),
            window: None,
            ask_at: now,
            since: now,
            fresh,
            was_valid: false,
        }
    }

    fn time_left(&mut self, info: &CertificateInfo, now: Timestamp) -> Duration {
        self.was_valid |= (info.not_before..=info.not_after).contains(&now);
        let lifetime = info.not_after.saturating_sub(info.not_before);
        // Two thirds of the lifetime, less up to a thirtieth at random: many proxies must not renew at the same time.
        let share = 2.0 / 3.0 - self.fraction / 30.0;
        let after = Duration::from_secs(lifetime).mul_f64(share);
        // The system clock is wrong. If it is behind, the certificate would be kept for too long; if it is ahead, each
        // call would order a new one. Count from `since` instead.
        if now < info.not_before || (self.fresh && !self.was_valid && now > info.not_after) {
            return after.saturating_sub(self.since.elapsed());
        }
        let due = match self.window {
            Some((start, end)) => start + ((end - start) as f64 * self.fraction) as u64,
            None => info.not_before + after.as_secs(),
        };
        // Renew with at least a tenth of the lifetime left, so that there is time for further attempts.
        let due = due.min(info.not_after.saturating_sub(lifetime / 10));
        let left = Duration::from_secs(due.saturating_sub(now));
        match self.fresh {
            true => left.max(KEPT_AT_LEAST.min(Duration::from_secs(lifetime) / 3).saturating_sub(self.since.elapsed())),
            false => left,
        }
    }
}

/// The unique identifier of a certificate for its authority (RFC 9773 section 4.1).
fn certificate_id(info: &CertificateInfo) -> Option<String> {
    let key = info.authority_key_id.as_ref()?;
    Some(format!("{}.{}", base64url(key), base64url(&info.serial)))
}

/// A random number from 0 to 1.
fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX)
}

/// Text to append to an error that a wrong clock may cause. A machine without a clock battery starts with a time in the
/// past, when no certificate is valid, not even that of the authority's server.
fn clock_hint(error: &AcmeError, now: Timestamp) -> String {
    match error {
        AcmeError::Unreachable(why) if why.contains("not valid yet") || why.contains("certificate expired") => {
            format!("; this machine's clock says {}: set it, if that is wrong", date(now))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn info(days: u64) -> CertificateInfo {
        let not_before = 1_795_478_400;
        let not_after = not_before + days * DAY;
        let (serial, authority_key_id) = (vec![0x87, 0x65], Some(vec![0x69, 0x88]));
        CertificateInfo { serial, authority_key_id, not_before, not_after, is_self_issued: false, names: Vec::new() }
    }

    #[test]
    fn two_thirds_of_the_lifetime_pass_or_a_little_less() {
        for days in [6, 90] {
            let info = info(days);
            let mut plan = Plan::new(&info, false);
            let left = plan.time_left(&info, info.not_before).as_secs();
            assert!((days * DAY * 19 / 30..=days * DAY * 20 / 30).contains(&left), "{left}");
            assert_eq!(plan.time_left(&info, info.not_before + left), Duration::ZERO);
            assert_eq!(plan.time_left(&info, info.not_after + 1), Duration::ZERO, "an old one is replaced at once");
        }
    }

    #[test]
    fn the_window_of_the_authority_comes_first() {
        let info = info(90);
        let (start, end) = (info.not_before + 10 * DAY, info.not_before + 12 * DAY);
        let mut plan = Plan { window: Some((start, end)), ..Plan::new(&info, false) };
        let due = info.not_before + plan.time_left(&info, info.not_before).as_secs();
        assert!((start..=end).contains(&due));
        assert_eq!(plan.time_left(&info, end), Duration::ZERO);
    }

    #[test]
    fn a_wrong_clock_neither_orders_in_a_loop_nor_keeps_a_certificate_for_ever() {
        let info = info(90);
        for now in [0, info.not_after + 10 * 365 * DAY] {
            let left = Plan::new(&info, true).time_left(&info, now).as_secs();
            assert!((50 * DAY..=60 * DAY).contains(&left), "{left}");
        }
        // The clock is a little ahead, so that the certificate looks due: it is kept for a day all the same. The same
        // holds if the authority suggests to renew at once.
        let ahead = info.not_after - DAY;
        assert!(Plan::new(&info, true).time_left(&info, ahead).as_secs() >= DAY - 60);
        let mut recalled = Plan { window: Some((1, 2)), ..Plan::new(&info, true) };
        assert!((DAY - 60..=DAY).contains(&recalled.time_left(&info, info.not_before).as_secs()));
        // Once the clock was within the validity period, the certificate is renewed like any other.
        let mut slept = Plan::new(&info, true);
        slept.time_left(&info, info.not_before);
        assert!(slept.time_left(&info, info.not_after + DAY).as_secs() <= DAY);
    }

    #[test]
    fn a_certificate_is_named_as_in_the_rfc() {
        assert_eq!(certificate_id(&info(1)).as_deref(), Some("aYg.h2U"));
    }
}
