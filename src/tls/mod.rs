//! TLS at the front: which certificate is shown, where it comes from, and what the plain port answers beside it.
//!
//! - [`manager`] – made ready, and looked after
//! - [`certificates`] – the one in use, and the settings of the server
//! - [`certificate_and_key`] – a certificate chain with its key, read and checked
//! - [`x509`] – what is said in a certificate
//! - [`files`] – certificate files of the user's, read again when they change
//! - [`acme`] – certificates obtained and renewed from an authority
//! - [`https_redirect`] – answers of the port without TLS
//! - [`config`] – which of all that was asked for

pub mod acme;
pub mod certificate_and_key;
pub mod certificates;
pub mod config;
pub mod files;
pub mod https_redirect;
pub mod manager;
pub mod x509;

pub use acme::challenges::ACME_TLS;
pub use certificates::Certificates;
