//! TLS as clients see it: which certificates the server sends, and who trusts them.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use super::examination::Examination;
use super::findings::{
    CERTIFICATE_CHAIN, CERTIFICATE_EXPIRED, CERTIFICATE_EXPIRES_SOON, CERTIFICATE_NAME, CERTIFICATE_NOT_TRUSTED,
    CERTIFICATE_NOT_YET, CERTIFICATE_OWN_AUTHORITY, Finding, TLS_FAILED,
};
use super::link::Link;
use super::probe::CONNECT_PATIENCE;
use crate::lock::Unpoisoned;
use crate::net::tls;
use crate::tls::files::date;
use crate::tls::x509::CertificateInfo;

const STEP: &str = "certificate";
/// A certificate that is not renewed by then probably won't be. Those of six days are renewed on the fourth.
const SOON_DAYS: u64 = 7;
const DAY: u64 = 86_400;

/// What the server showed.
#[derive(Clone, Debug)]
struct Shown {
    chain: Vec<Vec<u8>>,
    /// By the public authorities alone.
    public: Result<(), Error>,
    /// By those of --ca-file as well.
    own: Result<(), Error>,
}

/// Accepts every certificate, and remembers it with what a client would say.
#[derive(Debug)]
struct Recorder {
    public: Arc<dyn ServerCertVerifier>,
    own: Arc<dyn ServerCertVerifier>,
    shown: Mutex<Option<Shown>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(certificate).chain(intermediates).map(|der| der.to_vec()).collect();
        let verify = |verifier: &Arc<dyn ServerCertVerifier>| {
            verifier.verify_server_cert(certificate, intermediates, name, ocsp, now).map(|_| ())
        };
        let shown = Shown { chain, public: verify(&self.public), own: verify(&self.own) };
        *self.shown.lock().unpoisoned() = Some(shown);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.public.supported_verify_schemes()
    }
}

/// Looks at the certificate of the server at `address`. True if it is trusted.
pub(super) fn look(exam: &mut Examination, link: &Link, address: SocketAddr) -> bool {
    let shown = match handshake(exam, link, address) {
        Ok(shown) => shown,
        Err(why) => {
            exam.report.found(STEP, &TLS_FAILED, format!("{} does not complete a TLS handshake: {why}", link.origin()));
            return false;
        }
    };
    let leaf = shown.chain.first().and_then(|der| CertificateInfo::of(der));
    if shown.public.is_ok() {
        tell_validity(exam, link, leaf.as_ref(), "by a public authority");
        return true;
    }
    let Err(error) = &shown.own else {
        let seen = "its authority is that of --ca-file (CA_FILE), not a public one";
        exam.report.found(STEP, &CERTIFICATE_OWN_AUTHORITY, seen);
        tell_validity(exam, link, leaf.as_ref(), "by the authority of --ca-file");
        return true;
    };
    let (finding, seen) = fault(link, &shown, leaf.as_ref(), error, exam.now);
    exam.report.found(STEP, finding, seen);
    false
}

fn tell_validity(exam: &mut Examination, link: &Link, leaf: Option<&CertificateInfo>, by: &str) {
    let Some(leaf) = leaf else { return };
    let days = leaf.not_after.saturating_sub(exam.now) / DAY;
    exam.report.good(STEP, format!("for {}, {by}, valid until {} ({days} days)", link.host(), date(leaf.not_after)));
    if days < SOON_DAYS && leaf.not_after - leaf.not_before > 10 * DAY {
        exam.report.found(
            STEP,
            &CERTIFICATE_EXPIRES_SOON,
            format!("it ends in {days} days, on {}", date(leaf.not_after)),
        );
    }
}

/// Which finding the error of a verifier is.
fn fault(
    link: &Link,
    shown: &Shown,
    leaf: Option<&CertificateInfo>,
    error: &Error,
    now: u64,
) -> (&'static Finding, String) {
    let names = leaf.map(|leaf| leaf.names.join(", ")).unwrap_or_default();
    let day = |at: fn(&CertificateInfo) -> u64| leaf.map(|leaf| date(at(leaf))).unwrap_or_default();
    // The name and the times can be wrong as well where the authority is: they are told first, since they show more.
    if let Some(leaf) = leaf {
        if leaf.not_after < now {
            return (&CERTIFICATE_EXPIRED, format!("it ended on {}", day(|leaf| leaf.not_after)));
        }
        if leaf.not_before > now {
            return (&CERTIFICATE_NOT_YET, format!("it begins on {}", day(|leaf| leaf.not_before)));
        }
        if link.address().is_none() && !leaf.is_for(&link.host()) {
            return (&CERTIFICATE_NAME, format!("it is for {names}, and not for {}", link.host()));
        }
    }
    match error {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (&CERTIFICATE_NAME, format!("it is for {names}, and not for {}", link.host())),
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
            if shown.chain.len() == 1 && leaf.is_some_and(|leaf| !leaf.is_self_issued) =>
        {
            (&CERTIFICATE_CHAIN, "the server sends its own certificate alone, and that is not signed by a root".into())
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            let why = if leaf.is_some_and(|leaf| leaf.is_self_issued) {
                "it is self-signed"
            } else {
                "its authority is not a public one"
            };
            (&CERTIFICATE_NOT_TRUSTED, why.into())
        }
        other => (&CERTIFICATE_NOT_TRUSTED, other.to_string()),
    }
}

fn handshake(exam: &Examination, link: &Link, address: SocketAddr) -> Result<Shown, String> {
    let recorder = Arc::new(Recorder {
        public: tls::verifier("", None)?,
        own: tls::verifier("--ca-file (CA_FILE)", exam.ca_file.as_deref())?,
        shown: Mutex::default(),
    });
    let config = tls::config_with(recorder.clone())?;
    let name = ServerName::try_from(link.host().trim_matches(['[', ']']).to_string()).map_err(|e| e.to_string())?;
    let mut connection = ClientConnection::new(config, name).map_err(|e| e.to_string())?;
    let mut socket = TcpStream::connect_timeout(&address, CONNECT_PATIENCE).map_err(|e| e.to_string())?;
    let ends_at = Instant::now() + CONNECT_PATIENCE;
    while connection.is_handshaking() {
        let left = ends_at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("it does not answer in time".into());
        }
        let patient = socket.set_read_timeout(Some(left)).and(socket.set_write_timeout(Some(left)));
        patient.map_err(|e| e.to_string())?;
        step(&mut connection, &mut socket).map_err(|e| reason(&e))?;
    }
    recorder.shown.lock().unpoisoned().clone().ok_or_else(|| "it shows no certificate".into())
}

/// Sends what there is to send, or else reads once.
fn step(connection: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    if connection.wants_write() {
        return connection.write_tls(socket).map(drop);
    }
    if connection.read_tls(socket)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    connection.process_new_packets().map(drop).map_err(io::Error::other)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it does not answer".into(),
        io::ErrorKind::UnexpectedEof => "it closes the connection".into(),
        _ if error.to_string().contains("InvalidContentType") => "what it sends is not TLS".into(),
        _ => error.to_string(),
    }
}
