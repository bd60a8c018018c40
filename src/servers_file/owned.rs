//! Files that run commands, or say who may sign in: nobody but their owner may write them.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

/// Longest file, in bytes.
const MAX_SIZE: u64 = 4 << 20;

/// Reads a file that belongs to root or to the user of this process and that nobody else may write. The error says what to
/// do.
pub fn read_owned(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut file = std::fs::File::open(path).map_err(|e| format!("{shown} can't be read: {e}"))?;
    // Of the open file, so that it can't be exchanged between the look and the read.
    let found = file.metadata().map_err(|e| format!("{shown} can't be read: {e}"))?;
    if !found.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    let (own, owner, mode) = (geteuid().as_raw(), found.uid(), found.mode() & 0o777);
    if owner != 0 && owner != own {
        return Err(format!(
            "{shown} belongs to the user {owner}, who could change what this proxy does; give it to root or to the user of the proxy: chown {own} {shown}"
        ));
    }
    if mode & 0o022 != 0 {
        return Err(format!(
            "{shown} can be written by others (mode {mode:o}), who could change what this proxy does: chmod go-w {shown}"
        ));
    }
    let mut text = String::new();
    let read = file.by_ref().take(MAX_SIZE + 1).read_to_string(&mut text);
    read.map_err(|e| format!("{shown} can't be read: {e}"))?;
    if text.len() as u64 > MAX_SIZE {
        return Err(format!("{shown} is larger than 4 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let path = std::env::temp_dir().join(format!("mcp-auth-proxy-owned-{}", std::process::id()));
        std::fs::write(&path, "text").unwrap();
        for (mode, is_good) in
            [(0o600, true), (0o644, true), (0o444, true), (0o664, false), (0o646, false), (0o622, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = read_owned(&path);
            assert_eq!(read.is_ok(), is_good, "{mode:o}: {read:?}");
            assert!(is_good || read.unwrap_err().contains("chmod go-w"));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read_owned(&path).unwrap_err().contains("can't be read"));
        assert!(read_owned(&std::env::temp_dir()).unwrap_err().contains("not a file"));
    }
}
