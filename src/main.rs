//! The program: parse, dispatch, print the error, choose the exit code.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use mcp_auth_proxy::app::demo::server;
use mcp_auth_proxy::app::{check, control, demo, doctor, hash_password, healthcheck, migrate, serve};
use mcp_auth_proxy::flags::{self, Invocation};
use mcp_auth_proxy::servers_file::schema;
use mcp_auth_proxy::upstream::stdio::{init, launcher, supervisor};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match own_use(&arguments).unwrap_or_else(|| run(&arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            // A message may repeat what stands in a file.
            let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            eprintln!("mcp-auth-proxy: {line}");
            ExitCode::from(2)
        }
    }
}

/// Runs an internal command. The program starts itself with these; users do not type them.
fn own_use(arguments: &[OsString]) -> Option<Result<u8, String>> {
    let (word, rest) = arguments.split_first()?;
    match word.to_str()? {
        launcher::COMMAND => Some(launcher::run(rest).map(|()| 0)),
        supervisor::COMMAND => Some(supervisor::run(rest)),
        init::COMMAND => Some(init::run(rest)),
        server::COMMAND => Some(server::run().map(|()| 0)),
        _ => None,
    }
}

/// Runs the user's command and returns the exit code.
fn run(arguments: &[OsString]) -> Result<u8, String> {
    let invocation = flags::of_process()?;
    let has_children = match &invocation {
        Invocation::Serve(settings) => !settings.command.is_empty() || settings.servers.is_some(),
        Invocation::Demo(_) => true,
        _ => false,
    };
    if has_children && init::is_first() {
        return init::run(arguments);
    }
    match invocation {
        Invocation::Serve(settings) => serve::run(*settings),
        Invocation::Demo(settings) => demo::run(*settings),
        Invocation::HashPassword(user) => hash_password::run(user.as_deref()),
        Invocation::Healthcheck(settings, wants_ready) => {
            return Ok(healthcheck::run(&settings, wants_ready).map_or_else(unhealthy, |()| 0));
        }
        Invocation::Check(settings, is_strict) => return Ok(check::run(*settings, is_strict)),
        Invocation::Doctor(settings, url, options) => return doctor::run(&settings, &url, &options),
        Invocation::Migrate { file, service, arguments } => {
            return migrate::run(file.as_deref(), service.as_deref(), &arguments);
        }
        Invocation::Control(settings, words, options) => control::command::run(&settings, &words, &options),
        Invocation::ServersSchema => print(&schema::json_schema()),
        Invocation::Print(text) => print(&text),
    }
    .map(|()| 0)
}

/// Ignores write errors: a reader such as `head` may close the pipe early.
fn print(text: &str) -> Result<(), String> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Prints the message and returns the exit code that means unhealthy for Docker's HEALTHCHECK.
fn unhealthy(message: String) -> u8 {
    eprintln!("mcp-auth-proxy: {message}");
    1
}
