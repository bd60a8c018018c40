//! What the operator can see: the monitoring port, the access log and the audit log.

use std::io::{self, IsTerminal};

use crate::flags::Settings;
use crate::observe::lines::Destination;
use crate::observe::log::LogFormat;
use crate::url::Listen;

/// What the operator can see.
pub struct MonitoringConfig {
    /// Where the monitoring port listens.
    pub listen: Option<Listen>,
    /// Where the access log goes.
    pub access_log: Option<Destination>,
    /// Its format.
    pub access_log_format: LogFormat,
    /// The audit log, if there is one.
    pub audit: Option<AuditConfig>,
}

/// The audit log.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// Where it goes.
    pub destination: Destination,
    /// Has it the arguments that tools are called with?
    pub has_arguments: bool,
    /// Are requests refused while it can't be written?
    pub is_required: bool,
}

/// Format and level of the log. The default format is text on a terminal and JSON elsewhere.
pub fn log_settings(settings: &Settings, terminal: bool) -> (LogFormat, log::LevelFilter) {
    let level =
        settings.log_level.unwrap_or(if settings.debug { log::LevelFilter::Debug } else { log::LevelFilter::Info });
    (settings.log_format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }), level)
}

/// Checks the settings.
pub(super) fn configure(s: &Settings) -> Result<MonitoringConfig, String> {
    let access_log = s.access_log.as_deref().map(Destination::parse);
    let is_terminal = match access_log {
        Some(Destination::Stderr) => io::stderr().is_terminal(),
        Some(Destination::Stdout) => io::stdout().is_terminal(),
        Some(Destination::File(_)) | None => false,
    };
    let needs_log = [
        (s.audit_arguments, "--audit-arguments (AUDIT_ARGUMENTS)"),
        (s.audit_required, "--audit-required (AUDIT_REQUIRED)"),
    ];
    let audit = s.audit_log.as_deref().map(|to| AuditConfig {
        destination: Destination::parse(to),
        has_arguments: s.audit_arguments,
        is_required: s.audit_required,
    });
    if audit.is_none()
        && let Some((_, flag)) = needs_log.iter().find(|(is_set, _)| *is_set)
    {
        return Err(format!("{flag} is about the audit log, and there is none: add --audit-log FILE (AUDIT_LOG)"));
    }
    let same = audit.as_ref().is_some_and(|audit| access_log.as_ref() == Some(&audit.destination));
    if same && matches!(access_log, Some(Destination::File(_))) {
        return Err("--access-log (ACCESS_LOG) and --audit-log (AUDIT_LOG) are the same file: give each its own".into());
    }
    Ok(MonitoringConfig {
        listen: s.metrics_listen.as_deref().map(Listen::local).transpose()?,
        access_log,
        access_log_format: s.access_log_format.unwrap_or_else(|| log_settings(s, is_terminal).0),
        audit,
    })
}
