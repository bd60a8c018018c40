//! Servers that speak https, with certificates of an authority of their own.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub certificate: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "the tests' authority");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(parameters, key), certificate }
    }

    /// A certificate for `names`, valid since yesterday and for three months, and its key, both PEM.
    pub(crate) fn certificate(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "a server of the tests");
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_secs(86_400);
        (parameters.not_before, parameters.not_after) = ((now - day).into(), (now + 90 * day).into());
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The head of the next request, when it has no body.
pub(crate) fn head(socket: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A server with a certificate for `name` that gives every request `answer`; its port, and the authority's certificate.
pub(crate) fn server(name: &str, answer: Vec<u8>) -> (u16, String) {
    let authority = Authority::new();
    let (certificate, key) = authority.certificate(&[name]);
    (serve(&certificate, &key, answer), authority.certificate)
}

/// The same with a certificate that the server signed itself, as an authority's; its port, and the certificate.
pub(crate) fn self_signed(name: &str, answer: Vec<u8>) -> (u16, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.into()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().pem();
    (serve(&certificate, &key.serialize_pem(), answer), certificate)
}

/// Serves https with a certificate, perhaps with a chain behind it, and gives every request `answer`; the port.
pub(crate) fn serve(certificate: &str, key: &str, answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    serve_on(listener, certificate, key, move |_| answer.clone());
    port
}

/// The same on `listener`, with what `answer` makes of the head of a request.
pub(crate) fn serve_on(
    listener: TcpListener,
    certificate: &str,
    key: &str,
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    let (config, answer) = (Arc::new(config), Arc::new(answer));
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(connection, socket);
                while let Some(head) = head(&mut stream) {
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    let mut body = vec![0; length.unwrap_or(0)];
                    if stream.read_exact(&mut body).and_then(|()| stream.write_all(&answer(&head))).is_err() {
                        return;
                    }
                }
            });
        }
    });
}
