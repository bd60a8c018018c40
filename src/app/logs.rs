//! The logs beside the main one, as they are open.

use std::time::Duration;

use super::config::monitoring::MonitoringConfig;
use crate::observe::lines::Lines;

/// How long the last lines may take at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The access log and the audit log, if there are any.
#[derive(Clone)]
pub(super) struct Logs {
    pub(super) access: Option<Lines>,
    pub(super) audit: Option<Lines>,
    /// Are requests refused while the audit log can't be written?
    pub(super) is_audit_required: bool,
}

impl Logs {
    /// Opens them.
    pub(super) fn open(config: &MonitoringConfig) -> Result<Logs, String> {
        let access = config.access_log.clone().map(|to| Lines::open("--access-log (ACCESS_LOG)", to)).transpose()?;
        let audit = config.audit.as_ref().map(|audit| audit.destination.clone());
        let audit = audit.map(|to| Lines::open("--audit-log (AUDIT_LOG)", to)).transpose()?;
        let is_audit_required = config.audit.as_ref().is_some_and(|audit| audit.is_required);
        Ok(Logs { access, audit, is_audit_required })
    }

    /// Each, with its name in metrics.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &Lines)> {
        [("access", &self.access), ("audit", &self.audit)].into_iter().filter_map(|(name, l)| Some((name, l.as_ref()?)))
    }

    /// Can all of them be opened? The error is one line.
    pub(super) fn check(&self) -> Result<(), String> {
        self.each().try_for_each(|(_, lines)| lines.check())
    }

    /// Opens files anew, after something else has renamed them.
    pub(super) fn reopen(&self) {
        self.each().for_each(|(_, lines)| lines.reopen());
    }

    /// Waits until all is written, for two seconds at most.
    pub(super) fn flush(&self) {
        self.each().for_each(|(_, lines)| lines.flush(LAST_LINES));
    }

    /// The audit log, if requests depend on it.
    pub(super) fn required(&self) -> Option<&Lines> {
        self.audit.as_ref().filter(|_| self.is_audit_required)
    }
}
