//! The passwords that users can sign in with: one for all, or those of a htpasswd file.

use std::path::Path;

use crate::flags::Settings;
use crate::login::htpasswd::{self, Groups};
use crate::login::password::{MAX_PASSWORD_BYTES, Password};
use crate::servers_file::read_owned;

/// The passwords that users can sign in with.
pub fn configure(s: &Settings) -> Result<Vec<Password>, String> {
    let mut out = Vec::new();
    if let Some(password) = &s.password {
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(format!(
                "--password (PASSWORD) has {} bytes, but bcrypt reads only the first 72; choose a shorter one",
                password.len()
            ));
        }
        out.push(Password::Plain(password.clone()));
    }
    if let Some(hash) = &s.password_hash {
        if hash.parse::<bcrypt::HashParts>().is_err() {
            return Err(
                "--password-hash (PASSWORD_HASH) is not a bcrypt hash; make one with 'mcp-auth-proxy hash-password', \
                        and mind that a shell takes $ signs out of double quotes"
                    .into(),
            );
        }
        out.push(Password::Bcrypt(hash.clone()));
    }
    if let Some(file) = &s.htpasswd_file {
        let refuse = |why: String| format!("--htpasswd-file (HTPASSWD_FILE): {why}");
        let text = read_owned(Path::new(file)).map_err(refuse)?;
        let accounts = htpasswd::accounts(&text).map_err(|why| refuse(format!("{file}, {why}")))?;
        out.extend(accounts.into_iter().map(Password::Of));
    }
    Ok(out)
}

/// The groups of the users of the htpasswd file.
pub fn groups(s: &Settings) -> Result<Groups, String> {
    let Some(file) = &s.htgroup_file else { return Ok(Groups::new()) };
    let refuse = |why: String| format!("--htgroup-file (HTGROUP_FILE): {why}");
    if s.htpasswd_file.is_none() {
        return Err(refuse("it names groups of users of --htpasswd-file (HTPASSWD_FILE), which is not set".into()));
    }
    let text = read_owned(Path::new(file)).map_err(refuse)?;
    htpasswd::groups(&text).map_err(|why| refuse(format!("{file}, {why}")))
}
