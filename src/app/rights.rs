//! What the servers need root's rights for. Those that no server needs are given up at the start, and a reload can't get
//! them back.

use rustix::process::geteuid;

use super::config::servers::Servers;

/// The rights that servers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    /// Starting and ending processes, which may run as another user.
    pub(super) has_children: bool,
    /// Running a server as root, with all of its rights.
    pub(super) hands_on: bool,
    /// Writing to Unix sockets of other users.
    pub(super) has_socket: bool,
}

impl Rights {
    pub(super) fn of(servers: &Servers) -> Rights {
        Rights {
            has_children: servers.stdio().next().is_some(),
            hands_on: servers.stdio().any(|stdio| stdio.user.is_none()),
            has_socket: servers.http().any(|http| http.url.socket.is_some()),
        }
    }

    /// Are these enough for `wanted`? The error says which one is missing.
    pub(super) fn check(self, wanted: &Rights) -> Result<(), String> {
        // Without root's rights nothing was given up, and whoever hands all of them on keeps them all.
        if !geteuid().is_root() || self.hands_on {
            return Ok(());
        }
        let missing = [
            (wanted.hands_on, "running a server as root"),
            (wanted.has_children && !self.has_children, "running a server as another user"),
            (wanted.has_socket && !self.has_socket, "using the Unix socket of another user"),
        ];
        match missing.into_iter().find(|(is_missing, _)| *is_missing) {
            None => Ok(()),
            Some((_, what)) => Err(format!(
                "the servers file has a server that needs a right which was given up at the start: {what}; restart the proxy to publish it"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_was_given_up_does_not_come_back() {
        if !geteuid().is_root() {
            return assert!(NONE.check(&ALL).is_ok(), "nobody but root gives up anything");
        }
        const CHILDREN: Rights = Rights { has_children: true, hands_on: false, has_socket: false };
        assert!(NONE.check(&NONE).is_ok() && CHILDREN.check(&NONE).is_ok() && CHILDREN.check(&CHILDREN).is_ok());
        assert!(NONE.check(&CHILDREN).unwrap_err().contains("another user"));
        assert!(CHILDREN.check(&ALL).unwrap_err().contains("as root"));
        assert!(CHILDREN.check(&Rights { has_socket: true, ..CHILDREN }).unwrap_err().contains("socket"));
        assert!(ALL.check(&ALL).is_ok() && Rights { has_socket: false, ..ALL }.check(&ALL).is_ok());
    }

    const NONE: Rights = Rights { has_children: false, hands_on: false, has_socket: false };
    const ALL: Rights = Rights { has_children: true, hands_on: true, has_socket: true };
}
