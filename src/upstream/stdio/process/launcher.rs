//! The launcher: a process of this same binary that already runs as the server's user. It applies the given limits to
//! itself and then execs the MCP server.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Access, access};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit, setsid};
use rustix::thread::set_no_new_privs;

use super::self_exec::{NONE, OWN_USE};

/// The subcommand that runs this binary as a launcher.
pub const COMMAND: &str = "stdio-launcher";
/// Limits that the launcher applies to itself before it execs the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Added to the niceness.
    pub(crate) nice: Option<i32>,
    /// Bytes of data that each process may have (`RLIMIT_DATA`).
    pub(crate) memory: Option<u64>,
    /// Soft limit on open files (`RLIMIT_NOFILE`), set because the proxy has raised its own.
    pub(crate) open_files: Option<u64>,
    /// Set `no_new_privs`: no program that the server runs can gain more rights than the server has.
    pub(crate) no_new_privileges: bool,
}

impl Limits {
    /// As command-line arguments of the launcher.
    pub(crate) fn words(&self) -> [String; 4] {
        let word = |n: Option<String>| n.unwrap_or_else(|| NONE.into());
        [
            word(self.nice.map(|n| n.to_string())),
            word(self.memory.map(|n| n.to_string())),
            word(self.open_files.map(|n| n.to_string())),
            word(self.no_new_privileges.then(|| "no-new-privileges".into())),
        ]
    }

    fn of_words(words: &[OsString]) -> Option<Limits> {
        let text = |i: usize| words.get(i)?.to_str().filter(|t| *t != NONE);
        (words.len() >= 4).then(|| Limits {
            nice: text(0).and_then(|t| t.parse().ok()),
            memory: text(1).and_then(|t| t.parse().ok()),
            open_files: text(2).and_then(|t| t.parse().ok()),
            no_new_privileges: text(3).is_some(),
        })
    }

    fn take_on(&self) -> Result<(), String> {
        let failed = |what: &str, e: rustix::io::Errno| format!("{what} can't be set: {e}");
        // A session of its own gives the server a process group that can be signalled, and detaches it from the
        // terminal that the proxy was started from.
        setsid().map_err(|e| failed("the server's session", e))?;
        // If the supervisor is killed, the kernel kills the server too.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| failed("the end with the supervisor", e))?;
        if self.no_new_privileges {
            set_no_new_privs(true).map_err(|e| failed("no_new_privs", e))?;
        }
        if let Some(n) = self.nice {
            nice(n).map_err(|e| failed("--stdio-nice (STDIO_NICE)", e))?;
        }
        if let Some(bytes) = self.memory {
            let both = Rlimit { current: Some(bytes), maximum: Some(bytes) };
            setrlimit(Resource::Data, both).map_err(|e| failed("--stdio-memory (STDIO_MEMORY)", e))?;
        }
        if let Some(count) = self.open_files {
            let limit = Rlimit { current: Some(count), ..getrlimit(Resource::Nofile) };
            setrlimit(Resource::Nofile, limit).map_err(|e| failed("the limit of open files", e))?;
        }
        Ok(())
    }
}

/// Leaves a current directory that the server's user can't read or enter, such as root's home, because most programs
/// fail in it. The server starts in its home directory instead, or in `/`. The message on stderr goes to the proxy's
/// log.
fn leave_what_is_closed() {
    if access(".", Access::READ_OK | Access::EXEC_OK).is_ok() {
        return;
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_dir());
    let home = home.unwrap_or_else(|| PathBuf::from("/"));
    eprintln!(
        "the proxy was started in a directory that this user can't read; the server is started in {}",
        home.display()
    );
    let _ = std::env::set_current_dir(home);
}

/// Runs as a launcher: `words` are the limits, then the server's command line. Returns only if it fails.
pub fn run(words: &[OsString]) -> Result<(), String> {
    let limits = Limits::of_words(words).ok_or(OWN_USE)?;
    let [program, arguments @ ..] = &words[4..] else { return Err("there is no command to run".into()) };
    limits.take_on()?;
    leave_what_is_closed();
    let error = Command::new(program).args(arguments).exec();
    Err(format!("{} can't be run: {error}", Path::new(program).display()))
}

/// Checks that the program of `command` exists and is executable, in the directory `cwd` and with the `PATH` of `env`. The
/// error says what to do.
pub(crate) fn check_program(
    command: &[OsString],
    env: &[(OsString, Option<OsString>)],
    cwd: Option<&Path>,
) -> Result<(), String> {
    let Some(program) = command.first() else { return Err("there is no command behind --".into()) };
    if let Some(cwd) = cwd.filter(|cwd| !cwd.is_dir()) {
        return Err(format!("its directory (cwd) {} does not exist, or is none", cwd.display()));
    }
    let cwd = cwd.unwrap_or(Path::new(""));
    let shown = Path::new(program).display();
    let is_program = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if !Path::new("/bin/sh").exists() && !is_program(Path::new(program)) {
        return Err(format!(
            "the MCP server's command '{shown}' was not found: this system has no programs at all, like the image 'latest'; use the image 'full', which has Node and Python, or build your own image with this binary in it"
        ));
    }
    if program.as_encoded_bytes().contains(&b'/') {
        return match is_program(&cwd.join(program)) {
            true => Ok(()),
            false if !cwd.join(program).exists() => {
                Err(format!("the MCP server's command '{shown}' does not exist; check the path"))
            }
            false => Err(format!(
                "the MCP server's command '{shown}' is not an executable file; make it executable (chmod +x)"
            )),
        };
    }
    let own = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone().unwrap_or_default());
    let path = own.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| is_program(&cwd.join(directory).join(program))) {
        return Ok(());
    }
    if shown.to_string().contains(' ') {
        return Err(format!(
            "the MCP server's command '{shown}' was given as one quoted argument; remove the quotes around the whole command: -- {shown}"
        ));
    }
    Err(format!(
        "the MCP server's command '{shown}' was not found in PATH ({}); install it, or give its full path",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_the_command_line() {
        for limits in [
            Limits::default(),
            Limits { nice: Some(5), memory: Some(1 << 30), open_files: Some(1_024), no_new_privileges: true },
            Limits { memory: Some(1), ..Limits::default() },
        ] {
            let words: Vec<OsString> = limits.words().into_iter().map(OsString::from).collect();
            assert_eq!(Limits::of_words(&words), Some(limits));
        }
        assert_eq!(Limits::of_words(&["1".into()]), None);
    }
}
