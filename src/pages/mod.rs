//! The HTML pages that people see. They contain no scripts, and load nothing from other servers.
//!
//! - [`mod@sign_in`] – signing in and out
//! - [`mod@consent`] – which client requests access to what; [`mod@home`] – the servers, and how to add them to a client
//! - [`mod@account`] – which applications and browsers have access
//! - [`mod@message`] – errors and other messages
//! - [`layout`] – the frame that all pages share; [`site`] – whose pages they are; [`text`] – formats names, redirect targets and times;
//!   [`words`] – every text, in one table

mod account;
mod consent;
mod home;
mod layout;
mod message;
mod sign_in;
mod site;
mod text;
pub(crate) mod words;

pub use account::{AccountForm, AppCard, BrowserCard, Done, account};
pub use consent::{ChoiceProblem, RequestingClient, ServerCard, Wanted, consent, leave, no_server};
pub use home::{home, welcome};
pub use message::{error, not_for_browsers};
pub use sign_in::{
    Problem, ProviderButton, SignInOptions, not_allowed, not_signed_in, sign_in, signed_out, to_provider,
};
pub use site::{Logo, MAX_LOGO, Site};
pub use text::{display_name, display_text};
