//! TLS at the front: which certificate is shown, where it comes from, and what the plain port answers beside it.
//!
//! - [`front`] – made ready, and looked after
//! - [`certificates`] – the one in use, and the settings of the server
//! - [`pair`] – a certificate chain with its key, read and checked
//! - [`x509`] – what is said in a certificate
//! - [`files`] – certificate files of the user's, read again when they change
//! - [`acme`] – certificates obtained and renewed from an authority
//! - [`plain_port`] – answers of the port without TLS
//! - [`configure`] – which of all that was asked for

pub mod acme;
pub mod certificates;
pub mod configure;
pub mod files;
pub mod front;
pub mod pair;
pub mod plain_port;
pub mod x509;

pub use certificates::Certificates;

/// The application protocol of a domain's validation (RFC 8737 section 4).
pub const ACME_TLS: &[u8] = b"acme-tls/1";
