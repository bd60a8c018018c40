//! Signing in, by password and at providers.

mod providers;
mod sign_in;
