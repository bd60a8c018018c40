//! All options, each defined once, as data.
//!
//! [`list::FLAGS`] is the single list of options ([`flag`] says what one is); the parser ([`mod@parse`]), `--help`
//! ([`help`]), the man page ([`man`]), the shell completions ([`completions`]) and `docs/configuration.md`
//! ([`mod@reference`]) are all made from it. Parsing returns [`Settings`], the values as typed;
//! [`crate::app::config::Config`] holds the validated values.

pub mod completions;
mod flag;
pub mod help;
mod list;
mod lookalikes;
pub mod man;
mod parse;
pub mod reference;
mod settings;
pub mod values;

pub use flag::{Command, Flag, Section};
pub use list::{COMMANDS, FLAGS};
pub use lookalikes::lookalikes;
pub use parse::{Invocation, VERSION, of_process, parse};
pub use settings::Settings;
