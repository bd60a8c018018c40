//! Who is this person? Password sign-in, browser sessions, the throttle against guessing, and the pages.
//!
//! - [`signin`] – `/.auth/login` and `/.auth/logout`
//! - [`password`] – checking passwords without letting bcrypt hold anything else up
//! - [`throttle`] – growing delays for those who guess
//! - [`session`] – what a browser's cookies say
//! - [`pages`] – the HTML

pub mod pages;
pub mod password;
pub mod session;
pub mod signin;
pub mod throttle;
