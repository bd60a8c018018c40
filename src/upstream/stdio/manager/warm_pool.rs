//! Processes that are ready before anybody needs them.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::identity::{ClientId, UserId, Voucher};
use crate::lock::Unpoisoned;
use crate::store::rows::McpSession;
use crate::upstream::check;
use crate::upstream::stdio::manager::slots::ManagedSlot;
use crate::upstream::stdio::manager::table::{ProcessManager, WarmProcess};
use crate::upstream::stdio::noise::note_noise;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::child::Child;
use crate::upstream::stdio::process::inbox::Listener;
use crate::upstream::stdio::process::lines::TooLong;

impl ProcessManager {
    /// Takes a warm process that was started for `owner`. From then on, `listener` receives its output.
    pub(crate) fn take_spare(&self, owner: &Owner, listener: &Arc<dyn Listener>) -> Option<Child> {
        loop {
            let mut state = self.state();
            let fits = |s: &WarmProcess| s.owner.as_ref().is_some_and(|a| a.is_same(owner));
            let at = state.spares.iter().position(fits)?;
            let spare = state.spares.remove(at);
            drop(state);
            if spare.child.hand_over(listener.clone()) {
                return Some(spare.child);
            }
        }
    }

    /// Ensures that a warm process exists for `owner`'s next session, if a slot is free. Its environment variables
    /// identify the owner, so no other owner can use it. Without an owner, it only checks that the server works and
    /// lets npx download it.
    pub(crate) fn prepare_spare(&self, owner: Option<Owner>) {
        let wanted = if self.config.is_shared { 0 } else { self.limits().spare };
        let mut state = self.state();
        let is_for = |s: &WarmProcess| match (&s.owner, &owner) {
            (Some(a), Some(b)) => a.is_same(b),
            (None, None) => true,
            _ => false,
        };
        if wanted == 0 || state.is_ending || state.spares.iter().any(is_for) {
            return;
        }
        let other = (state.spares.len() >= wanted).then(|| state.spares.remove(0));
        let has_room = state.children < self.limits().children;
        state.children += usize::from(has_room);
        drop(state);
        drop(other);
        if !has_room {
            return;
        }
        let slot = ManagedSlot::new(self);
        let is_asked = owner.is_none() && self.config.is_checked;
        let check = is_asked.then(|| FirstAnswerListener::new(self.me.clone(), self.config.server.clone()));
        let listener: Arc<dyn Listener> = match &check {
            None => Arc::new(WarmListener(self.me.clone())),
            Some(check) => check.clone(),
        };
        let check = check.map(|check| Box::new(CheckGuard(check)) as Box<dyn Send>);
        match Child::start(&self.launch, owner.as_ref(), listener, slot) {
            Ok(child) => {
                if is_asked {
                    let _ = child.send(check::initialize());
                }
                log::debug!(server = self.config.server.as_str(), pid = child.pid(); "a spare MCP server is ready for the next session");
                let mut state = self.state();
                let mut gone = Vec::new();
                match state.is_ending {
                    true => gone.push(WarmProcess { owner, _check: check, child }),
                    false => state.spares.push(WarmProcess { owner, _check: check, child }),
                }
                gone.extend(state.spares.extract_if(.., |s| s.child.has_ended()));
                drop(state);
                drop(gone);
            }
            Err(e) => {
                log::error!(server = self.config.server.as_str(), error:% = e; "the MCP server can't be started: is the command right?")
            }
        }
    }

    /// Builds the [`Owner`] for a user and a client, with the stored user record.
    pub(crate) fn owner(&self, user: &UserId, email: Option<String>, client: &ClientId) -> Owner {
        let person = self.login.user_records.get(user).unwrap_or_default().map(Voucher::Provider);
        Owner { user: user.clone(), email, client: client.clone(), person }
    }

    /// The owner of the most recently used session. At startup, this is the last owner before the restart.
    pub(crate) fn last_account(&self) -> Option<Owner> {
        let last = self.state().known.iter().max_by_key(|(_, k)| k.used).map(|(name, _)| name.clone())?;
        let row: McpSession = self.login.core.state.get(&last).ok()??;
        Some(self.owner(&row.user, row.email, &row.client))
    }
}

/// Receives the output of a warm process that no session uses yet.
struct WarmListener(Weak<ProcessManager>);

impl Listener for WarmListener {
    fn line(&self, line: Vec<u8>) {
        note_noise(&String::from_utf8_lossy(&line), "spare");
    }

    fn long_line(&self, _: &TooLong) {}

    fn ended(&self, _: Duration) {
        let Some(manager) = self.0.upgrade() else { return };
        // Do not start a replacement now: a server that can't run would be restarted forever. The next session starts
        // one.
        let gone = manager.state().spares.extract_if(.., |s| s.child.has_ended()).collect::<Vec<_>>();
        drop(gone);
    }

    fn name(&self) -> String {
        "spare".into()
    }
}

/// How long the first process may take to answer `initialize`; npx and uvx may have to download the server first.
const FIRST_PATIENCE: Duration = Duration::from_secs(20);

/// Receives the output of the process that is started only to check that the server works.
struct FirstAnswerListener {
    manager: Weak<ProcessManager>,
    /// Sends once whether the process answered.
    outcome: Mutex<Option<Sender<bool>>>,
}

impl FirstAnswerListener {
    fn new(manager: Weak<ProcessManager>, server: String) -> Arc<FirstAnswerListener> {
        let (sender, outcome) = channel();
        let watch = move || match outcome.recv_timeout(FIRST_PATIENCE) {
            Ok(true) => log::debug!(server = server.as_str(); "the MCP server answers"),
            Ok(false) => {
                log::error!(server = server.as_str();
                    "the MCP server ended before it answered anything: clients will find none; run its command by itself to see why, and see its stderr in this log"
                );
            }
            Err(RecvTimeoutError::Timeout) => {
                log::warn!(server = server.as_str(), seconds = FIRST_PATIENCE.as_secs(); "the MCP server has not answered an initialize request: does its command speak MCP over stdio, or does it still fetch what it needs?");
            }
            // The sender was dropped without a result because the proxy is shutting down.
            Err(RecvTimeoutError::Disconnected) => {}
        };
        let thread = std::thread::Builder::new().name("first answer".into()).stack_size(64 << 10).spawn(watch);
        let outcome = Mutex::new(thread.is_ok().then_some(sender));
        Arc::new(FirstAnswerListener { manager, outcome })
    }

    fn tell(&self, answered: bool) {
        if let Some(sender) = self.outcome.lock().unpoisoned().take() {
            let _ = sender.send(answered);
            if let Some(manager) = self.manager.upgrade() {
                manager.state().is_down = !answered;
            }
        }
    }

    /// Ends the check process, which is no longer needed.
    fn end(&self) {
        let Some(manager) = self.manager.upgrade() else { return };
        let first = manager.state().spares.extract_if(.., |s| s.owner.is_none()).collect::<Vec<_>>();
        drop(first);
    }
}

/// Dropped with a process that is taken out of the pool, for example to free a slot: its end then says nothing about the
/// server.
struct CheckGuard(Arc<FirstAnswerListener>);

impl Drop for CheckGuard {
    fn drop(&mut self) {
        drop(self.0.outcome.lock().unpoisoned().take());
    }
}

impl Listener for FirstAnswerListener {
    fn line(&self, line: Vec<u8>) {
        let text = String::from_utf8_lossy(&line);
        if text.contains(check::ID) && check::has_response(&line) {
            if let Some(manager) = self.manager.upgrade() {
                manager.state().about = check::about(&line);
            }
            self.tell(true);
            self.end();
        } else if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            note_noise(&text, "first");
        }
    }

    fn long_line(&self, _: &TooLong) {}

    fn ended(&self, _: Duration) {
        let is_ending = self.manager.upgrade().is_none_or(|manager| manager.state().is_ending);
        match is_ending {
            true => drop(self.outcome.lock().unpoisoned().take()),
            false => self.tell(false),
        }
        self.end();
    }

    fn name(&self) -> String {
        "first".into()
    }
}
