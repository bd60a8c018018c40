//! A handle of the client that sent a request, shared by all code that works on the request.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::client_connection::ClientConnection;
use super::shutdown::Shutdown;
use super::write_buffer::WriteBuffer;
use crate::lock::Unpoisoned;

/// The client of a request: its connection, the bytes queued for it, and the shutdown signal of the process.
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
    /// A handle of the client of `connection`. Writing fails if the client leaves bytes unread for longer than
    /// `write_timeout`.
    pub fn new(connection: Arc<ClientConnection>, shutdown: Shutdown, write_timeout: Duration) -> ClientHandle {
        ClientHandle(Arc::new(Inner { connection, shutdown, write_buffer: Mutex::default(), write_timeout }))
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<ClientConnection> {
        &self.0.connection
    }

    /// Queues `range` of `buffer` for the client; it is sent at the latest by [`ClientHandle::flush`]. Returns a buffer
    /// for the next piece, possibly a different one.
    pub fn put(&self, buffer: Vec<u8>, range: Range<usize>) -> io::Result<Vec<u8>> {
        let mut pending = self.write_buffer();
        let (buffer, is_full) = pending.put(buffer, range);
        if is_full {
            pending.flush(&self.0.connection, self.0.write_timeout)?;
        }
        Ok(buffer)
    }

    /// Sends what is queued.
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
