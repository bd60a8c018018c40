//! Saves and restores a session, so that it survives a restart of the proxy.

use std::sync::Arc;

use super::handle::{Processes, Session};
use super::replay_state::ReplayState;
use crate::store::rows::McpSession;
use crate::upstream::stdio::owner::Owner;

impl Session {
    /// Restores a session from its row: one from before a restart, or one that was dropped from memory since.
    pub(crate) fn restore(processes: Arc<dyn Processes>, owner: Owner, row: McpSession) -> Arc<Session> {
        let replay_state = ReplayState {
            initialize: row.initialize,
            answer: Some(row.answer),
            initialized: row.initialized,
            log_level: row.log_level,
            subscriptions: row.subscriptions,
        };
        Session::new(processes, owner, replay_state, false, row.name)
    }

    /// The row that survives a restart, of a session with `server`; `None` before the server has answered `initialize`.
    pub(crate) fn row(&self, expires_at: u64, server: Option<String>) -> Option<McpSession> {
        let replay_state = self.state().replay_state.clone();
        let Owner { user, email, client, .. } = self.owner().clone();
        Some(McpSession {
            name: self.name().to_string(),
            user,
            email,
            client,
            server,
            initialize: replay_state.initialize,
            answer: replay_state.answer?,
            initialized: replay_state.initialized,
            log_level: replay_state.log_level,
            subscriptions: replay_state.subscriptions,
            expires_at,
        })
    }

    /// Saves the session if it has changed. HTTP+SSE sessions are not saved.
    pub(super) fn save(self: &Arc<Self>) {
        let is_unsaved = std::mem::take(&mut self.state().is_unsaved);
        if is_unsaved && !self.has_one_stream {
            self.processes.save(self);
        }
    }
}
