//! What a worker does with one event: goes on with a connection, or accepts new ones.

use super::connection::Connection;
use super::connection_table::Key;
use super::lifecycle::Shared;
use super::poller::Event;
use super::wait::{Next, Wait, WaitFor};
use super::workers::{self, Outcome};

impl Shared {
    /// Takes one event from the poller and handles it. A leader calls this in a loop.
    pub(super) fn lead(&self) -> Outcome {
        match self.poller.next(workers::IDLE) {
            Event::Ready(key, mut connection) => {
                self.workers.is_busy();
                let services = self.services(connection.listener_index());
                let mut next = connection.go_on(true, &services);
                // Saves two system calls and a thread switch for each request of a quick client.
                while matches!(next, Next::Wait(Wait { for_what: WaitFor::Request, .. }))
                    && connection.is_brisk()
                    && self.workers.am_alone()
                {
                    next = match connection.await_request(&self.limits) {
                        Some(true) => connection.go_on(false, &services),
                        Some(false) => Next::Close,
                        None => break,
                    };
                }
                self.settle(key, connection, next);
                Outcome::Worked
            }
            Event::Arrivals(listener_index) => {
                self.workers.is_busy();
                self.accept(listener_index);
                Outcome::Worked
            }
            Event::Timeout => Outcome::Timeout,
            Event::End => Outcome::End,
        }
    }

    /// Puts a connection back among the waiting ones, or closes it, as `next` says.
    pub(super) fn settle(&self, key: Key, mut connection: Box<Connection>, mut next: Next) {
        while let Next::Wait(wait) = next {
            match self.poller.park(key, connection, wait) {
                None => return,
                // The event came before the connection was back in the table.
                Some(called) => connection = called,
            }
            next = connection.go_on(true, &self.services(connection.listener_index()));
        }
        self.poller.forget(key, connection);
    }
}
