//! The system user that child processes run as.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid, chown};

use crate::tokens::random_name;

/// A user of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// Name, where it has one.
    pub name: Option<String>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Home directory, where it has one.
    pub home: Option<PathBuf>,
}

impl RunAs {
    /// The default user for children when the proxy runs as root and the system has this user.
    pub const USUAL: &str = "mcp-server";

    /// Reads `name`, `uid` or `uid:gid`; `passwd` is the content of `/etc/passwd` (passwd(5)).
    pub fn parse(text: &str, passwd: &str) -> Result<RunAs, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
        let number = user.parse::<u32>().ok();
        let entry = passwd.lines().filter_map(RunAs::entry).find(|e| match number {
            Some(uid) => e.uid == uid,
            None => e.name.as_deref() == Some(user),
        });
        let gid = group.map(|g| g.parse().map_err(|_| format!("the group '{g}' is not a number"))).transpose()?;
        let found = match (entry, number, gid) {
            (Some(entry), _, gid) => RunAs { gid: gid.unwrap_or(entry.gid), ..entry },
            (None, Some(uid), Some(gid)) => RunAs { name: None, uid, gid, home: None },
            (None, Some(_), None) => {
                return Err(format!("no user has the id {user}; give a group id too, as in {user}:{user}"));
            }
            (None, None, _) => {
                return Err(format!("there is no user '{user}'; create it, or give numeric ids, as in 1000:1000"));
            }
        };
        if found.uid == u32::MAX || found.gid == u32::MAX {
            return Err(format!("{} is no id of a user or a group", u32::MAX));
        }
        if found.uid == 0 {
            return Err("the user must not be root".into());
        }
        Ok(found)
    }

    /// Creates a home directory below `parent` for a user that has none, because programs such as npx store what they
    /// run there. Only the user can access it. Reuses the directory of an earlier start. Must be called while the
    /// process has root's rights.
    pub fn make_home(&mut self, parent: &Path) -> io::Result<()> {
        if self.home.is_some() {
            return Ok(());
        }
        let usual = parent.join(format!("mcp-auth-proxy-home-{}", self.uid));
        // Another user may have created something with that name.
        let home = if self.owns(&usual) {
            usual
        } else {
            self.make_private(&usual)
                .or_else(|_| self.make_private(&parent.join(format!("mcp-auth-proxy-home-{}", random_name()))))?
        };
        self.home = Some(home);
        Ok(())
    }

    fn make_private(&self, path: &Path) -> io::Result<PathBuf> {
        DirBuilder::new().mode(0o700).create(path)?;
        chown(path, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        Ok(path.into())
    }

    /// Is `path` a directory that belongs to the user and that nobody else can access? A symbolic link does not count.
    fn owns(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|found| found.is_dir() && found.uid() == self.uid && found.mode() & 0o077 == 0)
    }

    fn entry(line: &str) -> Option<RunAs> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_string();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).filter(|home| !home.is_empty()).map(PathBuf::from);
        Some(RunAs { name: Some(name), uid, gid, home })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nmcp:x:990:991:MCP,,,:/home/mcp:/bin/false\nbare:x:7:8:::\n";

    #[test]
    fn users_are_found_by_name_and_by_id() {
        let mcp = RunAs { name: Some("mcp".into()), uid: 990, gid: 991, home: Some("/home/mcp".into()) };
        for text in ["mcp", "990", "990:991"] {
            assert_eq!(RunAs::parse(text, PASSWD), Ok(mcp.clone()), "{text}");
        }
        assert_eq!(RunAs::parse("mcp:5", PASSWD), Ok(RunAs { gid: 5, ..mcp }));
        assert_eq!(RunAs::parse("bare", PASSWD).unwrap().home, None);
        assert_eq!(RunAs::parse("1:2", PASSWD), Ok(RunAs { name: None, uid: 1, gid: 2, home: None }));
        for text in ["", "nobody", "1", "1:x", "root", "0", "0:0", "mcp:staff"] {
            assert!(RunAs::parse(text, PASSWD).is_err(), "{text}");
        }
    }

    #[test]
    fn a_home_is_the_users_alone_and_serves_again() {
        let parent = std::env::temp_dir().join(format!("homes-{}", random_name()));
        fs::create_dir(&parent).unwrap();
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let user = RunAs { name: None, uid, gid, home: None };
        let made = |user: &RunAs| {
            let mut user = user.clone();
            user.make_home(&parent).unwrap();
            user.home.unwrap()
        };
        let first = made(&user);
        let found = fs::metadata(&first).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (uid, gid, 0o700));
        assert_eq!(made(&user), first);
        // A directory that others can access, or a symbolic link, is not used: another user may have created it.
        fs::set_permissions(&first, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_ne!(made(&user), first);
        fs::remove_dir(&first).unwrap();
        std::os::unix::fs::symlink("/tmp", &first).unwrap();
        assert_ne!(made(&user), first);
        fs::remove_dir_all(&parent).unwrap();
    }
}
