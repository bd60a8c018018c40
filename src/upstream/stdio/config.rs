//! The stdio server and how it is run.

use std::ffi::OsString;
use std::time::Duration;

use crate::upstream::stdio::process::users::RunAs;

/// The stdio server and how it is run.
#[derive(Clone, Debug)]
pub struct StdioConfig {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Variables of the environment that are the proxy's own, which no child gets to see; nor those with `_FILE` behind.
    pub own_variables: Vec<&'static str>,
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
