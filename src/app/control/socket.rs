//! The socket itself: where it is, and who may connect.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

/// Its name in the data directory.
const NAME: &str = "control.sock";

/// The path of the socket by way of the open directory, since the path of a directory may be too long for a socket's
/// address (108 bytes, unix(7)).
fn short_path(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))
}

/// Listens in the data directory. A socket that an earlier process has left is replaced: whoever has the store open is the
/// only proxy there.
pub(super) fn listen(data: &Path) -> io::Result<UnixListener> {
    let directory = File::open(data)?;
    let path = short_path(&directory);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The directory is closed to other users, so that nobody can connect before the mode is set.
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the proxy that uses the data directory.
pub(super) fn connect(data: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(short_path(&File::open(data)?))
}

/// May the process at the other end give orders? Only root and the user of this process.
pub(super) fn is_allowed(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid.is_root() || peer.uid == geteuid())
}
