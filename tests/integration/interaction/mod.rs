//! Signing in, by password and at providers.

mod htpasswd;
mod providers;
mod sign_in;
