//! Finds sessions by id, registers, saves and deletes them.

use std::sync::Arc;

use crate::store::Tx;
use crate::store::rows::McpSession;
use crate::tokens::artefacts::McpSessionId;
use crate::upstream::stdio::manager::table::{Known, ProcessManager};
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::session::Session;

impl ProcessManager {
    /// The signed session id that the client sends back (`Mcp-Session-Id`, or `sessionId` with HTTP+SSE).
    pub(crate) fn session_id(&self, session: &Session) -> String {
        self.login.core.keys.sign(&McpSessionId {
            session: session.name().to_string(),
            owner: session.owner().digest(),
            server: self.config.session_server(),
        })
    }

    /// Finds the session with this id, if it belongs to `owner`. Restores it from the store if it is not in memory.
    pub(crate) fn find(self: &Arc<Self>, id: &str, owner: &Owner) -> Option<Arc<Session>> {
        let id: McpSessionId = self.login.core.keys.verify(id, self.login.core.now()).ok()?;
        if id.owner != owner.digest() || !self.config.has_session(id.server.as_deref()) {
            return None;
        }
        if let Some(session) = self.state().sessions.get(&id.session) {
            return Some(session.clone());
        }
        let row: McpSession = self.login.core.state.get(&id.session).ok()??;
        let is_here = self.config.has_session(row.server.as_deref());
        if row.user != owner.user || row.client != owner.client || !is_here {
            return None;
        }
        let session = Session::restore(self.clone(), owner.clone(), row);
        let mut state = self.state();
        if !state.known.contains_key(&id.session) {
            // The session ended while this thread read it from the store.
            return None;
        }
        Some(state.sessions.entry(id.session).or_insert(session).clone())
    }

    /// Registers and saves a new session. If the user then has too many, the longest idle ones end.
    pub(crate) fn adopt(&self, session: &Arc<Session>) {
        let now = self.login.core.now();
        let user = &session.owner().user;
        let mut state = self.state();
        state.sessions.insert(session.name().to_string(), session.clone());
        state.is_down = false;
        let known = Known { user: user.clone(), used: now, saved: 0 };
        state.known.insert(session.name().to_string(), known);
        let mut of_user: Vec<_> =
            state.known.iter().filter(|(_, k)| k.user == *user).map(|(n, k)| (k.used, n.clone())).collect();
        drop(state);
        of_user.sort();
        let too_many = of_user.len().saturating_sub(self.config.max_sessions_per_user);
        for (_, name) in of_user.into_iter().filter(|(_, name)| *name != session.name()).take(too_many) {
            log::info!(server = self.config.server.as_str(), session = name.as_str(), user:% = user; "the user's longest idle session is ended to make room for another (--stdio-max-sessions-per-user, STDIO_MAX_SESSIONS_PER_USER)");
            let old = self.state().sessions.get(&name).cloned();
            old.inspect(|s| s.end());
            self.forget_session(&name);
        }
        if let Some(row) = session.row(now + self.config.session_lifetime, self.config.session_server()) {
            let write = move |tx: &mut Tx<'_>| {
                tx.put(&row.name, &row);
                Ok(())
            };
            if self.login.core.state.transact(write).is_ok() {
                self.note_saved(session.name());
            }
        }
    }

    /// Saves a session so that it survives a restart, unless it has ended meanwhile.
    pub(crate) fn save_session(&self, session: &Arc<Session>) {
        let expires_at = self.login.core.now() + self.config.session_lifetime;
        let (session, name) = (session.clone(), session.name().to_string());
        let server = self.config.session_server();
        // Build the row inside the transaction, so that the last transaction always writes the newest state.
        let written = self.login.core.state.transact(move |tx| {
            let is_kept = tx.get::<McpSession>(session.name())?.is_some();
            if let Some(row) = session.row(expires_at, server).filter(|_| is_kept) {
                tx.put(&row.name, &row);
            }
            Ok(())
        });
        // The store logs a failure itself. The session still works while it is in memory.
        if written.is_ok() {
            self.note_saved(&name);
        }
    }

    pub(crate) fn note_saved(&self, name: &str) {
        let now = self.login.core.now();
        if let Some(known) = self.state().known.get_mut(name) {
            known.saved = now;
        }
    }

    /// Removes a session that has ended for good from memory and from the store.
    pub(crate) fn forget_session(&self, name: &str) {
        let mut state = self.state();
        let session = state.sessions.remove(name);
        let known = state.known.remove(name);
        drop(state);
        drop(session);
        if known.is_some() {
            let name = name.to_string();
            let _ = self.login.core.state.transact(move |tx| {
                tx.delete::<McpSession>(&name);
                Ok(())
            });
        }
    }
}
