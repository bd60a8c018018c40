//! Signing in, by password and at providers.

mod account;
mod htpasswd;
mod providers;
mod sign_in;
