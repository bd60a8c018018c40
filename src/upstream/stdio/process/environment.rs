//! The command line and the environment that child processes are started with.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::launcher::Limits;
use crate::upstream::stdio::process::self_exec::{NONE, own_program};
use crate::upstream::stdio::process::supervisor;
use crate::upstream::stdio::process::users::RunAs;

/// How children are started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The name of the server, for the log.
    pub(crate) server: String,
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    /// Environment variables that configure the proxy; children do not get them.
    pub(crate) own_variables: Vec<&'static str>,
    /// Environment variables for the server; `None` removes one.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    /// The directory that it is started in; `None` for that of the proxy.
    pub(crate) cwd: Option<PathBuf>,
    /// The system user that children run as; `None` for the proxy's own user.
    pub(crate) user: Option<RunAs>,
    pub(crate) limits: Limits,
    /// Longest line of a child, and most bytes queued for a child that does not read.
    pub(crate) buffer: usize,
}

/// The names of the `*_proxy` variables (without `no_proxy`) whose value contains credentials. These belong to the
/// operator, so children do not get them; a server that needs an outbound proxy can be given its own variable.
pub(crate) fn proxies_with_credentials() -> Vec<String> {
    let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy") && !name.eq_ignore_ascii_case("no_proxy");
    let has_credentials = |value: &str| {
        let authority = value.split_once("://").map_or(value, |(_, rest)| rest);
        authority.split('/').next().unwrap_or_default().contains('@')
    };
    let all = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    all.filter(|(name, value)| is_proxy(name) && has_credentials(&value.to_string_lossy()))
        .map(|(name, _)| name)
        .collect()
}

/// The command that starts the supervisor with the server's command line, in an environment without the proxy's own
/// variables.
pub(crate) fn command(launch: &Launch, owner: Option<&Owner>) -> Command {
    let mut command = Command::new(own_program());
    let ids = launch.user.as_ref().map(|u| [u.uid, u.gid]);
    let word = |i: usize| ids.map_or_else(|| NONE.to_string(), |ids| ids[i].to_string());
    command.args([supervisor::COMMAND, &word(0), &word(1)]).args(launch.limits.words());
    command.arg(&launch.program).args(&launch.arguments);
    for variable in &launch.own_variables {
        command.env_remove(variable).env_remove(format!("{variable}_FILE"));
    }
    for name in proxies_with_credentials() {
        command.env_remove(name);
    }
    // What the service manager tells the proxy is not for its children.
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    for (name, value) in &launch.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(cwd) = &launch.cwd {
        command.current_dir(cwd);
    }
    let person = owner.and_then(|a| a.person.as_ref());
    let told = [
        ("MCP_AUTH_USER", owner.map(|a| a.user.to_string())),
        ("MCP_AUTH_EMAIL", owner.and_then(|a| a.email.clone())),
        ("MCP_AUTH_CLIENT", owner.map(|a| a.client.to_string())),
        ("MCP_AUTH_PROVIDER", person.map(|p| p.name().to_string())),
        ("MCP_AUTH_NAME", person.and_then(|p| p.profile().name.clone())),
        ("MCP_AUTH_GROUPS", person.map(|p| p.profile().group_list()).filter(|g| !g.is_empty())),
    ];
    // An environment variable can't contain NUL, so such a value is left out.
    let told = told.map(|(name, value)| (name, value.filter(|v| !v.contains('\0'))));
    for (name, value) in told {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(user) = &launch.user {
        match &user.home {
            Some(home) => command.env("HOME", home),
            None => command.env_remove("HOME"),
        };
        match &user.name {
            Some(name) => command.env("USER", name).env("LOGNAME", name),
            None => command.env_remove("USER").env_remove("LOGNAME"),
        };
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
