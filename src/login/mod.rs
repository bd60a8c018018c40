//! Who is this person? Sign-in by password or at a provider, browser sessions, the throttle against guessing, the pages.
//!
//! - [`signin`] – `/.auth/login` and `/.auth/logout`
//! - [`federation`] – the way to a provider and back; [`providers`] – Google, GitHub, OpenID Connect, and allow rules
//! - [`password`] – checking passwords without letting bcrypt hold anything else up
//! - [`throttle`] – growing delays for those who guess
//! - [`session`] – what a browser's cookies say
//! - [`pages`] – the HTML

pub mod federation;
pub mod pages;
pub mod password;
pub mod providers;
pub mod session;
pub mod signin;
pub mod throttle;
