//! The types that describe an option and a command as data.

use super::settings::Settings;

/// The heading under which `--help` and the reference print a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What most users set.
    Main,
    /// Certificates.
    Tls,
    /// Who may sign in.
    SignIn,
    /// External identity providers, and which of their users may sign in.
    Providers,
    /// Which clients there may be, and who may act without a person at a browser.
    Clients,
    /// How to connect to the upstream server, and what is sent to it.
    Upstream,
    /// Servers that speak over stdio.
    Stdio,
    /// Trusted reverse proxies, and the web origins and host names that are accepted.
    Trust,
    /// Lifetimes of tokens, sessions and consents.
    Lifetimes,
    /// Limits on the resources that clients can use.
    Limits,
    /// What the operator can see.
    Monitoring,
    /// Environment only: process settings and key material.
    Process,
}

impl Section {
    /// All sections, in the order in which they are printed.
    pub const ALL: [Section; 12] = [
        Section::Main,
        Section::Tls,
        Section::SignIn,
        Section::Providers,
        Section::Clients,
        Section::Upstream,
        Section::Stdio,
        Section::Trust,
        Section::Lifetimes,
        Section::Limits,
        Section::Monitoring,
        Section::Process,
    ];

    /// The printed heading.
    pub fn title(self) -> &'static str {
        match self {
            Section::Main => "Options",
            Section::Tls => "TLS",
            Section::SignIn => "Sign-in",
            Section::Providers => "Sign-in with Google, GitHub or OpenID Connect",
            Section::Clients => "Clients and machines",
            Section::Upstream => "Upstream",
            Section::Stdio => "Stdio servers",
            Section::Trust => "Trust",
            Section::Lifetimes => "Lifetimes",
            Section::Limits => "Limits",
            Section::Monitoring => "Monitoring",
            Section::Process => "Environment only",
        }
    }
}

/// One option: its names, its documentation and the function that applies it.
pub struct Flag {
    /// `--long` name; absent for settings that exist in the environment only.
    pub long: Option<&'static str>,
    /// `-s` name.
    pub short: Option<char>,
    /// Environment variable; secrets also have `<env>_FILE`.
    pub env: &'static str,
    /// Name of the value in help texts; `None` makes it a switch.
    pub value: Option<&'static str>,
    /// The default as it would be typed; empty when there is none.
    pub default: &'static str,
    /// The section of the help that lists it.
    pub section: Section,
    /// The value is never shown, and can be read from a file.
    pub secret: bool,
    /// A list that can be read from a file with one item per line; SIGHUP reads it again.
    pub from_file: bool,
    /// Does a reload take up another value?
    pub is_reloaded: bool,
    /// One line.
    pub help: &'static str,
    /// Further sentences for the man page and the reference.
    pub more: &'static str,
    /// Applies a typed value.
    pub set: fn(&mut Settings, &str) -> Result<(), String>,
}

impl Flag {
    /// The name to use in a message: the flag with its environment variable.
    pub fn name(&self) -> String {
        match self.long {
            Some(long) => format!("--{long} ({})", self.env),
            None => self.env.to_string(),
        }
    }
}

/// A subcommand, as data for help and completions.
pub struct Command {
    /// The word to type.
    pub name: &'static str,
    /// Its arguments, as help shows them.
    pub args: &'static str,
    /// One line.
    pub help: &'static str,
    /// Options that this command has alone, each with the name of its value; `None` makes it a switch.
    pub options: &'static [(&'static str, Option<&'static str>)],
    /// Further text of `COMMAND --help`. It is printed as it is: it has its own line breaks and ends with one.
    pub more: &'static str,
}
