//! Reads settings of sigbit/mcp-auth-proxy as its users have them: a file with variables, and a command line.

use std::collections::BTreeMap;

use super::options::{Form, SHORT, Setting, by_flag, by_variable};

/// What is set there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By variable; flags come before variables, as there.
    pub(super) values: BTreeMap<&'static str, String>,
    /// What that program does not know.
    pub(super) unknown: Vec<String>,
    /// The URL or the command of the MCP server.
    pub(super) server: Vec<String>,
}

impl Found {
    fn set(&mut self, option: &'static Setting, value: &str) {
        // An empty variable counts as unset.
        if !value.is_empty() {
            let value = match option.form {
                Form::Text => value.to_string(),
                Form::Switch => (value.eq_ignore_ascii_case("true") || value == "1").to_string(),
            };
            self.values.insert(option.env, value);
        }
    }

    /// Reads `NAME=value` lines, or the `environment` of a Compose file, which may stand whole. The error has the line's number.
    pub(super) fn read_variables(&mut self, text: &str) -> Result<(), String> {
        let is_compose = text
            .lines()
            .any(|line| matches!(line.trim_end(), "services:" | "environment:") || line.trim() == "environment:");
        for (number, line) in text.lines().enumerate() {
            let line = line.trim().trim_start_matches("- ").trim_start_matches("export ");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let found = line.find(if is_compose { &['=', ':'][..] } else { &['='][..] });
            let name = found.map(|at| line[..at].trim_matches(['"', '\'']).trim()).unwrap_or_default();
            let is_name = name.starts_with(|c: char| c.is_ascii_uppercase())
                && name.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit());
            match found.filter(|_| is_name) {
                Some(at) => self.set_text(name, unquoted(line, line[at + 1..].trim())),
                // What else there is in a Compose file.
                None if is_compose => {}
                None => return Err(format!("line {}: it is not NAME=value", number + 1)),
            }
        }
        Ok(())
    }

    fn set_text(&mut self, name: &str, value: &str) {
        match by_variable(name) {
            Some(option) => self.set(option, value),
            None => self.unknown.push(name.to_string()),
        }
    }

    /// Reads a command line; the name of the program may stand first.
    pub(super) fn read_arguments(&mut self, arguments: &[String]) -> Result<(), String> {
        let is_program =
            |word: &&String| word.rsplit('/').next().is_some_and(|name| name.starts_with("mcp-auth-proxy"));
        let mut rest = &arguments[usize::from(arguments.first().as_ref().is_some_and(is_program))..];
        while let Some((word, after)) = rest.split_first() {
            rest = after;
            if word == "--" {
                self.server.extend_from_slice(rest);
                return Ok(());
            }
            let long = word.strip_prefix("--").map(str::to_string);
            let short = word.strip_prefix('-').and_then(|text| text.chars().next());
            let short = short
                .and_then(|c| SHORT.iter().find(|(known, _)| *known == c))
                .map(|(c, long)| (*c, (*long).to_string()));
            let (name, attached) = match (long, short) {
                (Some(long), _) => match long.split_once('=') {
                    Some((name, value)) => (name.to_string(), Some(value.to_string())),
                    None => (long, None),
                },
                (None, Some((_, long))) => {
                    (long, Some(word[2..].trim_start_matches('=').to_string()).filter(|v| !v.is_empty()))
                }
                // Behind the first word that is no flag, flags of a command can't be told from those of the program.
                (None, None) => {
                    self.server.push(word.clone());
                    continue;
                }
            };
            let Some(option) = by_flag(&name) else {
                self.unknown.push(format!("--{name}"));
                continue;
            };
            let value = match (attached, option.form) {
                (Some(value), _) => value,
                (None, Form::Switch) => "true".to_string(),
                (None, Form::Text) => {
                    let Some((value, after)) = rest.split_first() else { return Err(format!("--{name} has no value")) };
                    rest = after;
                    value.clone()
                }
            };
            self.set(option, &value);
        }
        Ok(())
    }
}

/// The value without quotes. In a list of a Compose file, they are around name and value together.
fn unquoted<'v>(line: &str, value: &'v str) -> &'v str {
    let around = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    match around {
        Some(inner) => inner,
        None if line.starts_with(['"', '\'']) => value.trim_end_matches(['"', '\'']),
        None => value,
    }
}
