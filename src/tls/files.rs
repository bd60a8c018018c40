//! The user's certificate files: read at the start, and again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::certificate_and_key::CertificateAndKey;
use super::certificates::Certificates;
use crate::url::ExternalUrl;

/// Pause between two checks of the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// Inode, change time (seconds, nanoseconds) and size of both files, to notice a change: a replaced file has another
/// inode, and a rewritten one another change time.
pub type Mark = [(u64, i64, i64, u64); 2];

impl CertificateFiles {
    /// Reads both files. The error is one line and names the flags.
    pub fn load(&self) -> Result<CertificateAndKey, String> {
        let read = |path: &Path, flag: &str| {
            fs::read(path).map_err(|e| format!("{flag}: {} can't be read: {e}", path.display()))
        };
        let chain = read(&self.certificate, "--tls-cert-file (TLS_CERT_FILE)")?;
        let key = read(&self.key, "--tls-key-file (TLS_KEY_FILE)")?;
        CertificateAndKey::from_pem(&chain, &key).map_err(|why| {
            let (certificate, key) = (self.certificate.display(), self.key.display());
            format!("--tls-cert-file (TLS_CERT_FILE) {certificate} with --tls-key-file (TLS_KEY_FILE) {key}: {why}")
        })
    }

    /// Reloads the files when they change, for as long as the process lives. Unusable files change nothing, and are
    /// tried again until they are usable. `loaded` is the state of the files in use.
    pub fn watch(&self, mut loaded: Option<Mark>, certificates: &Certificates) {
        let mut told = None;
        loop {
            std::thread::sleep(LOOK_EVERY);
            let mark = self.mark();
            if mark.is_some() && mark == loaded {
                continue;
            }
            match self.load() {
                Ok(pair) => {
                    log::info!(until = date(pair.info.not_after); "the certificate files have changed: the new certificate is in use");
                    certificates.replace(pair);
                    (loaded, told) = (mark, None);
                }
                Err(e) if told.as_ref() == Some(&e) => {}
                Err(e) => {
                    log::error!(error = e.as_str(); "the certificate files have changed but can't be used; the old certificate stays in use");
                    told = Some(e);
                }
            }
        }
    }

    /// The current state of both files; `None` if it can't be found out. Take it before reading the files, so that a
    /// change in between is noticed.
    pub fn mark(&self) -> Option<Mark> {
        let mark = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            Some((found.ino(), found.ctime(), found.ctime_nsec(), found.size()))
        };
        Some([mark(&self.certificate)?, mark(&self.key)?])
    }
}

/// Why clients will refuse `pair`: it is for another host, or not valid now.
pub fn traps(pair: &CertificateAndKey, external: &ExternalUrl, now: u64) -> Vec<String> {
    let (info, mut traps) = (&pair.info, Vec::new());
    if !info.is_for(&external.host) && !external.is_address() {
        traps.push(format!(
            "the certificate (--tls-cert-file, TLS_CERT_FILE) is not for the host of --external-url (EXTERNAL_URL): clients will refuse it; it is for {}",
            info.names.join(", ")
        ));
    }
    if !(info.not_before..=info.not_after).contains(&now) {
        traps.push(format!(
            "the certificate (--tls-cert-file, TLS_CERT_FILE) is not valid now: clients will refuse it, or this machine's clock is wrong; it is valid from {} to {}",
            date(info.not_before),
            date(info.not_after)
        ));
    }
    traps
}

/// A time, given in seconds since 1970, as text for the log.
pub fn date(seconds: u64) -> String {
    let latest = Duration::from_secs(seconds.min(253_402_300_799));
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + latest)
}
