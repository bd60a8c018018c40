//! SIGHUP and the command `reload`: read again what can change without a restart.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use signal_hook::consts::SIGHUP;

use super::config::monitoring::log_settings;
use super::config::providers::{ask_for_groups, configure_anew};
use super::config::servers::check_names;
use super::config::{admission, issuers, limits, methods, passwords, servers};
use super::control::ReloadOrder;
use super::logs::Logs;
use super::publish::{Prepared, Publisher};
use crate::flags::{self, FLAGS, Flag, Invocation};
use crate::observe::events::{Event, Kind};
use crate::resource::rate_limits::RateLimits;
use crate::thread::spawn;
use crate::tls::acme::renewal::RetryTrigger;
use crate::tls::certificates::Certificates;
use crate::tls::files::CertificateFiles;

/// What a reload changes.
pub(super) struct Reload {
    pub(super) publisher: Publisher,
    pub(super) rate_limits: Arc<RateLimits>,
    pub(super) logs: Logs,
    /// The certificate, and its files if it comes from files.
    pub(super) certificates: Option<(Arc<Certificates>, CertificateFiles)>,
    /// Retries a failed certificate order.
    pub(super) retry: Option<Arc<RetryTrigger>>,
    /// What was given for each variable, as far as it has been taken up.
    pub(super) given: BTreeMap<&'static str, String>,
}

/// Starts the thread that reloads on SIGHUP. Returns the way to order the same without a signal.
pub(super) fn reload_on_sighup(mut reload: Reload) -> Result<Sender<ReloadOrder>, String> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGHUP]).map_err(|e| format!("signals can't be handled: {e}"))?;
    let (orders, received) = channel::<ReloadOrder>();
    let of_signals = orders.clone();
    spawn("reload signals", move || {
        for _ in signals.forever() {
            // Nobody waits for the answer to a signal.
            let _ = of_signals.send(channel().0);
        }
    })?;
    spawn("reload", move || {
        for answer in received {
            reload.logs.reopen();
            // The thread has to be there for the next signal. The panic itself is in the log.
            let outcome = catch_unwind(AssertUnwindSafe(|| reload.run()));
            let outcome =
                outcome.unwrap_or_else(|_| Err("internal error while reading again; please report it".into()));
            if let Err(e) = &outcome {
                Event::new(Kind::ReloadFailed).with("error", e).tell();
            }
            if let Some(retry) = &reload.retry {
                retry.retry();
            }
            let _ = answer.send(outcome);
        }
    })?;
    Ok(orders)
}

impl Reload {
    /// All that can change without a restart changes, or nothing does. Returns what to say about it.
    fn run(&mut self) -> Result<String, String> {
        let (settings, is_demo) = match flags::of_process()? {
            Invocation::Serve(settings) => (settings, false),
            Invocation::Demo(settings) => (settings, true),
            _ => return Ok("there is nothing to read again".into()),
        };
        self.logs.check()?;
        let publisher = &mut self.publisher;
        let mut providers = configure_anew(&settings)?;
        let issuers = issuers::configure(&settings, &providers)?;
        let (passwords, groups) = (passwords::configure(&settings)?, passwords::groups(&settings)?);
        if passwords.is_empty() && providers.is_empty() && !is_demo {
            return Err("nobody could sign in any more: there is neither a password nor a provider".into());
        }
        let (rate_limits, bounds) = (limits::configure(&settings)?, admission(&settings));
        let certificate = self.certificates.as_ref().map(|(_, files)| files.load()).transpose()?;
        let prepared = match settings.servers.is_some() {
            true => {
                let (servers, notes) = servers::configure(&settings, &methods(&settings, &providers, &issuers))?;
                let prepared = publisher.prepare(servers)?;
                notes.iter().for_each(|note| log::log!(note.level, "{}", note.text));
                Some(prepared)
            }
            false => None,
        };
        let servers = prepared.as_ref().map_or(&publisher.current, Prepared::servers);
        check_names(servers, &issuers)?;
        ask_for_groups(&mut providers, servers);
        let changes = Changes::between(&self.given, &settings.given);
        if settings.htpasswd_file.is_some() || changes.has(&["PASSWORD", "PASSWORD_HASH", "HTPASSWD_FILE"]) {
            let replaced = publisher.login.replace_passwords(&passwords, groups);
            replaced.map_err(|e| format!("the passwords can't be stored: {e}"))?;
        }
        // From here on nothing can fail.
        publisher.login.providers.replace_rules(&providers);
        publisher.login.issuers.replace(issuers);
        if let Some(prepared) = prepared {
            publisher.publish(prepared);
        }
        self.rate_limits.replace(rate_limits);
        publisher.admission.set_bounds(bounds);
        log::set_max_level(log_settings(&settings, false).1);
        if let Some(((certificates, _), pair)) = self.certificates.as_ref().zip(certificate) {
            certificates.replace(pair);
        }
        publisher.recheck_streams();
        let has_lists = !providers.is_empty() || settings.servers.is_some() || settings.htpasswd_file.is_some();
        let has_lists = has_lists || settings.trusted_issuers.is_some() || self.certificates.is_some();
        changes.take_up(&mut self.given, settings.given);
        let event = Event::new(Kind::Reloaded).with("changed", changes.changed.join(","));
        event.with("unchanged", changes.unchanged.join(",")).tell();
        Ok(changes.said(has_lists))
    }
}

/// The settings that have other values than before, by the names of their flags or variables.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// Those that are taken up.
    changed: Vec<String>,
    /// Those that need a restart.
    unchanged: Vec<String>,
    variables: Vec<&'static str>,
}

impl Changes {
    fn between(before: &BTreeMap<&'static str, String>, after: &BTreeMap<&'static str, String>) -> Changes {
        let mut changes = Changes::default();
        for flag in FLAGS.iter().filter(|flag| before.get(flag.env) != after.get(flag.env)) {
            let name = |flag: &Flag| flag.long.map_or_else(|| flag.env.to_string(), |long| format!("--{long}"));
            match flag.is_reloaded {
                true => changes.changed.push(name(flag)),
                false => changes.unchanged.push(name(flag)),
            }
            changes.variables.push(flag.env);
        }
        changes
    }

    fn has(&self, variables: &[&str]) -> bool {
        self.variables.iter().any(|changed| variables.contains(changed))
    }

    /// Notes what has been taken up. The rest is named again by the next reload.
    fn take_up(&self, given: &mut BTreeMap<&'static str, String>, mut after: BTreeMap<&'static str, String>) {
        for flag in FLAGS.iter().filter(|flag| flag.is_reloaded) {
            match after.remove(flag.env) {
                Some(value) => given.insert(flag.env, value),
                None => given.remove(flag.env),
            };
        }
    }

    fn said(&self, has_files: bool) -> String {
        let mut said = match (self.changed.is_empty(), has_files) {
            (true, false) => "nothing has changed".to_string(),
            (true, true) => "the files have been read again".to_string(),
            (false, _) => {
                format!("the settings have been read again, with other values for {}", self.changed.join(", "))
            }
        };
        if !self.unchanged.is_empty() {
            said += &format!("; a restart is needed for {}", self.unchanged.join(", "));
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
        pairs.iter().map(|(name, value)| (*name, value.to_string())).collect()
    }

    #[test]
    fn what_needs_a_restart_is_named_until_then() {
        let mut before = given(&[("PASSWORD", "a"), ("LISTEN", ":80"), ("RATE_LIMIT", "60")]);
        let after = given(&[("PASSWORD", "b"), ("LISTEN", ":81"), ("LOG_LEVEL", "debug")]);
        let changes = Changes::between(&before, &after);
        assert_eq!(changes.changed, ["--password", "--rate-limit", "LOG_LEVEL"], "in the order of the options");
        assert_eq!(changes.unchanged, ["--listen"]);
        assert!(changes.has(&["PASSWORD"]) && !changes.has(&["PASSWORD_HASH"]));
        assert!(!changes.said(false).contains(":81") && changes.said(false).contains("restart is needed for --listen"));
        changes.take_up(&mut before, after.clone());
        assert_eq!(before, given(&[("PASSWORD", "b"), ("LISTEN", ":80"), ("LOG_LEVEL", "debug")]));
        let again = Changes::between(&before, &after);
        assert_eq!((again.changed.len(), again.unchanged.len()), (0, 1));
    }
}
