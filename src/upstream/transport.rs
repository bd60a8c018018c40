//! TCP for ureq: sockets that never block by themselves, so that every wait can be called off ([`interrupt`]).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Error, Timeout};

use crate::net::interrupt;

/// Opens connections.
#[derive(Debug)]
pub(super) struct TcpConnector;

impl Connector for TcpConnector {
    type Out = Tcp;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Tcp>, Error> {
        let socket = connect(&details.addrs, duration(details.timeout))?;
        socket.set_nodelay(true)?;
        crate::net::keep_alive(&socket);
        socket.set_nonblocking(true)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Tcp { socket, buffers, plain: !details.needs_tls(), answered_early: false }))
    }
}

/// Tries each address; the time is shared among those that are left.
fn connect(addresses: &[SocketAddr], timeout: Option<Duration>) -> Result<TcpStream, Error> {
    let deadline = Instant::now() + timeout.unwrap_or(Duration::from_secs(30));
    let mut last = io::Error::from(io::ErrorKind::NotConnected);
    for (i, address) in addresses.iter().enumerate() {
        let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - i) as u32;
        if share.is_zero() {
            return Err(Error::Timeout(Timeout::Connect));
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    match last.kind() {
        io::ErrorKind::TimedOut => Err(Error::Timeout(Timeout::Connect)),
        _ => Err(last.into()),
    }
}

fn duration(timeout: NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|d| *d)
}

/// One connection.
#[derive(Debug)]
pub(super) struct Tcp {
    socket: TcpStream,
    buffers: LazyBuffers,
    /// Bytes from the other side are an answer, and not part of a TLS handshake.
    plain: bool,
    /// The other side has answered, or closed, before it had the whole request: what is left of it is not sent, and the
    /// connection carries no other.
    answered_early: bool,
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let Tcp { socket, buffers, plain, answered_early } = self;
        let mut output = &buffers.output()[..amount];
        let mut waited = false;
        while !output.is_empty() && !*answered_early {
            match (&*socket).write(output) {
                Ok(n) => {
                    output = &output[n..];
                    waited = false;
                }
                // The answer may have come before the end: reading tells.
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    *answered_early = true
                }
                // What ended the wait was not room to write, so it was an answer.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && waited && *plain => *answered_early = true,
                Err(e) => {
                    let events = if *plain { PollFlags::OUT | PollFlags::IN } else { PollFlags::OUT };
                    wait(socket, e, events, timeout)?;
                    waited = true;
                }
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        loop {
            match (&self.socket).read(self.buffers.input_append_buf()) {
                Ok(n) => {
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(e) => wait(&self.socket, e, PollFlags::IN, timeout)?,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Bytes that nobody asked for are as bad as the end of the connection.
        !self.answered_early && matches!(self.socket.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Waits if that is what the error asks for.
fn wait(socket: &TcpStream, error: io::Error, events: PollFlags, timeout: NextTimeout) -> Result<(), Error> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            interrupt::wait(socket.as_fd(), events, duration(timeout)).map_err(|e| match e.kind() {
                io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
                _ => e.into(),
            })
        }
        _ => Err(error.into()),
    }
}
