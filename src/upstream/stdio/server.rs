//! The stdio server as an [`Upstream`].

use std::sync::Arc;

use http::StatusCode;

use crate::http::{Request, Response};
use crate::identity::{ClientId, User};
use crate::login::Login;
use crate::upstream::forward::{ForwardedIdentity, ProcessLimits, Upstream, Usage};
use crate::upstream::stdio::config::StdioConfig;
use crate::upstream::stdio::manager::ProcessManager;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::environment::proxies_with_credentials;
use crate::upstream::stdio::process::launcher;
use crate::upstream::stdio::process::self_exec::hide;
use crate::upstream::stdio::transport::{sse, streamable};

/// The MCP endpoint.
const ENDPOINT: &str = "/mcp";

/// The stdio server as the rest of the program uses it.
pub struct StdioUpstream(Arc<ProcessManager>);

impl StdioUpstream {
    /// Prepares to run the server of `config`. The error is one line.
    pub fn new(config: StdioConfig, login: Arc<Login>) -> Result<StdioUpstream, String> {
        launcher::check_program(&config.command, &config.env, config.cwd.as_deref())?;
        hide()?;
        for variable in proxies_with_credentials() {
            log::warn!(variable = variable.as_str(); "a proxy variable with a password is not passed on to the MCP server; if the server needs an outbound proxy, set the variable for it: -- env {variable}=… COMMAND");
        }
        let manager = ProcessManager::new(config, login)?;
        manager.start_sweeping()?;
        Ok(StdioUpstream(manager))
    }
}

impl Upstream for StdioUpstream {
    fn warm_up(&self) {
        self.0.prepare_spare(self.0.last_account());
    }

    /// Starts a process, because a session will begin soon.
    fn expect(&self, user: &User, client: &ClientId) {
        self.0.prepare_spare(Some(self.0.owner(&user.id, user.email.clone(), client)));
    }

    fn forward(&self, request: &mut Request<'_>, identity: &ForwardedIdentity) -> Response {
        let principal = &identity.principal;
        let owner = Owner {
            user: principal.user.clone(),
            email: principal.email.clone(),
            client: principal.client.clone(),
            person: principal.person.clone(),
        };
        match request.parts.uri.path()[identity.base.len()..].trim_end_matches('/') {
            ENDPOINT => streamable::handle(&self.0, &owner, request),
            sse::STREAM => sse::stream(&self.0, &owner, &identity.base, request),
            sse::MESSAGES => sse::message(&self.0, &owner, request),
            _ => Response::text(StatusCode::NOT_FOUND, "the MCP endpoint is /mcp"),
        }
    }

    fn is_down(&self) -> bool {
        self.0.state().is_down
    }

    fn usage(&self) -> Usage {
        let state = self.0.state();
        Usage { children: state.children, sessions: state.known.len() }
    }

    fn about(&self) -> Option<String> {
        self.0.state().about.clone()
    }

    fn endpoint(&self) -> Option<&str> {
        Some(ENDPOINT)
    }

    fn set_limits(&self, limits: ProcessLimits) {
        self.0.set_limits(limits);
    }

    fn end(&self) {
        self.0.end();
    }
}
