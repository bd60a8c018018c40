//! An MCP server that speaks over stdio, on the network: child processes, one for each session unless they are shared.
//!
//! - [`streamable`], [`sse`], [`modern`], [`fields`] – HTTP as each generation of clients speaks it
//! - [`host`], [`room`], [`places`], [`spares`] – everything that runs, and the bounds on it
//! - [`session`] – what a session is, and how it outlives its child
//! - [`shared`] – one child for clients that do not know of each other
//! - [`child`], [`pump`], [`lines`], [`supervisor`], [`launcher`] – the process, from its start to its orderly end
//! - [`events`], [`waiting`] – what clients are sent, and how those who wait for it are woken
//! - [`users`] – under whom they run
//! - [`init`] – the proxy as the first process of a container
//!
//! Locks are taken in the order host, session, shared child, inbox of a child; a listener is told of nothing under any.

mod child;
pub mod events;
mod fields;
mod host;
pub mod init;
pub mod launcher;
pub mod lines;
mod modern;
mod places;
mod pump;
mod room;
mod session;
mod shared;
mod spares;
mod sse;
mod streamable;
pub mod supervisor;
mod users;
mod waiting;

use std::ffi::OsString;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use http::StatusCode;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

pub use users::RunAs;

use self::child::{Child, Full};
use self::host::Host;
use self::room::Slot;
use super::{Origin, Upstream};
use crate::encoding::digest;
use crate::http::{Request, Response};
use crate::identity::UserRecord;
use crate::identity::{ClientId, User, UserId};
use crate::login::Login;
use crate::observe::quota::Quota;
use crate::tokens::random_name;

/// The MCP endpoint.
const ENDPOINT: &str = "/mcp";

/// The stdio server and how it is run.
#[derive(Clone, Debug)]
pub struct StdioConfig {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// One child for all sessions.
    pub is_shared: bool,
    /// Children kept ready for the next session.
    pub spare: usize,
    /// Children at one time.
    pub max_children: usize,
    /// Ask at the start whether the server answers.
    pub is_checked: bool,
    /// How long a child may be idle.
    pub idle_timeout: Duration,
    /// Sessions of one user, those without a child included.
    pub max_sessions_per_user: usize,
    /// How long a session is kept after its last use, in seconds.
    pub session_lifetime: u64,
    /// Under whom children run; `None` for the user of the proxy.
    pub user: Option<RunAs>,
    /// Bytes of data that each process of a child may have.
    pub memory: Option<u64>,
    /// Added to children's niceness.
    pub nice: Option<i32>,
    /// Bytes held for a client that does not read, and for a child that does not; longest message of a child.
    pub buffer: usize,
    /// The limit of open files that the proxy was started with, which children get.
    pub open_files: Option<u64>,
}

/// On whose behalf a child runs.
#[derive(Clone, Debug, PartialEq)]
struct Account {
    user: UserId,
    email: Option<String>,
    client: ClientId,
    /// What a provider says of the user.
    person: Option<Arc<UserRecord>>,
}

impl Account {
    /// Would a child be told the same of both?
    fn is_same(&self, other: &Account) -> bool {
        let said = |account: &Account| account.person.as_ref().map(|p| p.profile.clone());
        self.user == other.user && self.client == other.client && self.email == other.email && said(self) == said(other)
    }

    /// Stands for the account in session ids.
    fn digest(&self) -> String {
        digest(format!("{}\0{}", self.user, self.client).as_bytes())
    }
}

/// Where lines for a server go. Dropping it ends a child, or leaves a shared one.
trait Line: Send + Sync {
    /// Sends a line, and waits for nothing.
    fn send(&self, line: Vec<u8>) -> Result<(), Full>;
}

impl Line for Child {
    fn send(&self, line: Vec<u8>) -> Result<(), Full> {
        Child::send(self, line)
    }
}

/// The server, as the rest of the program sees it.
pub struct StdioUpstream(Arc<Host>);

impl StdioUpstream {
    /// Gets ready to run the server of `config`. The error is one line.
    pub fn new(config: StdioConfig, login: Arc<Login>) -> Result<StdioUpstream, String> {
        launcher::check_program(&config.command)?;
        hide()?;
        for variable in child::proxies_with_credentials() {
            log::warn!(variable = variable.as_str(); "a variable that holds a password is not passed on to the MCP server; if it needs one, give it its own: -- env {variable}=… COMMAND");
        }
        let host = Host::new(config, login)?;
        let sweeper = Arc::downgrade(&host);
        let pause = (host.config.idle_timeout / 4).clamp(Duration::from_millis(250), Duration::from_secs(30));
        let sweep = move || {
            while let Some(host) = sweeper.upgrade() {
                host.sweep();
                drop(host);
                std::thread::sleep(pause);
            }
        };
        let thread = std::thread::Builder::new().name("sessions".into()).stack_size(128 << 10).spawn(sweep);
        thread.map_err(|e| format!("no thread could be started: {e}"))?;
        host.prepare_spare(host.last_account());
        Ok(StdioUpstream(host))
    }

    /// Starts a process for a user who has just allowed a client: a session is about to begin.
    pub fn expect(&self, user: &User, client: &ClientId) {
        self.0.prepare_spare(Some(self.0.account(&user.id, user.email.clone(), client)));
    }
}

impl Upstream for StdioUpstream {
    fn forward(&self, request: &mut Request<'_>, origin: &Origin) -> Response {
        let principal = &origin.principal;
        let account = Account {
            user: principal.user.clone(),
            email: principal.email.clone(),
            client: principal.client.clone(),
            person: principal.person.clone(),
        };
        match request.parts.uri.path().trim_end_matches('/') {
            ENDPOINT => streamable::handle(&self.0, &account, request),
            sse::STREAM => sse::stream(&self.0, &account, request),
            sse::MESSAGES => sse::message(&self.0, &account, request),
            _ => Response::text(StatusCode::NOT_FOUND, "the MCP endpoint is /mcp"),
        }
    }

    fn endpoint(&self) -> Option<&str> {
        Some(ENDPOINT)
    }

    fn end(&self) {
        self.0.end();
    }
}

/// Keeps this process's memory and environment, and with them its secrets, from other processes of the same user.
pub(crate) fn hide() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| format!("the process can't be hidden: {e}"))
}

/// A random name for a session or a child.
fn new_name() -> String {
    random_name()
}

/// A line of a child as text. A bare carriage return within it, which JSON takes for a blank, would end a line of an
/// event.
fn text_of(line: Vec<u8>, session: &str) -> Option<String> {
    match String::from_utf8(line) {
        Ok(text) if text.contains('\r') => Some(text.replace('\r', " ")),
        Ok(text) => Some(text),
        Err(e) => {
            note_noise(&String::from_utf8_lossy(e.as_bytes()), session);
            None
        }
    }
}

/// Tells the operator of a line that is no message.
fn note_noise(text: &str, session: &str) {
    static QUOTA: LazyLock<Mutex<Quota>> = LazyLock::new(|| Mutex::new(Quota::new(100, 10)));
    let Some(omitted) = QUOTA.lock().unwrap_or_else(|e| e.into_inner()).take() else { return };
    let shown: String = text.chars().take(200).collect();
    log::warn!(session = session, line = shown.as_str(), omitted = omitted; "the MCP server wrote to stdout what is no JSON-RPC message; it is skipped");
}
