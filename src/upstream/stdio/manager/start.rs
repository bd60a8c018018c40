//! Starts processes and connects sessions to them.

use std::sync::Arc;

use crate::net::cancellation::Cancellation;
use crate::upstream::stdio::manager::table::ProcessManager;
use crate::upstream::stdio::mux::shared_process::SharedProcess;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::child::Child;
use crate::upstream::stdio::process::inbox::{Listener, MessageSink};
use crate::upstream::stdio::session::{Processes, Session};

impl Processes for ProcessManager {
    /// Connects a session of `owner` to a shared, warm or new process. The error text is for the client.
    fn connect(
        &self,
        owner: &Owner,
        listener: Arc<dyn Listener>,
        cancellation: &Cancellation,
    ) -> Result<Arc<dyn MessageSink>, String> {
        if self.config.is_shared {
            let shared = self.shared_child("shared", None, SharedProcess::legacy, cancellation)?;
            let handle = shared.attach(&owner.user, listener).ok_or("the MCP server has just ended; try again")?;
            return Ok(Arc::new(handle));
        }
        let child = match self.take_spare(owner, &listener) {
            Some(child) => child,
            None => self.start(Some(owner), listener, cancellation)?,
        };
        log::info!(server = self.config.server.as_str(), user:% = owner.user, client:% = owner.client, pid = child.pid(); "a session has an MCP server of its own");
        self.prepare_spare(Some(owner.clone()));
        Ok(Arc::new(child))
    }

    fn save(&self, session: &Arc<Session>) {
        self.save_session(session);
    }

    fn forget(&self, name: &str) {
        self.forget_session(name);
    }

    fn buffer(&self) -> usize {
        self.config.buffer
    }

    fn server(&self) -> &str {
        &self.config.server
    }
}

impl ProcessManager {
    pub(crate) fn start(
        &self,
        owner: Option<&Owner>,
        listener: Arc<dyn Listener>,
        cancellation: &Cancellation,
    ) -> Result<Child, String> {
        let slot = self.take_slot(owner.map(|a| &a.user), cancellation)?;
        crate::blocking::announce();
        let started = Child::start(&self.launch, owner, listener, slot);
        self.state().is_down = started.is_err();
        started.map_err(|e| {
            log::error!(server = self.config.server.as_str(), error:% = e; "the MCP server can't be started");
            "the MCP server can't be started; its operator finds the reason in the log".to_string()
        })
    }
}
