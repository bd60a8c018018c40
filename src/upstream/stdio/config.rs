//! The stdio server and how it is run.

use std::ffi::OsString;
use std::time::Duration;

use crate::upstream::stdio::process::users::RunAs;

/// The stdio server and how it is run.
#[derive(Clone, Debug)]
pub struct StdioConfig {
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
