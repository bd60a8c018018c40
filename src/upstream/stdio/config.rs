//! The stdio server and how it is run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::upstream::forward::ProcessLimits;
use crate::upstream::stdio::process::users::RunAs;

/// The stdio server and how it is run.
#[derive(Clone, Debug, PartialEq)]
pub struct StdioConfig {
    /// Its name in the servers file; empty for the one server of the command line.
    pub server: String,
    /// It takes over the sessions of the one server of the command line.
    pub is_legacy: bool,
    /// Environment variables for it; `None` removes one.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// The directory that it is started in; `None` for that of the proxy.
    pub cwd: Option<PathBuf>,
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Environment variables that configure the proxy. Children get neither these nor their variants with `_FILE` at
    /// the end.
    pub own_variables: Vec<&'static str>,
    /// One child for all sessions.
    pub is_shared: bool,
    /// Children kept ready for the next session.
    pub spare: usize,
    /// Children at one time.
    pub max_children: usize,
    /// Ask at the start whether the server answers.
    pub is_checked: bool,
    /// How long a child may be idle before it is ended.
    pub idle_timeout: Duration,
    /// Sessions of one user, those without a child included.
    pub max_sessions_per_user: usize,
    /// How long a session is kept after its last use, in seconds.
    pub session_lifetime: u64,
    /// The system user that children run as; `None` for the proxy's own user.
    pub user: Option<RunAs>,
    /// Bytes of data that each process of a child may have.
    pub memory: Option<u64>,
    /// Added to children's niceness.
    pub nice: Option<i32>,
    /// Most bytes held for a client that does not read, and for a child that does not read; also the longest message of
    /// a child.
    pub buffer: usize,
    /// The soft limit on open files that the proxy was started with; children get the same.
    pub open_files: Option<u64>,
}

impl StdioConfig {
    /// The limits on its processes.
    pub fn limits(&self) -> ProcessLimits {
        ProcessLimits { children: self.max_children, spare: self.spare, idle: self.idle_timeout }
    }

    /// Is a session with the server of this name one of this server?
    pub(crate) fn has_session(&self, server: Option<&str>) -> bool {
        match server {
            Some(name) => name == self.server,
            None => self.server.is_empty() || self.is_legacy,
        }
    }

    /// The name that sessions with this server are stored under.
    pub(crate) fn session_server(&self) -> Option<String> {
        (!self.server.is_empty()).then(|| self.server.clone())
    }
}
