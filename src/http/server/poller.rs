//! Waits for the clients of all connections at once, with one epoll set. A waiting connection uses no thread. The limits,
//! and which connection is closed at one, are in [`connection_table`](super::connection_table).
//!
//! Each worker takes its next event from here directly, so that no request is handed from one thread to another. A
//! separate thread, the poller thread, handles deadlines; it sleeps until the next one.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::connection::Connection;
use super::connection_table::{ConnectionTable, Key, Limit, Waiting};
use super::handler::Limits;
use super::wait::{Wait, WaitFor};
use crate::lock::Unpoisoned;
use crate::net::address::address_group;
use crate::wake::Waker;

/// How long the poller thread sleeps if there is no deadline.
const LONG: Duration = Duration::from_secs(3_600);
/// epoll event data that means the end of the server ([`END`]), and that of the first listening socket ([`LISTENER`];
/// the others count down from there). Connections use their keys, which are smaller.
const END: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// The waiting connections, and the limits on the number of all connections.
pub(super) struct Poller {
    epoll: OwnedFd,
    end: Waker,
    table: Mutex<ConnectionTable>,
    /// Wakes the poller thread: there is an earlier deadline than the one it sleeps for, or the server has ended.
    sooner: Condvar,
    all_gone: Condvar,
}

/// What a worker should do next.
pub(super) enum Event {
    /// Go on with a connection.
    Ready(Key, Box<Connection>),
    /// Accept connections on the listening socket with this index, then call [`Poller::listen`] again.
    Arrivals(usize),
    /// Nothing came in time.
    Timeout,
    /// Stop.
    End,
}

impl Poller {
    pub(super) fn new(limits: &Limits) -> io::Result<Poller> {
        let poller = Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            end: Waker::new()?,
            table: Mutex::new(ConnectionTable::new(limits)),
            sooner: Condvar::new(),
            all_gone: Condvar::new(),
        };
        epoll::add(&poller.epoll, &poller.end, EventData::new_u64(END), EventFlags::IN)?;
        Ok(poller)
    }

    /// Connections that wait for a request, that wait for something else of the client, and that a worker has.
    pub(super) fn connections(&self) -> [usize; 3] {
        let table = self.table.lock().unpoisoned();
        let (idle, begun) = (table.idle.len(), table.begun.len());
        [idle, begun, table.open.saturating_sub(idle + begun)]
    }

    /// Adds the listening socket with the index `listener_index`. It reports nothing until [`Poller::listen`] is
    /// called.
    pub(super) fn add_listener(&self, listener: &TcpListener, listener_index: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, listener, listener_data(listener_index), EventFlags::empty())?)
    }

    /// Makes the listening socket report its next event, once (`EPOLLONESHOT`).
    pub(super) fn listen(&self, listener: &TcpListener, listener_index: usize) {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        if let Err(e) = epoll::modify(&self.epoll, listener, listener_data(listener_index), flags) {
            log::error!(error:% = e; "connections can't be accepted any more; restart the proxy");
        }
    }

    /// Removes the listening socket from the epoll set.
    pub(super) fn remove_listener(&self, listener: &TcpListener) {
        let _ = epoll::delete(&self.epoll, listener);
    }

    /// Waits up to `patience` for the next event.
    pub(super) fn next(&self, patience: Duration) -> Event {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }];
        loop {
            match epoll::wait(&self.epoll, &mut events, Some(&crate::net::poll::timespec(patience))) {
                Ok(0) => return Event::Timeout,
                Ok(_) => {}
                Err(_) => continue,
            }
            let data = events[0].data.u64();
            match data {
                END => return Event::End,
                _ if data > u64::MAX >> 1 => return Event::Arrivals((LISTENER - data) as usize),
                _ => {
                    let key = Key { slot: data as u32, generation: (data >> 32) as u32 };
                    // If a worker or the poller thread holds the connection, `answer` notes the event, and `put_back`
                    // will find it.
                    if let Some(connection) = self.table().answer(key) {
                        return Event::Ready(key, connection);
                    }
                }
            }
        }
    }

    /// Adds a new connection. At a limit, [`ConnectionTable::make_room`] chooses another one that is closed, or the new one
    /// is.
    pub(super) fn admit(&self, connection: Connection, wait: Wait, peer: IpAddr, exempt: bool) {
        let group = (!exempt).then(|| address_group(peer));
        let mut table = self.table();
        let Some(wait) = table.as_it_shuts_down(&connection, wait) else { return };
        let evicted = match table.make_room(group) {
            Ok(evicted) => evicted,
            Err(Limit::OfAddress) => {
                return log::debug!(address:% = peer; "a connection was closed at once: there are too many from its address (--max-connections-per-address, MAX_CONNECTIONS_PER_ADDRESS)");
            }
            Err(Limit::OfAll) => {
                return log::debug!(address:% = peer; "a connection was closed at once: there are too many (--max-connections, MAX_CONNECTIONS)");
            }
        };
        let key = table.insert(group);
        let connection = Box::new(connection);
        let flags = flags(wait.for_what);
        if let Err(e) = epoll::add(&self.epoll, connection.socket(), key.data(), flags) {
            log::error!(error:% = e; "a connection was closed: it could not be registered with epoll");
            table.remove(key.slot);
            return;
        }
        // A worker that gets its event before it is stored has to wait for the lock of the table.
        self.store(&mut table, key, connection, wait);
        drop(table);
        // Closes the evicted connection after the lock is released, because closing takes a moment.
        drop(evicted);
    }

    /// Takes back a connection that waits for its client. Returns it if its event has come in the meantime.
    #[must_use]
    pub(super) fn park(&self, key: Key, connection: Box<Connection>, wait: Wait) -> Option<Box<Connection>> {
        if let Err(e) = self.arm(key, &connection, wait.for_what) {
            log::error!(error:% = e; "a connection was closed: it could not be registered with epoll");
            self.forget(key, connection);
            return None;
        }
        self.put_back(key, connection, wait)
    }

    /// Re-arms the event of the connection in epoll, before the connection is back in the table. Only the thread that
    /// holds the connection may do this: after `put_back` another thread may hold it, and re-arming would overwrite the
    /// event that this thread waits for.
    fn arm(&self, key: Key, connection: &Connection, for_what: WaitFor) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, &**connection.socket(), key.data(), flags(for_what))?)
    }

    fn put_back(&self, key: Key, connection: Box<Connection>, wait: Wait) -> Option<Box<Connection>> {
        let mut table = self.table();
        if std::mem::take(&mut table.slots[key.slot as usize].was_called) {
            return Some(connection);
        }
        let Some(wait) = table.as_it_shuts_down(&connection, wait) else {
            self.close(table, key, connection);
            return None;
        };
        self.store(&mut table, key, connection, wait);
        None
    }

    /// Removes a connection that has ended.
    pub(super) fn forget(&self, key: Key, connection: Box<Connection>) {
        self.close(self.table(), key, connection);
    }

    fn close(&self, mut table: MutexGuard<'_, ConnectionTable>, key: Key, connection: Box<Connection>) {
        log::trace!(address:% = connection.peer(); "a connection has ended");
        table.remove(key.slot);
        if table.open == 0 {
            self.all_gone.notify_all();
        }
        drop(table);
        drop(connection);
    }

    fn store(&self, table: &mut ConnectionTable, key: Key, connection: Box<Connection>, wait: Wait) {
        let since = Instant::now();
        table.of(wait.for_what).insert((wait.deadline, key.slot));
        if wait.for_what == WaitFor::Request {
            table.idle_since.insert((since, key.slot));
        }
        table.slots[key.slot as usize].waiting = Some(Waiting { connection, wait, since });
        if table.next_look.is_some_and(|look| wait.deadline < look) {
            self.sooner.notify_all();
        }
    }

    /// Calls `time_is_up` with each connection whose deadline has passed, until [`Poller::end`].
    pub(super) fn look_after_deadlines(&self, mut time_is_up: impl FnMut(Key, Box<Connection>)) {
        let mut table = self.table();
        while !table.ended {
            let now = Instant::now();
            if let Some((key, connection)) = table.overdue(now) {
                drop(table);
                time_is_up(key, connection);
                table = self.table();
                continue;
            }
            let next = [table.idle.first(), table.begun.first()].into_iter().flatten().map(|(at, _)| *at).min();
            let next = next.unwrap_or(now + LONG);
            table.next_look = Some(next);
            table = self.sooner.wait_timeout(table, next - now).unpoisoned().0;
            table.next_look = None;
        }
    }

    /// From now on, closes connections that wait for a request, except those whose request has already arrived, and new
    /// ones, which may send their first for a moment.
    pub(super) fn shut_down(&self) {
        let mut table = self.table();
        table.is_shutting_down = true;
        let idle: Vec<u32> = table.idle.iter().map(|(_, slot)| *slot).collect();
        for slot in idle {
            let Some(Waiting { connection, wait, .. }) = &table.slots[slot as usize].waiting else { continue };
            if connection.has_bytes() {
                continue;
            }
            let (generation, wait) = (table.slots[slot as usize].generation, table.as_it_shuts_down(connection, *wait));
            match wait {
                Some(wait) => {
                    if let Some(connection) = table.unpark(slot) {
                        self.store(&mut table, Key { slot, generation }, connection, wait);
                    }
                }
                None => drop(table.remove(slot)),
            }
        }
    }

    /// Waits until all connections are closed, but not longer than `deadline`. Returns how many are left.
    pub(super) fn wait_until_empty(&self, deadline: Instant) -> usize {
        let mut table = self.table();
        while table.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            table = self.all_gone.wait_timeout(table, left).unpoisoned().0;
        }
        table.open
    }

    /// Makes the workers and the poller thread exit.
    pub(super) fn end(&self) {
        self.table().ended = true;
        self.sooner.notify_all();
        self.end.wake();
    }

    fn table(&self) -> MutexGuard<'_, ConnectionTable> {
        self.table.lock().unpoisoned()
    }
}

fn listener_data(listener_index: usize) -> EventData {
    EventData::new_u64(LISTENER - listener_index as u64)
}

fn flags(for_what: WaitFor) -> EventFlags {
    EventFlags::ONESHOT
        | match for_what {
            WaitFor::Request | WaitFor::Readable => EventFlags::IN,
            WaitFor::Writable => EventFlags::OUT,
            // A socket is usually writable at once, so the event comes as soon as the others have had their turn.
            WaitFor::Turn => EventFlags::IN | EventFlags::OUT,
        }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::client_connection::ClientConnection;

    const PATIENCE: Duration = Duration::from_millis(20);

    fn limits() -> Limits {
        crate::app::config::Config::build(crate::flags::Settings::default()).unwrap().http
    }

    /// A poller with one connection, which the test holds like a worker, and the client's end of that connection.
    fn poller() -> (Poller, Key, Box<Connection>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, peer) = listener.accept().unwrap();
        let (poller, limits) = (Poller::new(&limits()).unwrap(), limits());
        let (connection, wait) = Connection::new(ClientConnection::plain(socket), peer.ip(), 0, &limits);
        poller.admit(connection, wait, peer.ip(), false);
        client.write_all(b"G").unwrap();
        let Event::Ready(key, connection) = poller.next(Duration::from_secs(10)) else { panic!("no event") };
        (poller, key, connection, client)
    }

    fn wait(for_what: WaitFor) -> Wait {
        Wait { for_what, deadline: Instant::now() + Duration::from_secs(60) }
    }

    #[test]
    fn an_event_before_its_connection_is_put_back_is_not_lost() {
        let (poller, key, connection, _client) = poller();
        poller.arm(key, &connection, WaitFor::Readable).unwrap();
        // Another worker gets the event, but not the connection.
        assert!(matches!(poller.next(PATIENCE), Event::Timeout));
        let connection = poller.put_back(key, connection, wait(WaitFor::Readable)).expect("it is called at once");
        // The noted event is delivered only once.
        poller.arm(key, &connection, WaitFor::Readable).unwrap();
        assert!(poller.put_back(key, connection, wait(WaitFor::Readable)).is_none());
        assert!(matches!(poller.next(PATIENCE), Event::Ready(..)));
    }

    #[test]
    fn whoever_comes_late_changes_nothing_of_what_another_waits_for() {
        let (poller, key, connection, _client) = poller();
        // Its deadline passes as soon as it is put back. The poller thread takes it and then makes it wait for room to
        // write.
        let overdue = Wait { for_what: WaitFor::Writable, deadline: Instant::now() };
        assert!(poller.park(key, connection, overdue).is_none());
        let (key, connection) = poller.table().overdue(Instant::now()).unwrap();
        assert!(poller.park(key, connection, wait(WaitFor::Writable)).is_none());
        assert!(matches!(poller.next(PATIENCE), Event::Ready(..)), "there is room at once");
    }
}
