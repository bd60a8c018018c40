//! Idle connections that are kept for further requests.

use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::http::h1::input::{Input, Source};
use crate::lock::Unpoisoned;
use crate::net::cancellation::Cancellation;
use crate::net::transport::Transport;

/// How long an idle connection is kept. Node.js closes idle connections after five seconds, and a request sent at that
/// moment would be lost.
const MAX_IDLE_TIME: Duration = Duration::from_secs(4);
/// Most idle connections that are kept: as many as there are requests in flight by default, because each closed
/// connection costs another handshake.
const MAX_IDLE: usize = 256;

pub(super) type Connection = Input<Transport>;

impl Source for Transport {
    fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        Transport::read(self, buffer)
    }
}

/// The idle connections to one server, each with the time since when it is idle.
#[derive(Default)]
pub(super) struct IdleConnections(Mutex<Vec<(Instant, Connection)>>);

impl IdleConnections {
    /// Closes connections that have been idle for [`MAX_IDLE_TIME`].
    pub(super) fn tidy(&self) {
        let old = {
            let mut idle = self.idle();
            let fresh = idle.iter().position(|(at, _)| at.elapsed() < MAX_IDLE_TIME).unwrap_or(idle.len());
            idle.drain(..fresh).collect::<Vec<_>>()
        };
        drop(old);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, Connection)>> {
        self.0.lock().unpoisoned()
    }

    /// Takes the connection that was used last, if it is still usable. If its idle time is over, closes all others as
    /// well, since they have been idle for longer.
    pub(super) fn take(&self) -> Option<Connection> {
        loop {
            let (at, mut connection) = self.idle().pop()?;
            if at.elapsed() >= MAX_IDLE_TIME {
                let old = std::mem::take(&mut *self.idle());
                drop(old);
                return None;
            }
            if connection.source_mut().is_open() {
                return Some(connection);
            }
        }
    }

    pub(super) fn put(&self, mut connection: Connection) {
        // Releases the handle of the last client.
        connection.source_mut().set_cancellation(Cancellation::none());
        let mut idle = self.idle();
        let full = (idle.len() >= MAX_IDLE).then(|| idle.remove(0));
        idle.push((Instant::now(), connection));
        drop(idle);
        drop(full);
    }
}
