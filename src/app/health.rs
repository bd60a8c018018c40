//! How the proxy is: for the monitoring port, and for the commands `status` and `healthcheck --ready`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::logs::Logs;
use crate::oauth::AuthorizationServer;
use crate::store::rows::Client;
use crate::tls::certificates::Certificates;

/// Finds out how the proxy is. Asks nobody: of servers it tells how their last answer was.
#[derive(Clone)]
pub(super) struct Health {
    pub(super) server: Arc<AuthorizationServer>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) logs: Logs,
}

/// How the proxy is at a moment.
pub(super) struct Condition {
    /// Can it serve everything that it is there for?
    pub(super) is_ready: bool,
    store: bool,
    certificate: Option<bool>,
    audit_log: Option<bool>,
    /// The names of the servers, and whether each answered the last time that it was asked.
    servers: Vec<(String, bool)>,
}

impl Health {
    /// How the proxy is now.
    pub(super) fn now(&self) -> Condition {
        let core = &self.server.core;
        let store = core.state.is_well() && core.state.count::<Client>().is_ok();
        let certificate = self.certificates.as_ref().map(|all| {
            let pair = all.current();
            pair.is_trusted && pair.info.not_after > core.now()
        });
        let audit_log = self.logs.audit.as_ref().map(|lines| !lines.is_in_trouble());
        let resources = self.server.resources.now();
        let servers: Vec<_> = resources.all().iter().map(|s| (s.name.clone(), !s.upstream.is_down())).collect();
        let is_ready = store
            && certificate != Some(false)
            && !(self.logs.is_audit_required && audit_log == Some(false))
            && servers.iter().all(|(_, is_up)| *is_up);
        Condition { is_ready, store, certificate, audit_log, servers }
    }
}

impl Condition {
    /// As JSON.
    pub(super) fn json(&self) -> Value {
        let servers: Vec<_> = self.servers.iter().map(|(name, is_up)| json!({"name": name, "is_up": is_up})).collect();
        json!({
            "is_ready": self.is_ready, "store": self.store, "certificate": self.certificate,
            "audit_log": self.audit_log, "servers": servers,
        })
    }
}
