//! Options that one command has alone, such as `hash-password --user NAME`.

use super::commands::COMMANDS;

/// The name of an option, and that of its value.
type OwnOption = (&'static str, Option<&'static str>);

/// What was typed of them, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnOptions(Vec<(&'static str, String)>);

impl OwnOptions {
    /// The option `name` of the command that the first of `words` names.
    pub(super) fn find(name: &str, words: &[String]) -> Option<OwnOption> {
        let command = COMMANDS.iter().find(|command| words.first().is_some_and(|word| word == command.name))?;
        command.options.iter().find(|(known, _)| *known == name).copied()
    }

    /// Reads the value of an option that was typed.
    pub(super) fn read(&mut self, option: Option<OwnOption>, parser: &mut lexopt::Parser) -> Result<(), String> {
        let Some((name, value)) = option else { return Ok(()) };
        let text = match value {
            None => String::new(),
            Some(value) => {
                let typed = parser.value().map_err(|_| format!("--{name} needs a value: {value}"))?;
                typed.into_string().map_err(|_| format!("--{name} is not valid UTF-8"))?
            }
        };
        self.0.push((name, text));
        Ok(())
    }

    /// Was it typed?
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    /// Its value; the last one if it was typed more than once.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// All its values.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.clone()).collect()
    }
}
