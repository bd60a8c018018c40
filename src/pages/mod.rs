//! The pages that people see: HTML from values. No script, no image, nothing from elsewhere.
//!
//! - [`mod@sign_in`] – signing in and out
//! - [`mod@consent`] – who asks for access to what
//! - [`mod@message`] – errors, and what else a person is told
//! - [`layout`] – the frame that all share; [`text`] – names, places and times in words

mod consent;
mod layout;
mod message;
mod sign_in;
mod text;

pub use consent::{RequestingClient, consent, leave};
pub use message::{error, not_for_browsers};
pub use sign_in::{
    Problem, ProviderButton, SignInOptions, hop, not_allowed, not_signed_in, sign_in, signed_in, signed_out,
};
pub use text::display_name;
