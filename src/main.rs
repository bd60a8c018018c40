//! The program: parse, dispatch, print the error, choose the exit code.

use std::io::Write;
use std::process::ExitCode;

use mcp_auth_proxy::flags::{self, Invocation};
use mcp_auth_proxy::{demo, hash_password, serve};

fn main() -> ExitCode {
    let env = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
    let invocation = flags::parse(std::env::args_os().skip(1), env, |path| std::fs::read_to_string(path));
    let result = invocation.and_then(|invocation| match invocation {
        Invocation::Serve(settings) => serve::run(*settings),
        Invocation::Demo(settings) => demo::run(*settings),
        Invocation::HashPassword => hash_password::run(),
        // A reader that closes early, such as `head`, is no error.
        Invocation::Print(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mcp-auth-proxy: {message}");
            ExitCode::from(2)
        }
    }
}
