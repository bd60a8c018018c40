//! Validates the TLS options, and explains why this proxy serves no TLS for an https URL.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::flags::Settings;
use crate::http::client::RemoteUrl;
use crate::tls::acme::AcmeConfig;
use crate::tls::acme::account::ExternalAccount;
use crate::tls::config::{Source, TlsConfig};
use crate::tls::files::CertificateFiles;
use crate::url::{ExternalUrl, Listen, is_address};

/// Domains that no public authority certifies: those of RFC 6761, RFC 6762, RFC 7686, RFC 8375 and RFC 9476, and those
/// that home routers and companies use.
const PRIVATE_DOMAINS: [&str; 15] = [
    "alt",
    "corp",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "mail",
    "onion",
    "private",
    "test",
];

/// Validates the TLS options. `None` means that this proxy serves no TLS. The error is one line.
pub fn configure(s: &Settings, external: &ExternalUrl) -> Result<Option<TlsConfig>, String> {
    if s.auto_tls && s.no_auto_tls {
        return Err("--auto-tls (AUTO_TLS) and --no-auto-tls (NO_AUTO_TLS) contradict each other; drop one".into());
    }
    let Some(source) = source(s, external)? else { return Ok(None) };
    if !external.secure {
        return Err(format!(
            "--external-url (EXTERNAL_URL) is {}, but TLS is asked for; write it with https://, since clients compare it with what they connect to",
            external.origin
        ));
    }
    let listen = Listen::tls(s.tls_listen.as_deref(), external)?;
    if listen == Listen::plain(s.listen.as_deref(), external)? && listen.port != 0 {
        return Err(format!(
            "--listen (LISTEN) and --tls-listen (TLS_LISTEN) have both port {}; the plain port sends browsers to https, so give it another",
            listen.port
        ));
    }
    Ok(Some(TlsConfig { listen, source }))
}

fn source(s: &Settings, external: &ExternalUrl) -> Result<Option<Source>, String> {
    match (&s.tls_cert_file, &s.tls_key_file) {
        (Some(_), Some(_)) if s.tls_host.is_some() => {
            return Err("--tls-host (TLS_HOST) names a certificate to obtain, but --tls-cert-file (TLS_CERT_FILE) gives one; drop either".into());
        }
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (PathBuf::from(certificate), PathBuf::from(key));
            return Ok(Some(Source::Files(CertificateFiles { certificate, key })));
        }
        (Some(_), None) => {
            return Err("--tls-cert-file (TLS_CERT_FILE) needs its key too: set --tls-key-file (TLS_KEY_FILE)".into());
        }
        (None, Some(_)) => {
            return Err(
                "--tls-key-file (TLS_KEY_FILE) needs its certificate too: set --tls-cert-file (TLS_CERT_FILE)".into()
            );
        }
        (None, None) => {}
    }
    let wanted = s.auto_tls || s.tls_host.is_some();
    if s.no_auto_tls || !(wanted || (external.secure && is_public(&external.host))) {
        return match &s.tls_host {
            Some(_) => Err("--tls-host (TLS_HOST) names a certificate to obtain, but --no-auto-tls (NO_AUTO_TLS) forbids that; drop either".into()),
            None => Ok(None),
        };
    }
    Ok(Some(Source::Acme(Box::new(acme(s, external)?))))
}

fn acme(s: &Settings, external: &ExternalUrl) -> Result<AcmeConfig, String> {
    let host = s.tls_host.as_deref().unwrap_or(&external.host).to_ascii_lowercase();
    check_host(&host)?;
    if !s.tls_accept_tos {
        return Err(format!(
            "a certificate for {host} would be obtained from {}, whose terms of service must be accepted: add --tls-accept-tos (TLS_ACCEPT_TOS=1); \
             or give a certificate with --tls-cert-file and --tls-key-file; or, with a reverse proxy in front that speaks https, add --no-auto-tls (NO_AUTO_TLS=1)",
            s.tls_directory_url
        ));
    }
    let directory =
        RemoteUrl::parse(&s.tls_directory_url).map_err(|e| format!("--tls-directory-url (TLS_DIRECTORY_URL): {e}"))?;
    let external_account =
        match (&s.acme_eab_kid, &s.acme_eab_hmac_key) {
            (None, None) => None,
            (Some(kid), Some(key)) => Some(ExternalAccount { kid: kid.clone(), hmac_key: decoded(key)? }),
            _ => return Err(
                "--acme-eab-kid (ACME_EAB_KID) and --acme-eab-hmac-key (ACME_EAB_HMAC_KEY) belong together; set both"
                    .into(),
            ),
        };
    if let Some(email) = &s.acme_email
        && (!email.contains('@') || email.contains([',', '?', ' ', ':']))
    {
        return Err(format!("--acme-email (ACME_EMAIL): '{email}' is not one e-mail address"));
    }
    let (email, ca_file) = (s.acme_email.clone(), s.acme_ca_file.as_ref().map(PathBuf::from));
    Ok(AcmeConfig { directory, host, email, external_account, ca_file })
}

/// Decodes a base64 key. Authorities use the URL-safe alphabet, but some users write the standard one.
fn decoded(key: &str) -> Result<Vec<u8>, String> {
    let text = key.trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD.decode(key));
    bytes.ok().filter(|b| !b.is_empty()).ok_or_else(|| {
        "--acme-eab-hmac-key (ACME_EAB_HMAC_KEY) is not base64; paste the key as the authority shows it".to_string()
    })
}

fn check_host(host: &str) -> Result<(), String> {
    let refuse = |why: &str| {
        Err(format!(
            "no certificate can be obtained for '{host}' (--tls-host, TLS_HOST; else the host of --external-url): {why}; give one with --tls-cert-file (TLS_CERT_FILE) and --tls-key-file (TLS_KEY_FILE), or add --no-auto-tls (NO_AUTO_TLS)"
        ))
    };
    if host.contains('*') {
        return refuse("a wildcard is certified by a record in DNS only (dns-01), which this program does not write");
    }
    if is_address(host) {
        return refuse("it is an address, not a name");
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        return refuse("it is not a host name");
    }
    Ok(())
}

/// Could a public authority certify `host`?
pub fn is_public(host: &str) -> bool {
    let is_private =
        |domain: &&str| host.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    host.contains('.') && !is_address(host) && !PRIVATE_DOMAINS.iter().any(is_private)
}

/// The log message at the start, if the external URL is https but this proxy serves no TLS.
pub fn notice(s: &TlsNotice) -> Option<String> {
    match s {
        TlsNotice::None => None,
        TlsNotice::Elsewhere => Some(
            "--no-auto-tls (NO_AUTO_TLS): plain http is spoken here, and the https of --external-url (EXTERNAL_URL) is expected to end at a reverse proxy in front".into(),
        ),
        TlsNotice::NotPublic(host) => Some(format!(
            "no public authority certifies '{host}', so plain http is spoken here, and the https of --external-url (EXTERNAL_URL) is expected to end at a reverse proxy in front; \
             to speak https here, give a certificate with --tls-cert-file (TLS_CERT_FILE) and --tls-key-file (TLS_KEY_FILE), or a private authority with --auto-tls (AUTO_TLS) and --tls-directory-url (TLS_DIRECTORY_URL)"
        )),
    }
}

/// Why this proxy serves no TLS although the external URL is https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsNotice {
    /// It serves TLS, or the URL is http.
    None,
    /// `--no-auto-tls` is set: a reverse proxy in front is expected to terminate TLS.
    Elsewhere,
    /// No public authority certifies this host.
    NotPublic(String),
}

impl TlsNotice {
    /// Derives the notice from the options. `tls` is what [`configure`] has returned for them.
    pub fn of(s: &Settings, external: &ExternalUrl, tls: Option<&TlsConfig>) -> TlsNotice {
        match (tls, external.secure) {
            (Some(_), _) | (_, false) => TlsNotice::None,
            _ if s.no_auto_tls => TlsNotice::Elsewhere,
            _ => TlsNotice::NotPublic(external.host.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(change: impl FnOnce(&mut Settings)) -> Result<Option<TlsConfig>, String> {
        let mut s =
            Settings { external_url: "https://mcp.example.com".into(), tls_accept_tos: true, ..Settings::default() };
        change(&mut s);
        configure(&s, &ExternalUrl::parse(&s.external_url).unwrap())
    }

    fn host(change: impl FnOnce(&mut Settings)) -> Option<String> {
        match tls(change).unwrap()?.source {
            Source::Acme(acme) => Some(acme.host),
            Source::Files(files) => Some(files.certificate.display().to_string()),
        }
    }

    #[test]
    fn an_https_url_with_a_public_name_has_its_certificate_obtained() {
        assert_eq!(host(|_| ()).as_deref(), Some("mcp.example.com"));
        assert_eq!(host(|s| s.tls_host = Some("B.example.com".into())).as_deref(), Some("b.example.com"));
        assert_eq!(host(|s| s.no_auto_tls = true), None);
        assert_eq!(host(|s| s.external_url = "http://mcp.example.com".into()), None);
        for private in [
            "https://localhost",
            "https://10.0.0.1",
            "https://[::1]:8443",
            "https://box",
            "https://a.lan",
            "https://a.home.arpa",
        ] {
            assert_eq!(host(|s| s.external_url = private.into()), None, "{private}");
        }
        let forced = host(|s| (s.external_url, s.auto_tls) = ("https://a.lan".into(), true));
        assert_eq!(forced.as_deref(), Some("a.lan"));
    }

    #[test]
    fn files_come_first_even_where_obtaining_is_forbidden() {
        let files = |s: &mut Settings| {
            (s.tls_cert_file, s.tls_key_file, s.no_auto_tls) = (Some("c.pem".into()), Some("k.pem".into()), true);
        };
        assert_eq!(host(files).as_deref(), Some("c.pem"));
    }

    #[test]
    fn each_refusal_names_the_way_out() {
        for (error, parts) in [
            (tls(|s| s.tls_accept_tos = false), ["--tls-accept-tos (TLS_ACCEPT_TOS=1)", "--no-auto-tls"]),
            (tls(|s| s.tls_host = Some("*.example.com".into())), ["wildcard", "--tls-cert-file"]),
            (tls(|s| s.tls_host = Some("192.0.2.1".into())), ["address", "--tls-cert-file"]),
            (tls(|s| s.tls_host = Some("a/../b".into())), ["not a host name", "--no-auto-tls"]),
            (tls(|s| s.tls_cert_file = Some("c".into())), ["--tls-cert-file", "--tls-key-file"]),
            (tls(|s| s.tls_key_file = Some("c".into())), ["--tls-key-file", "--tls-cert-file"]),
            (tls(|s| (s.auto_tls, s.no_auto_tls) = (true, true)), ["--auto-tls", "--no-auto-tls"]),
            (tls(|s| (s.tls_host, s.no_auto_tls) = (Some("a.b".into()), true)), ["--tls-host", "--no-auto-tls"]),
            (tls(|s| (s.external_url, s.auto_tls) = ("http://a.b".into(), true)), ["--external-url", "https://"]),
            (tls(|s| s.tls_directory_url = "http://ca.example/dir".into()), ["--tls-directory-url", "https"]),
            (tls(|s| s.acme_eab_kid = Some("kid".into())), ["--acme-eab-kid", "--acme-eab-hmac-key"]),
            (tls(|s| s.acme_email = Some("nobody".into())), ["--acme-email", "nobody"]),
            (tls(|s| s.tls_listen = Some(":80".into())), ["--listen", "--tls-listen"]),
            (tls(|s| s.tls_listen = Some("443".into())), ["--tls-listen (TLS_LISTEN)", ":8080"]),
        ] {
            let error = error.err().unwrap();
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
    }
}
