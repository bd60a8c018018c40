//! Asks a stdio server once, for the command `check`: does it answer `initialize`?

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::upstream::check;
use crate::upstream::stdio::config::StdioConfig;
use crate::upstream::stdio::process::launcher;

/// How long the answer may take; npx and uvx may have to download the server first.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts the server of `config`, asks it, and ends it. The error says what is wrong.
pub fn check(config: &StdioConfig) -> Result<(), String> {
    launcher::check_program(&config.command, &config.env, config.cwd.as_deref())?;
    let mut child = command(config).spawn().map_err(|e| format!("it can't be started: {e}"))?;
    let stderr = child.stderr.take();
    let last_words = std::thread::spawn(move || last_lines(stderr));
    let found = ask(&mut child);
    // It may have started others, which have its process group.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
    found.map_err(|why| match last_words.join() {
        Ok(said) if !said.is_empty() => format!("{why}; it wrote: {said}"),
        _ => why,
    })
}

/// The last lines that the server writes to its standard error, perhaps cut.
fn last_lines(stderr: Option<impl Read>) -> String {
    const LINES: usize = 8;
    const MAX: usize = 160;
    let mut last: VecDeque<String> = VecDeque::new();
    let lines = stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n').map_while(Result::ok));
    for line in lines.filter(|line| !line.trim_ascii().is_empty()) {
        last.push_back(String::from_utf8_lossy(&line).trim().chars().take(MAX).collect());
        if last.len() > LINES {
            last.pop_front();
        }
    }
    last.make_contiguous().join(" | ")
}

fn command(config: &StdioConfig) -> Command {
    let mut command = Command::new(&config.command[0]);
    command.args(&config.command[1..]).process_group(0);
    for variable in &config.own_variables {
        command.env_remove(variable).env_remove(format!("{variable}_FILE"));
    }
    for (name, value) in &config.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(cwd) = &config.cwd {
        command.current_dir(cwd);
    }
    if let Some(user) = &config.user {
        command.uid(user.uid).gid(user.gid);
        if let Some(home) = &user.home {
            command.env("HOME", home);
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ask(child: &mut Child) -> Result<(), String> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no standard input and output".into());
    };
    let mut line = check::initialize();
    line.push(b'\n');
    stdin.write_all(&line).map_err(|_| "it ended before it answered anything")?;
    let (sender, answers) = channel();
    let read = move || {
        let lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
        let answered = lines.into_iter().any(|line| check::has_response(&line));
        let _ = sender.send(answered);
    };
    std::thread::Builder::new().spawn(read).map_err(|e| format!("no thread could be started: {e}"))?;
    let answered = answers.recv_timeout(PATIENCE);
    drop(stdin);
    match answered {
        Ok(true) => Ok(()),
        Ok(false) => Err("it ended before it answered anything".into()),
        Err(_) => Err(format!(
            "it has not answered initialize within {} seconds: does its command speak MCP over stdio?",
            PATIENCE.as_secs()
        )),
    }
}
