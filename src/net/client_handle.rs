//! The client that a request belongs to, for everybody who works on that request.

use crate::lock::Unpoisoned;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::client_connection::ClientConnection;
use super::shutdown::Shutdown;
use super::write_buffer::WriteBuffer;

/// A request's client: its connection, what is on its way there, and the word that the process is about to end.
#[derive(Clone)]
pub struct ClientHandle(Arc<Inner>);

struct Inner {
    connection: Arc<ClientConnection>,
    shutdown: Shutdown,
    write_buffer: Mutex<WriteBuffer>,
    /// How long the client may leave bytes unread.
    write_timeout: Duration,
}

impl ClientHandle {
    /// The client at the other end of `connection`, which may leave nothing unread for longer than `write_timeout`.
    pub fn new(connection: Arc<ClientConnection>, shutdown: Shutdown, write_timeout: Duration) -> ClientHandle {
        ClientHandle(Arc::new(Inner { connection, shutdown, write_buffer: Mutex::default(), write_timeout }))
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<ClientConnection> {
        &self.0.connection
    }

    /// Has `range` of `buffer` sent, at the latest when [`ClientHandle::flush`] is called; gives a buffer back for the next
    /// piece, perhaps another one.
    pub fn put(&self, buffer: Vec<u8>, range: Range<usize>) -> io::Result<Vec<u8>> {
        let mut pending = self.write_buffer();
        let (buffer, is_full) = pending.put(buffer, range);
        if is_full {
            pending.flush(&self.0.connection, self.0.write_timeout)?;
        }
        Ok(buffer)
    }

    /// Sends what is on its way.
    pub fn flush(&self) -> io::Result<()> {
        self.write_buffer().flush(&self.0.connection, self.0.write_timeout)
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }

    fn write_buffer(&self) -> MutexGuard<'_, WriteBuffer> {
        self.0.write_buffer.lock().unpoisoned()
    }
}

impl fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientHandle({:?})", self.0.connection.as_fd())
    }
}
