//! Reads settings of sigbit/mcp-auth-proxy as its users have them: a file with variables, and a command line.

use std::collections::BTreeMap;

use serde_json::Value;

use super::options::{Form, SHORT, Setting, by_flag, by_variable};

/// What the program and its image are called.
const PROGRAM: &str = "mcp-auth-proxy";

/// What is set there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By variable; flags come before variables, as there.
    pub(super) values: BTreeMap<&'static str, String>,
    /// What that program does not know.
    pub(super) unknown: Vec<String>,
    /// Variables whose values have line breaks, which a line of a file can't hold.
    pub(super) broken: Vec<&'static str>,
    /// Variables that Docker passes on from its own environment, which is not here.
    pub(super) passed_on: Vec<String>,
    /// Files with variables that the command line names.
    pub(super) files: Vec<String>,
    /// Switches that were set to something else than yes or no.
    pub(super) odd_switches: Vec<&'static str>,
    /// The URL or the command of the MCP server.
    pub(super) server: Vec<String>,
}

impl Found {
    fn set(&mut self, option: &'static Setting, value: &str) {
        if value.chars().any(char::is_control) {
            self.broken.push(option.env);
            return;
        }
        // An empty variable counts as unset.
        if !value.is_empty() {
            let value = match option.form {
                Form::Text => value.to_string(),
                Form::Switch => {
                    let is_on = value.eq_ignore_ascii_case("true") || value == "1";
                    if !is_on && !value.eq_ignore_ascii_case("false") && value != "0" {
                        self.odd_switches.push(option.env);
                    }
                    is_on.to_string()
                }
            };
            self.values.insert(option.env, value);
        }
    }

    /// Reads `NAME=value` lines as Docker and systemd do, or what `docker compose config --format json` prints. The error says
    /// what is wrong, and where.
    pub(super) fn read_file(&mut self, text: &str, service: Option<&str>) -> Result<(), String> {
        if text.trim_start().starts_with('{') {
            return self.read_compose(text, service);
        }
        if text.lines().any(|line| matches!(line.trim_end(), "services:" | "environment:")) {
            return Err("this is a Compose file. Have Compose resolve it: docker compose config --format json | mcp-auth-proxy migrate -".into());
        }
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let Some((name, value)) = line.split_once('=') else {
                return Err(format!("line {}: it is not NAME=value", number + 1));
            };
            let value = value.trim();
            let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
            self.set_text(name.trim(), unquoted.unwrap_or(value));
        }
        Ok(())
    }

    /// The service of a resolved Compose file whose image is that of the program.
    fn read_compose(&mut self, text: &str, service: Option<&str>) -> Result<(), String> {
        let file: Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
        let services = file.get("services").and_then(Value::as_object).ok_or("it has no services")?;
        let is_meant = |name: &str, entry: &Value| match service {
            Some(wanted) => name == wanted,
            None => entry["image"].as_str().is_some_and(|image| image.contains(PROGRAM)),
        };
        let meant: Vec<(&String, &Value)> = services.iter().filter(|(name, entry)| is_meant(name, entry)).collect();
        let [(_, service)] = meant.as_slice() else {
            let names: Vec<&str> = services.keys().map(String::as_str).collect();
            return Err(format!("name the service with --service, of {}", names.join(", ")));
        };
        // What Compose prints can be read by it again, so a dollar is written twice.
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from).replace("$$", "$");
        for (name, value) in
            service["environment"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null())
        {
            self.set_text(name, &text(value));
        }
        let command: Vec<String> = service["command"].as_array().into_iter().flatten().map(text).collect();
        self.read_arguments(&command)
    }

    fn set_text(&mut self, name: &str, value: &str) {
        match by_variable(name) {
            Some(option) => self.set(option, value),
            None => self.unknown.push(name.to_string()),
        }
    }

    /// Reads a command line; the name of the program may stand first, or a command of Docker's.
    pub(super) fn read_arguments(&mut self, arguments: &[String]) -> Result<(), String> {
        if arguments.first().is_some_and(|word| matches!(word.rsplit('/').next(), Some("docker" | "podman"))) {
            return self.read_docker(arguments);
        }
        // What stands before it, such as sudo, is not for the program.
        let is_program = |word: &String| word.rsplit('/').next().is_some_and(|name| name.starts_with(PROGRAM));
        let own = arguments.iter().take_while(|word| *word != "--").position(is_program);
        let mut rest = &arguments[own.map_or(0, |at| at + 1)..];
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
                (None, None) if word.starts_with('-') && self.server.is_empty() => {
                    self.unknown.push(word.clone());
                    continue;
                }
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
            // A flag takes more spellings of yes than a variable.
            let is_yes = option.form == Form::Switch && matches!(value.as_str(), "t" | "T");
            self.set(option, if is_yes { "true" } else { &value });
        }
        Ok(())
    }

    /// A command of Docker's: variables before the name of the image, arguments behind it.
    fn read_docker(&mut self, arguments: &[String]) -> Result<(), String> {
        let is_image = |word: &String| !word.starts_with('-') && !word.contains('=') && word.contains(PROGRAM);
        let image = arguments.iter().position(is_image).ok_or_else(|| format!("no image is called {PROGRAM}"))?;
        let mut before = arguments[..image].iter();
        while let Some(word) = before.next() {
            let named = |option: &str| word.strip_prefix(option).filter(|value| !value.is_empty()).map(String::from);
            match word.as_str() {
                "--env-file" => self.files.extend(before.next().cloned()),
                "-e" | "--env" => self.variable(&before.next().cloned().unwrap_or_default()),
                _ if word.starts_with("--env-file=") => self.files.extend(named("--env-file=")),
                _ if word.starts_with("--env=") => self.variable(&named("--env=").unwrap_or_default()),
                _ if word.starts_with("-e") => self.variable(&named("-e").unwrap_or_default()),
                _ => {}
            }
        }
        self.read_arguments(&arguments[image + 1..])
    }

    /// `NAME=value`, or `NAME` alone for what Docker's own environment has.
    fn variable(&mut self, text: &str) {
        match text.split_once('=') {
            Some((name, value)) => self.set_text(name, value),
            None => self.passed_on.push(text.to_string()),
        }
    }

    /// Adds what `other` has set and this has not.
    pub(super) fn behind(&mut self, other: Found) {
        for (name, value) in other.values {
            self.values.entry(name).or_insert(value);
        }
        self.unknown.extend(other.unknown);
        self.broken.extend(other.broken);
        self.odd_switches.extend(other.odd_switches);
    }
}
