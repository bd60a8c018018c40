//! The data directory: creates and checks it, and writes files so that each has its old or its new content after a
//! crash.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store::embedded::{EmbeddedStore, OpenError};
use crate::store::{FORMAT, Store};
use crate::tokens::Secret;
use crate::tokens::signing::SigningKey;

/// The file with the key of identity assertions.
const ASSERTION_KEY: &str = "assertion-key";
/// The file with the secrets before the current one.
const PREVIOUS_SECRETS: &str = "secrets-previous";

/// The file that is there while a back-up is restored.
pub const RESTORING: &str = "restoring";

fn refuse(what: String) -> String {
    format!("--data-path (DATA_PATH): {what}")
}

/// Creates the data directory, or checks the existing one.
pub fn prepare_directory(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make_private(path)
            .map_err(|e| refuse(format!("{shown} can't be made: {e}; choose a directory that this user may write")))?,
        Err(e) => return Err(refuse(format!("{shown} can't be used: {e}"))),
        Ok(found) if !found.is_dir() => return Err(refuse(format!("{shown} is not a directory"))),
        Ok(found) if may_be_closed(path, &found) => {
            take_over(path, &found)
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
                .map_err(|e| refuse(format!("{shown} can't be closed to other users: {e}")))?;
            log::info!(directory:% = shown; "other users could access the data directory; its mode was changed to 0700");
        }
        Ok(found) => private(path, &found)?,
    }
    Ok(())
}

/// Would [`prepare_directory`], [`open_store`] and [`load_secret`] succeed? Changes nothing. Returns what was found.
pub fn inspect(path: &Path) -> Result<&'static str, String> {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let there = path.ancestors().skip(1).find(|above| above.as_os_str().is_empty() || above.exists());
            let there = there.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return match access(there, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => Ok("it is not there yet, and will be made"),
                Err(_) => Err(refuse(format!("{shown} can't be made; choose a directory that this user may write"))),
            };
        }
        Err(e) => return Err(refuse(format!("{shown} can't be used: {e}"))),
        Ok(found) if !found.is_dir() => return Err(refuse(format!("{shown} is not a directory"))),
        Ok(found) => found,
    };
    if may_be_closed(path, &found) {
        return Ok("it will be closed to other users (mode 0700)");
    }
    private(path, &found)?;
    access(path, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|_| refuse(format!("{shown} can't be written by this user")))?;
    check_whole(path)?;
    for name in ["secret", "state.redb"] {
        let file = path.join(name);
        if let Ok(found) = fs::metadata(&file) {
            private(&file, &found)?;
        }
    }
    if let Ok(bytes) = fs::read(path.join("secret"))
        && Secret::from_file(&bytes).is_none()
    {
        return Err(refuse(format!("{shown}/secret is not 32 bytes in base64")));
    }
    Ok("it is there, and closed to other users")
}

/// May we revoke other users' access to this directory without asking? Only if it is empty, as a container engine has
/// just made it, or has only files of sigbit/mcp-auth-proxy. Other directories may be in use by somebody else.
fn may_be_closed(path: &Path, found: &fs::Metadata) -> bool {
    const SIGBITS: [&str; 4] = ["secret", "private_key.pem", "db", "certs"];
    let mode = found.permissions().mode() & 0o7777;
    let is_known = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|e| e.file_name().to_str().is_some_and(|name| SIGBITS.contains(&name)))
    };
    (mode & 0o077 != 0 || !is_ours(found))
        && mode & 0o7022 == 0
        && (found.uid() == geteuid().as_raw() || geteuid().is_root())
        && fs::read_dir(path).is_ok_and(|mut entries| entries.all(is_known))
}

/// Makes this process's user the owner of the directory and its entries. This is for a directory that an unprivileged
/// user has made for a container that runs as root.
fn take_over(path: &Path, found: &fs::Metadata) -> io::Result<()> {
    if is_ours(found) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(geteuid().as_raw()), None)?;
    for entry in fs::read_dir(path)? {
        std::os::unix::fs::lchown(entry?.path(), Some(geteuid().as_raw()), None)?;
    }
    Ok(())
}

/// Does this user or root own it? Any other owner could replace what is in it.
fn is_ours(found: &fs::Metadata) -> bool {
    found.uid() == geteuid().as_raw() || found.uid() == 0
}

/// What a data directory is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To serve.
    Serve,
    /// To restore a back-up into it.
    Restore,
}

/// Refuses a directory in which a restore has broken off.
fn check_whole(path: &Path) -> Result<(), String> {
    match path.join(RESTORING).exists() {
        true => Err(refuse(format!(
            "a restore into {} has broken off; run 'mcp-auth-proxy restore' with the back-up again",
            path.display()
        ))),
        false => Ok(()),
    }
}

/// Opens the store in the data directory.
pub fn open_store(path: &Path, purpose: Use) -> Result<Box<dyn Store>, String> {
    let shown = path.display();
    if purpose == Use::Serve {
        check_whole(path)?;
    }
    let file = path.join("state.redb");
    match fs::metadata(&file) {
        Ok(found) => private(&file, &found)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(refuse(format!("{} can't be used: {e}", file.display()))),
    }
    match EmbeddedStore::open(&file) {
        Ok(store) => Ok(Box::new(store)),
        Err(OpenError::InUse) => Err(refuse(format!(
            "another mcp-auth-proxy is using {shown}; stop it, or give this one a directory of its own"
        ))),
        Err(OpenError::Newer(format)) => Err(refuse(format!(
            "{shown} was written by a newer version (format {format}, this version knows {FORMAT}): install that one again, or restore a back-up from before the upgrade into an empty directory"
        ))),
        Err(OpenError::Failed(e)) => Err(refuse(format!(
            "{} can't be opened: {e}; restore it from a backup, or move it away to start anew: then everybody signs in again, and clients are authorized again",
            file.display()
        ))),
    }
}

/// Creates a directory that only this user can enter, with its missing parents.
pub fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Refuses a file or directory that other users can read, write or replace.
fn private(path: &Path, found: &fs::Metadata) -> Result<(), String> {
    if !is_ours(found) {
        let (shown, own) = (path.display(), geteuid().as_raw());
        return Err(format!(
            "--data-path (DATA_PATH): {shown} belongs to another user (id {}), who could replace what is in it; run: chown -R {own} {shown}, or name another directory",
            found.uid()
        ));
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let (shown, right) = (path.display(), if found.is_dir() { "700" } else { "600" });
    let below = if found.is_dir() { "; or name a directory in it that is not there yet, and will be made" } else { "" };
    Err(format!(
        "--data-path (DATA_PATH): {shown} can be read by other users (mode {mode:03o}); run: chmod {right} {shown}{below}"
    ))
}

/// Loads the secret from the data directory, or creates it at the first start. The caller must have the store open, so
/// that only one process does this at a time.
pub fn load_secret(directory: &Path) -> Result<Secret, String> {
    let path = directory.join("secret");
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        format!("--data-path (DATA_PATH): {} can't be {what}: {e}", path.display())
    };
    match read_private(&path) {
        Ok(bytes) => Secret::from_file(&bytes).ok_or_else(|| {
            failed(
                "used",
                &"it is not 32 bytes in base64; restore it, or remove it to sign everybody out and start anew",
            )
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let secret = Secret::generate();
            write_durably(&path, &secret.to_base64()).map_err(|e| failed("written", &e))?;
            Ok(secret)
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && e.get_ref().is_some() => Err(e.to_string()),
        Err(e) => Err(failed("read", &e)),
    }
}

/// A previous secret in its file.
#[derive(Serialize, Deserialize)]
struct Previous {
    secret: String,
    /// Until when it verifies.
    until: Timestamp,
}

/// The previous secrets in the data directory that still verify, each with the time until which it does.
pub fn load_previous_secrets(directory: &Path, now: Timestamp) -> Result<Vec<(Secret, Timestamp)>, String> {
    let path = directory.join(PREVIOUS_SECRETS);
    let failed = |e: &dyn std::fmt::Display| {
        format!(
            "--data-path (DATA_PATH): {} can't be used: {e}; restore it, or remove it: what was signed with earlier keys is then invalid",
            path.display()
        )
    };
    let bytes = match read_private(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(&e)),
    };
    let all: Vec<Previous> = serde_json::from_slice(&bytes).map_err(|e| failed(&e))?;
    let good = all.into_iter().filter(|previous| previous.until > now);
    good.map(|previous| {
        let secret =
            Secret::from_base64(&previous.secret).ok_or_else(|| failed(&"a secret is not 32 bytes in base64"))?;
        Ok((secret, previous.until))
    })
    .collect()
}

/// Writes the secrets. The previous ones first: after a crash in between, the current one is still there, in both files.
pub fn store_secrets(directory: &Path, current: &Secret, previous: &[(Secret, Timestamp)]) -> io::Result<()> {
    let previous: Vec<Previous> =
        previous.iter().map(|(secret, until)| Previous { secret: secret.to_base64(), until: *until }).collect();
    write_durably(&directory.join(PREVIOUS_SECRETS), &serde_json::to_string(&previous)?)?;
    write_durably(&directory.join("secret"), &current.to_base64())
}

/// Loads the key of identity assertions, or creates it at first.
pub fn load_assertion_key(directory: &Path, now: Timestamp) -> Result<SigningKey, String> {
    let path = directory.join(ASSERTION_KEY);
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        format!("--data-path (DATA_PATH): {} can't be {what}: {e}", path.display())
    };
    match read_private(&path) {
        Ok(bytes) => {
            let malformed = |e: &dyn std::fmt::Display| {
                failed("used", &format!("{e}; restore it, or remove it: MCP servers then have to fetch the keys again"))
            };
            SigningKey::load(serde_json::from_slice(&bytes).map_err(|e| malformed(&e))?).map_err(|e| malformed(&e))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = SigningKey::generate(None, now)?;
            store_assertion_key(directory, &key).map_err(|e| failed("written", &e))?;
            Ok(key)
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && e.get_ref().is_some() => Err(e.to_string()),
        Err(e) => Err(failed("read", &e)),
    }
}

/// Writes the key of identity assertions.
pub fn store_assertion_key(directory: &Path, key: &SigningKey) -> io::Result<()> {
    write_durably(&directory.join(ASSERTION_KEY), &serde_json::to_string(key.stored())?)
}

/// Reads a file. If other users can access it, fails with a `PermissionDenied` that says what to do.
pub fn read_private(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    private(path, &fs::metadata(path)?).map_err(|e| io::Error::new(io::ErrorKind::PermissionDenied, e))?;
    Ok(bytes)
}

/// Writes a file with mode 0600, atomically and durably: after a crash it has its old or its new content.
pub fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
