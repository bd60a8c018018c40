//! Connections that are kept for further requests.

use crate::lock::Unpoisoned;
use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::http::h1::input::{Input, Source};
use crate::net::cancellation::Cancellation;
use crate::net::transport::Transport;

/// Node ends an idle connection after five seconds; a request that races with that end would be lost.
const MAX_IDLE_TIME: Duration = Duration::from_secs(4);
/// Idle connections kept: as many as there are requests in flight, since each that is closed costs another handshake.
const MAX_IDLE: usize = 256;

pub(super) type Connection = Input<Transport>;

impl Source for Transport {
    fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        Transport::read(self, buffer)
    }
}

/// The idle connections to one server, and since when.
#[derive(Default)]
pub(super) struct IdleConnections(Mutex<Vec<(Instant, Connection)>>);

impl IdleConnections {
    /// Closes connections that nobody has used for a while.
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

    /// The connection that was used last, if it is still good; older ones are older.
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
        // It holds on to no client while it waits for the next one.
        connection.source_mut().set_cancellation(Cancellation::none());
        let mut idle = self.idle();
        let full = (idle.len() >= MAX_IDLE).then(|| idle.remove(0));
        idle.push((Instant::now(), connection));
        drop(idle);
        drop(full);
    }
}
