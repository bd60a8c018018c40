//! Files that run commands, or say who may sign in: nobody but their owner may write or replace them.

use std::fs::{self, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{OFlags, StatVfsMountFlags, statvfs};
use rustix::process::geteuid;

/// Longest file, in bytes.
const MAX_SIZE: u64 = 4 << 20;
/// Most symbolic links on the way to a file.
const MAX_LINKS: usize = 40;

/// Reads a file that only root or the user of this process can write or replace: this is so for the file, for every
/// directory on the way to it, and for every symbolic link. The error says what to do.
pub fn read_owned(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let failed = |e: std::io::Error| format!("{shown} can't be read: {e}");
    let absolute = std::path::absolute(path).map_err(failed)?;
    let real = walk(&absolute, &mut 0)?;
    // A file of another process, whose content that process chooses.
    if real.starts_with("/proc") {
        return Err(format!("{shown} is not a file on a disk"));
    }
    // A pipe would never be ready; nothing on the way can be exchanged since it was looked at.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(&real).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    check(&real, &found)?;
    let mut text = String::new();
    file.by_ref().take(MAX_SIZE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(format!("{shown} is larger than 4 MiB"));
    }
    if text.contains('\0') {
        return Err(format!("{shown} is not a text"));
    }
    Ok(text)
}

/// Follows `path` from the root, checks each directory and each symbolic link, and returns the path without links.
fn walk(path: &Path, links: &mut usize) -> Result<PathBuf, String> {
    let mut real = PathBuf::from("/");
    let mut parts = path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)).peekable();
    while let Some(part) = parts.next() {
        if part == Component::ParentDir {
            real.pop();
            continue;
        }
        let next = real.join(part);
        let found = fs::symlink_metadata(&next).map_err(|e| format!("{} can't be read: {e}", next.display()))?;
        if found.is_symlink() {
            *links += 1;
            if *links > MAX_LINKS {
                return Err(format!("{} leads through too many symbolic links", path.display()));
            }
            check_owner(&next, &found)?;
            let target = fs::read_link(&next).map_err(|e| format!("{} can't be read: {e}", next.display()))?;
            let rest: PathBuf = parts.collect();
            return walk(&real.join(target).join(rest), links);
        }
        if parts.peek().is_some() {
            check(&next, &found)?;
        }
        real = next;
    }
    Ok(real)
}

fn check(path: &Path, found: &Metadata) -> Result<(), String> {
    check_owner(path, found)?;
    let (shown, mode) = (path.display(), found.mode() & 0o7777);
    // In a directory like /tmp nobody can replace what belongs to others, and on a read-only mount nobody at all can.
    let is_sealed = || {
        let is_sticky = mode & 0o1000 != 0;
        let is_read_only = || statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
        found.is_dir() && (is_sticky || is_read_only())
    };
    if mode & 0o022 != 0 && !is_sealed() {
        return Err(format!(
            "{shown} can be written by others (mode {mode:o}), who could change what this proxy does: chmod go-w {shown}"
        ));
    }
    Ok(())
}

fn check_owner(path: &Path, found: &Metadata) -> Result<(), String> {
    let (shown, own, owner) = (path.display(), geteuid().as_raw(), found.uid());
    if owner != 0 && owner != own {
        return Err(format!(
            "{shown} belongs to the user {owner}, who could change what this proxy does; give it to root or to the user of the proxy: chown {own} {shown}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_can_write_or_replace_is_refused() {
        let folder = std::env::temp_dir().join(format!("mcp-auth-proxy-owned-{}", std::process::id()));
        fs::create_dir_all(folder.join("in")).unwrap();
        let (path, inner) = (folder.join("in/file"), folder.join("in"));
        set(&folder, 0o755);
        fs::write(&path, "text").unwrap();
        for (mode, is_good) in
            [(0o600, true), (0o644, true), (0o444, true), (0o664, false), (0o646, false), (0o622, false)]
        {
            set(&path, mode);
            let read = read_owned(&path);
            assert_eq!(read.is_ok(), is_good, "{mode:o}: {read:?}");
            assert!(is_good || read.unwrap_err().contains("chmod go-w"));
        }
        set(&path, 0o600);
        for (mode, is_good) in [(0o777, false), (0o775, false), (0o1777, true), (0o755, true)] {
            for directory in [&inner, &folder] {
                set(directory, mode);
                assert_eq!(read_owned(&path).is_ok(), is_good, "{} {mode:o}", directory.display());
                assert_eq!(read_owned(&inner.join("../in/./file")).is_ok(), is_good);
                set(directory, 0o755);
            }
        }
        // A link is as good as the way that it leads.
        fs::create_dir(folder.join("open")).unwrap();
        fs::write(folder.join("open/file"), "text").unwrap();
        set(&folder.join("open/file"), 0o600);
        set(&folder.join("open"), 0o777);
        for (name, target, is_good) in
            [("good", "in/file", true), ("bad", "open/file", false), ("round", "round", false), ("on", "good", true)]
        {
            symlink(target, folder.join(name)).unwrap();
            assert_eq!(read_owned(&folder.join(name)).is_ok(), is_good, "{name}");
        }
        assert!(read_owned(Path::new("/proc/self/status")).is_err());
        assert!(std::process::Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap().success());
        set(&folder.join("pipe"), 0o600);
        assert!(read_owned(&folder.join("pipe")).unwrap_err().contains("not a file"));
        fs::write(&path, "a\0b").unwrap();
        assert!(read_owned(&path).unwrap_err().contains("not a text"));
        assert!(read_owned(&folder.join("nothing")).unwrap_err().contains("can't be read"));
        assert!(read_owned(&inner).unwrap_err().contains("not a file"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
