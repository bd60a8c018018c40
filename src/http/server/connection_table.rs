//! The open connections: how many there may be, which one is closed to make room for another, and their deadlines.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use rustix::event::epoll::EventData;

use super::connection::Connection;
use super::handler::Limits;
use super::wait::{Wait, WaitFor};

/// Most idle connections that are checked to find one that can be closed to make room.
const LOOKED_AT: usize = 8;
/// The connections, and the limits on their number.
#[derive(Default)]
pub(super) struct ConnectionTable {
    most: usize,
    most_per_address: usize,
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<u32>,
    /// Waiting connections by deadline: `idle` ones wait for a request and may be closed at any time; `begun` are the
    /// others.
    pub(super) idle: BTreeSet<(Instant, u32)>,
    pub(super) begun: BTreeSet<(Instant, u32)>,
    /// The idle connections by the start of their wait. Their deadlines do not give this order, because timeouts
    /// differ.
    pub(super) idle_since: BTreeSet<(Instant, u32)>,
    pub(super) addresses: HashMap<IpAddr, Vec<u32>>,
    pub(super) open: usize,
    /// Distinguishes the current connection of a slot from earlier ones.
    pub(super) generation: u32,
    pub(super) next_look: Option<Instant>,
    pub(super) is_shutting_down: bool,
    pub(super) ended: bool,
}

pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) group: Option<IpAddr>,
    /// `None` while a worker has it.
    pub(super) waiting: Option<Waiting>,
    /// The event came while a worker held the connection, after it was re-armed and before it was put back.
    pub(super) was_called: bool,
}

pub(super) struct Waiting {
    pub(super) connection: Box<Connection>,
    pub(super) wait: Wait,
    pub(super) since: Instant,
}

/// Identifies a connection in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Key {
    pub(super) fn data(self) -> EventData {
        EventData::new_u64(u64::from(self.generation) << 32 | u64::from(self.slot))
    }
}

/// The limit that leaves no room for another connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// On connections from one address.
    OfAddress,
    /// On all connections.
    OfAll,
}

impl ConnectionTable {
    /// Empty.
    pub(super) fn new(limits: &Limits) -> ConnectionTable {
        let (most, most_per_address) = (limits.connections, limits.connections_per_address);
        ConnectionTable { most, most_per_address, ..ConnectionTable::default() }
    }

    /// Makes room for one more connection, of the address `group` where that counts; returns the one that has to be closed
    /// for it. The one that has been idle the longest goes first, then the one that has begun a request and has the
    /// nearest deadline. An idle connection whose next request has just arrived is spared, as far as a few are looked at. A
    /// connection that a worker holds is never closed; if there is no other, there is no room.
    pub(super) fn make_room(&mut self, group: Option<IpAddr>) -> Result<Option<Box<Connection>>, Limit> {
        let mut evicted = None;
        if let Some(slots) = group.and_then(|g| self.addresses.get(&g))
            && slots.len() >= self.most_per_address
        {
            let first = slots.iter().filter_map(|slot| self.rank(*slot)).min();
            let (.., slot) = first.ok_or(Limit::OfAddress)?;
            evicted = self.remove(slot);
        }
        if self.open >= self.most {
            let slot = self.who_makes_room().ok_or(Limit::OfAll)?;
            evicted = self.remove(slot);
        }
        Ok(evicted)
    }

    pub(super) fn insert(&mut self, group: Option<IpAddr>) -> Key {
        self.generation = self.generation.wrapping_add(1) & (u32::MAX >> 1);
        let new = Slot { generation: self.generation, group, waiting: None, was_called: false };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = new;
                slot
            }
            None => {
                self.slots.push(new);
                self.slots.len() as u32 - 1
            }
        };
        if let Some(group) = group {
            self.addresses.entry(group).or_default().push(slot);
        }
        self.open += 1;
        Key { slot, generation: self.generation }
    }

    /// For how long a connection may go on waiting: when the server shuts down, not for a request, unless it is new.
    pub(super) fn as_it_shuts_down(&self, connection: &Connection, wait: Wait) -> Option<Wait> {
        if !self.is_shutting_down || wait.for_what != WaitFor::Request {
            return Some(wait);
        }
        let until = connection.may_begin_until().filter(|until| *until > Instant::now())?;
        Some(Wait { deadline: wait.deadline.min(until), ..wait })
    }

    /// Frees a slot. Returns its connection, or `None` if a worker has it.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Connection>> {
        let waiting = self.unpark(slot);
        let Slot { generation, group, .. } = &mut self.slots[slot as usize];
        // So late events of the old connection are not delivered to the next one.
        *generation = u32::MAX;
        if let Some(group) = group.take()
            && let Some(slots) = self.addresses.get_mut(&group)
        {
            slots.retain(|s| *s != slot);
            if slots.is_empty() {
                self.addresses.remove(&group);
            }
        }
        self.open -= 1;
        self.free.push(slot);
        if self.open == 0 {
            // Gives back the memory that many connections needed.
            (self.slots, self.free, self.addresses) = Default::default();
        }
        waiting
    }

    /// Takes out the connection whose event came. If a thread holds it, notes the event instead.
    pub(super) fn answer(&mut self, key: Key) -> Option<Box<Connection>> {
        let slot = self.slots.get_mut(key.slot as usize).filter(|slot| slot.generation == key.generation)?;
        slot.was_called = slot.waiting.is_none();
        self.unpark(key.slot)
    }

    pub(super) fn unpark(&mut self, slot: u32) -> Option<Box<Connection>> {
        let Waiting { connection, wait, since } = self.slots[slot as usize].waiting.take()?;
        self.of(wait.for_what).remove(&(wait.deadline, slot));
        if wait.for_what == WaitFor::Request {
            self.idle_since.remove(&(since, slot));
        }
        Some(connection)
    }

    pub(super) fn of(&mut self, for_what: WaitFor) -> &mut BTreeSet<(Instant, u32)> {
        if for_what == WaitFor::Request { &mut self.idle } else { &mut self.begun }
    }

    /// Sort key: the connection with the lowest rank is closed first to make room. `None` while a thread holds it.
    fn rank(&self, slot: u32) -> Option<(bool, Instant, u32)> {
        let Waiting { wait, since, .. } = self.slots[slot as usize].waiting.as_ref()?;
        let is_idle = wait.for_what == WaitFor::Request;
        Some((!is_idle, if is_idle { *since } else { wait.deadline }, slot))
    }

    /// Which connection to close to make room: the one that has been idle the longest and whose next request has not
    /// arrived (of the first [`LOOKED_AT`]), else the begun one with the nearest deadline, else the longest idle one.
    fn who_makes_room(&self) -> Option<u32> {
        let quiet = |slot: &&(Instant, u32)| {
            self.slots[slot.1 as usize].waiting.as_ref().is_some_and(|w| !w.connection.has_bytes())
        };
        let first = || self.begun.first().or_else(|| self.idle_since.first());
        self.idle_since.iter().take(LOOKED_AT).find(quiet).or_else(first).map(|(_, slot)| *slot)
    }

    pub(super) fn overdue(&mut self, now: Instant) -> Option<(Key, Box<Connection>)> {
        let first = [self.idle.first(), self.begun.first()].into_iter().flatten().min().copied();
        let (_, slot) = first.filter(|(at, _)| *at <= now)?;
        let generation = self.slots[slot as usize].generation;
        Some((Key { slot, generation }, self.unpark(slot)?))
    }
}
