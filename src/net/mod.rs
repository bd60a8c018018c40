//! The network around the program: who the client behind reverse proxies is, how often an address may ask, how names
//! are resolved, and how a wait for one socket is ended by another.

pub mod buckets;
pub mod interrupt;
pub mod resolver;
pub mod trusted;

use std::net::TcpStream;
use std::time::Duration;

use rustix::net::sockopt;

/// Has the system ask a silent peer whether it is still there: a laptop that fell asleep says no goodbye, and a stream
/// that nobody writes to would be held for it for ever. Gone after some two minutes.
pub fn keep_alive(socket: &TcpStream) {
    let idle = Duration::from_secs(60);
    let settings = [
        sockopt::set_socket_keepalive(socket, true),
        sockopt::set_tcp_keepidle(socket, idle),
        sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15)),
        sockopt::set_tcp_keepcnt(socket, 4),
    ];
    if let Some(error) = settings.into_iter().find_map(Result::err) {
        log::debug!(error:% = error; "TCP keep-alive could not be set");
    }
}
