//! `mcp-auth-proxy hash-password`: reads a password, prints a bcrypt hash.

use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::login::htpasswd::is_name;
use crate::login::password::MAX_PASSWORD_BYTES;

/// Reads from the terminal without echo, twice, or one line from a pipe. Prints the hash, or with a name of a `user` a line
/// of a htpasswd file.
pub fn run(user: Option<&str>) -> Result<(), String> {
    if user.is_some_and(|name| !is_name(name)) {
        return Err("--user: a name has 1 to 64 bytes, and no colon, blank or control character".into());
    }
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let password = ask("Password: ")?;
        if ask("Once more: ")? != password {
            return Err("the two passwords differ; nothing was made".into());
        }
        password
    } else {
        read_line(&mut stdin.lock())?
    };
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(format!(
            "the password has {} bytes, but bcrypt reads only the first 72; choose a shorter one",
            password.len()
        ));
    }
    let hash = bcrypt::hash(&password, bcrypt::DEFAULT_COST).map_err(|e| format!("no hash could be made: {e}"))?;
    match user {
        Some(name) => println!("{name}:{hash}"),
        None => println!("{hash}"),
    }
    Ok(())
}

fn read_line(from: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    from.read_line(&mut line).map_err(|e| format!("the password can't be read: {e}"))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_string())
}

/// Prompts on standard error, so that standard output has the hash alone.
fn ask(prompt: &str) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("the terminal can't be used: {e}");
    let before = tcgetattr(io::stdin()).map_err(|e| failed(&e))?;
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(|e| failed(&e))?;
    let handle = signals.handle();
    let saved = before.clone();
    // If the user interrupts the prompt, the terminal must get its echo back.
    let watcher = std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            restore(&saved);
            eprintln!();
            std::process::exit(128 + signal);
        }
    });
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(|e| failed(&e))?;
    eprint!("{prompt}");
    let _ = io::stderr().flush();
    let line = read_line(&mut io::stdin().lock());
    restore(&before);
    eprintln!();
    handle.close();
    let _ = watcher.join();
    line
}

fn restore(termios: &Termios) {
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, termios);
}
