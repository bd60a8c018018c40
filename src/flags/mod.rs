//! All options, each defined once, as data.
//!
//! [`list::FLAGS`] is the single list of options, [`commands::COMMANDS`] that of subcommands ([`flag`] says what one is); the parser ([`mod@parse`], [`arguments`], [`env_file`], [`mistakes`]), `--help`
//! ([`help`]), the man page ([`man`]), the shell completions ([`completions`]) and `docs/configuration.md`
//! ([`mod@reference`]) are all made from it. Parsing returns [`Settings`], the values as typed;
//! [`crate::app::config::Config`] holds the validated values.

mod arguments;
mod commands;
pub mod completions;
mod env_file;
mod flag;
pub mod help;
mod list;
mod lookalikes;
pub mod man;
mod mistakes;
mod own_options;
mod parse;
pub mod reference;
mod settings;
pub mod values;

pub use commands::COMMANDS;
pub use flag::{Command, Flag, Section};
pub use list::FLAGS;
pub use lookalikes::lookalikes;
pub use own_options::OwnOptions;
pub use parse::{Invocation, VERSION, of_process, parse};
pub use settings::Settings;
