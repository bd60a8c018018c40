//! Children that are ready before anybody needs them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::child::{Child, Listener};
use super::host::Host;
use super::lines::TooLong;
use super::room::Slot;
use super::{Account, note_noise};
use crate::identity::{ClientId, UserId};
use crate::store::rows::McpSession;

pub(super) struct Spare {
    pub(super) account: Option<Account>,
    pub(super) child: Child,
}

impl Host {
    /// A spare child that was started for `account`.
    pub(super) fn take_spare(&self, account: &Account, listener: &Arc<dyn Listener>) -> Option<Child> {
        loop {
            let mut state = self.state();
            let fits = |s: &Spare| s.account.as_ref().is_some_and(|a| a.is_same(account));
            let at = state.spares.iter().position(fits)?;
            let spare = state.spares.remove(at);
            drop(state);
            if spare.child.hand_over(listener.clone()) {
                return Some(spare.child);
            }
        }
    }

    /// Sees to it that a child waits for `account`'s next session. Its environment tells it who that is, so that it is
    /// of no use to another; without an account it only shows whether the server starts, and has npx fetch it.
    pub(super) fn prepare_spare(&self, account: Option<Account>) {
        let wanted = if self.config.is_shared { 0 } else { self.config.spare };
        let mut state = self.state();
        let is_for = |s: &Spare| match (&s.account, &account) {
            (Some(a), Some(b)) => a.is_same(b),
            (None, None) => true,
            _ => false,
        };
        if wanted == 0 || state.is_ending || state.spares.iter().any(is_for) {
            return;
        }
        let other = (state.spares.len() >= wanted).then(|| state.spares.remove(0));
        let has_room = state.children < self.config.max_children;
        state.children += usize::from(has_room);
        drop(state);
        drop(other);
        if !has_room {
            return;
        }
        let slot = Slot::new(self);
        let listener = Arc::new(SpareEar(self.me.clone()));
        match Child::start(&self.launch, account.as_ref(), listener, slot) {
            Ok(child) => {
                log::debug!(pid = child.pid(); "a spare MCP server is ready for the next session");
                let mut state = self.state();
                let mut gone = Vec::new();
                match state.is_ending {
                    true => gone.push(Spare { account, child }),
                    false => state.spares.push(Spare { account, child }),
                }
                gone.extend(state.spares.extract_if(.., |s| s.child.has_ended()));
                drop(state);
                drop(gone);
            }
            Err(e) => log::error!(error:% = e; "the MCP server can't be started"),
        }
    }

    /// A user with a client, and what is known of the user.
    pub(super) fn account(&self, user: &UserId, email: Option<String>, client: &ClientId) -> Account {
        let person = self.context.people.get(&self.context, user).unwrap_or_default();
        Account { user: user.clone(), email, client: client.clone(), person }
    }

    /// Whose session was the last one before the proxy was started?
    pub(super) fn last_account(&self) -> Option<Account> {
        let last = self.state().known.iter().max_by_key(|(_, k)| k.used).map(|(name, _)| name.clone())?;
        let row: McpSession = self.context.state.get(&last).ok()??;
        Some(self.account(&row.user, row.email, &row.client))
    }
}

/// Hears a child that nobody works with yet.
struct SpareEar(Weak<Host>);

impl Listener for SpareEar {
    fn line(&self, line: Vec<u8>) {
        note_noise(&String::from_utf8_lossy(&line), "spare");
    }

    fn long_line(&self, _: &TooLong) {}

    fn ended(&self, _: Duration) {
        let Some(host) = self.0.upgrade() else { return };
        // Another is started with the next session, not now: one that can't run would be started without end.
        let gone = host.state().spares.extract_if(.., |s| s.child.has_ended()).collect::<Vec<_>>();
        drop(gone);
    }

    fn name(&self) -> String {
        "spare".into()
    }
}
