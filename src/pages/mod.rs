//! The HTML pages that people see. They contain no scripts and no images, and load nothing from other servers.
//!
//! - [`mod@sign_in`] – signing in and out
//! - [`mod@consent`] – which client requests access to what
//! - [`mod@message`] – errors and other messages
//! - [`layout`] – the frame that all pages share; [`text`] – formats names, redirect targets and times

mod consent;
mod layout;
mod message;
mod sign_in;
mod text;

pub use consent::{ChoiceProblem, RequestingClient, ServerCard, Wanted, consent, leave, no_server};
pub use message::{error, not_for_browsers};
pub use sign_in::{
    Problem, ProviderButton, SignInOptions, not_allowed, not_signed_in, sign_in, signed_in, signed_out, to_provider,
};
pub use text::display_name;
