//! What is stored on disk, below `acme` in the data directory: a directory for each authority, and in it the account,
//! the certificate of each host with its key, and the unfinished order. Each file is replaced as a whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::account::AccountKey;
use crate::data_dir;
use crate::encoding::digest;
use crate::http::client::RemoteUrl;
use crate::tls::certificate_and_key::CertificateAndKey;

/// One authority's directory on disk.
pub struct Storage {
    directory: PathBuf,
    host: String,
}

/// An order at the authority, and the key for its certificate. It is stored so that it can be resumed after a crash.
#[derive(Serialize, Deserialize)]
pub struct KeptOrder {
    /// The order's URL.
    pub url: String,
    /// The certificate's key, PEM.
    pub key: String,
}

#[derive(Serialize, Deserialize)]
struct KeptAccount {
    key: String,
    /// The account's URL; absent until the authority has created the account.
    url: Option<String>,
}

impl Storage {
    /// Opens the storage for certificates of `host` from `authority`, and makes its directory.
    pub fn open(data: &Path, authority: &RemoteUrl, host: &str) -> io::Result<Storage> {
        // The host makes the name readable; the digest separates two ACME directories of one authority, such as
        // production and staging.
        let digest = digest(authority.to_string().as_bytes());
        let name = format!("{}-{}", authority.host().replace(['[', ']', ':'], "_"), &digest[..8]);
        let directory = data.join("acme").join(name);
        data_dir::make_private(&directory)?;
        Ok(Storage { directory, host: host.to_string() })
    }

    /// The account's key, and its URL if that is known. Generates and stores a key if there is none.
    pub fn account(&self) -> Result<(AccountKey, Option<String>), String> {
        let path = self.account_path();
        let kept = match data_dir::read_private(&path) {
            Ok(bytes) => serde_json::from_slice::<KeptAccount>(&bytes).ok(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            // The file exists but can't be read. Overwriting it would lose the account.
            Err(e) => {
                return Err(format!(
                    "the account at the certificate authority, {}, can't be read: {e}",
                    path.display()
                ));
            }
        };
        if let Some(kept) = kept {
            match AccountKey::from_pem(kept.key) {
                Ok(key) => return Ok((key, kept.url)),
                Err(e) => {
                    log::warn!(error = e.as_str(); "the account at the certificate authority is lost; a new one is made")
                }
            }
        }
        let key = AccountKey::generate()?;
        self.keep_account(&key, None)?;
        Ok((key, None))
    }

    /// Stores the account.
    pub fn keep_account(&self, key: &AccountKey, url: Option<&str>) -> Result<(), String> {
        let kept = KeptAccount { key: key.pem().to_string(), url: url.map(str::to_string) };
        self.write(&self.account_path(), &kept)
    }

    /// The stored certificate with its key, if there is a usable one.
    pub fn pair(&self) -> Option<CertificateAndKey> {
        let path = self.pair_path();
        let text = readable(&path)?;
        match CertificateAndKey::from_pem(&text, &text) {
            Ok(pair) => Some(CertificateAndKey { is_trusted: true, ..pair }),
            Err(e) => {
                log::warn!(file:% = path.display(), error = e.as_str(); "the stored certificate can't be used; another one is ordered");
                None
            }
        }
    }

    /// Stores a key and its certificate chain, the key first. Both are in one file, so that they always match.
    pub fn keep_pair(&self, key: &str, chain: &str) -> Result<(), String> {
        let path = self.pair_path();
        data_dir::write_durably(&path, &format!("{}\n{chain}", key.trim_end())).map_err(|e| failed(&path, &e))
    }

    /// The unfinished order, if there is one.
    pub fn order(&self) -> Option<KeptOrder> {
        self.read(&self.order_path())
    }

    /// Stores the unfinished order.
    pub fn keep_order(&self, order: &KeptOrder) -> Result<(), String> {
        self.write(&self.order_path(), order)
    }

    /// Removes the stored order.
    pub fn forget_order(&self) {
        let _ = fs::remove_file(self.order_path());
    }

    fn account_path(&self) -> PathBuf {
        self.directory.join("account.json")
    }

    fn pair_path(&self) -> PathBuf {
        self.directory.join(format!("{}.pem", self.host))
    }

    fn order_path(&self) -> PathBuf {
        self.directory.join(format!("{}.order.json", self.host))
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        let text = readable(path)?;
        serde_json::from_slice(&text)
            .map_err(|_| log::warn!(file:% = path.display(); "a stored account, certificate or order is malformed; a new one will replace it"))
            .ok()
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), String> {
        let text = serde_json::to_string(value).map_err(|e| failed(path, &e))?;
        data_dir::write_durably(path, &text).map_err(|e| failed(path, &e))
    }
}

fn failed(path: &Path, e: &dyn std::fmt::Display) -> String {
    format!("{} can't be written: {e}", path.display())
}

/// The content of the file. `None` if it is missing, or not used because of an error or because others can read it.
fn readable(path: &Path) -> Option<Vec<u8>> {
    match data_dir::read_private(path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            log::warn!(file:% = path.display(), error:% = e; "a stored certificate or order can't be read; a new one will replace it");
            None
        }
    }
}
