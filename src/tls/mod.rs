//! TLS for incoming connections: the certificate in use, where it comes from, and what the plain HTTP port answers.
//!
//! - [`manager`] – provides the first certificate and starts the thread that reloads or renews it
//! - [`certificates`] – the certificate in use, and the settings of the TLS server
//! - [`certificate_and_key`] – a certificate chain with its key, read and checked
//! - [`x509`] – reads the fields of a certificate
//! - [`files`] – the user's certificate files, read again when they change
//! - [`acme`] – certificates that an authority issues and renews
//! - [`https_redirect`] – what the plain HTTP port answers
//! - [`config`] – the TLS settings

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
