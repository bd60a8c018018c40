//! Provides the first certificate, and starts the thread that reloads or renews it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::acme::AcmeConfig;
use super::acme::challenges::Challenges;
use super::acme::issue::Issuer;
use super::acme::renewal::{Renewal, RetryTrigger};
use super::acme::storage::Storage;
use super::certificate_and_key::CertificateAndKey;
use super::certificates::Certificates;
use super::config::{Source, TlsConfig};
use super::files::{self, CertificateFiles};
use crate::clock::Clock;
use crate::http::client::{Fetcher, Proxies};
use crate::net::tls;
use crate::thread::spawn;
use crate::url::ExternalUrl;

/// How long an answer of the authority may take. It is long, since some authorities sign before they answer.
const AUTHORITY_TIMEOUT: Duration = Duration::from_secs(45);

/// The certificate of the TLS port, and what replaces it later.
pub struct CertificateManager {
    /// The certificate in use.
    pub certificates: Arc<Certificates>,
    /// The open challenges of the authority.
    pub challenges: Arc<Challenges>,
    keeper: Keeper,
}

enum Keeper {
    Files(CertificateFiles, Option<files::Mark>),
    Authority(Box<Issuer>),
}

impl CertificateManager {
    /// Has a certificate at hand for the start: the user's, the one that was kept, or a self-signed one.
    pub fn prepare(
        config: &TlsConfig,
        external: &ExternalUrl,
        data_path: &Path,
        proxies: &Proxies,
        clock: &Clock,
    ) -> Result<CertificateManager, String> {
        let challenges = Arc::new(Challenges::default());
        let (pair, keeper) = match &config.source {
            Source::Files(source) => {
                let mark = source.mark();
                let pair = source.load()?;
                files::traps(&pair, external, clock.now()).iter().for_each(|trap| log::warn!("{trap}"));
                (pair, Keeper::Files(source.clone(), mark))
            }
            Source::Acme(acme) => obtained(acme, data_path, proxies)?,
        };
        Ok(CertificateManager { certificates: Certificates::new(pair, challenges.clone()), challenges, keeper })
    }

    /// Starts the thread that reloads or renews the certificate. With an authority, returns a trigger to retry a failed
    /// order at once.
    pub fn look_after(self, clock: Arc<Clock>) -> Result<Option<Arc<RetryTrigger>>, String> {
        let CertificateManager { certificates, challenges, keeper } = self;
        match keeper {
            Keeper::Files(source, mark) => {
                spawn("certificates", move || source.watch(mark, &certificates))?;
                Ok(None)
            }
            Keeper::Authority(issuer) => {
                let retry = Arc::new(RetryTrigger::default());
                let renewal = Renewal::new(*issuer, certificates, challenges, clock, retry.clone());
                spawn("certificates", move || renewal.run())?;
                Ok(Some(retry))
            }
        }
    }
}

fn obtained(config: &AcmeConfig, data_path: &Path, proxies: &Proxies) -> Result<(CertificateAndKey, Keeper), String> {
    let trust = tls::client_config("--acme-ca-file (ACME_CA_FILE)", config.ca_file.as_deref())?;
    let storage = Storage::open(data_path, &config.directory, &config.host)
        .map_err(|e| format!("--data-path (DATA_PATH): {} can't hold certificates: {e}", data_path.display()))?;
    let pair = match storage.pair() {
        Some(pair) => pair,
        None => {
            log::warn!(
                host = config.host.as_str(), authority = config.directory.host();
                "there is no certificate yet, so one is ordered; until it has come, a self-signed one is used, which clients refuse"
            );
            CertificateAndKey::self_signed(&config.host)?
        }
    };
    let fetcher = Fetcher::new(trust, proxies.clone(), AUTHORITY_TIMEOUT);
    Ok((pair, Keeper::Authority(Box::new(Issuer { config: config.clone(), storage, fetcher }))))
}
