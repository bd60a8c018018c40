//! The queue for password checks: one per core runs at a time.

use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::lock::Unpoisoned;

/// Lets one check per core run at a time. Others wait in one of two lanes, which are served in turn, so that strangers,
/// even many of them, delay a check of a known browser by only one check of theirs.
pub(super) struct Gate {
    cores: usize,
    /// How many checks may wait in each lane.
    queue: usize,
    state: Mutex<Lanes>,
    changed: Condvar,
}

#[derive(Default)]
struct Lanes {
    running: usize,
    next_ticket: u64,
    /// Tickets that wait: lane 0 for strangers, lane 1 for known browsers.
    waiting: [VecDeque<u64>; 2],
    /// The lane to serve next if both have waiting tickets.
    next: usize,
    /// Tickets that may run now; their threads have not woken up yet.
    called: HashSet<u64>,
    /// Known browsers with a check that waits or runs; each may have only one.
    browsers: HashSet<String>,
}

pub(super) struct Turn<'g> {
    gate: &'g Gate,
    browser: Option<String>,
}

impl Gate {
    pub(super) fn new(cores: usize, queue: usize) -> Gate {
        Gate { cores, queue, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits for a turn; `None` if the lane is full, or if this known browser already has a check that waits or runs.
    pub(super) fn enter(&self, browser: Option<&str>) -> Option<Turn<'_>> {
        let lane = usize::from(browser.is_some());
        let mut lanes = self.lanes();
        if browser.is_some_and(|b| lanes.browsers.contains(b)) {
            return None;
        }
        let is_free = lanes.running < self.cores && lanes.waiting.iter().all(VecDeque::is_empty);
        if !is_free && lanes.waiting[lane].len() >= self.queue {
            return None;
        }
        lanes.browsers.extend(browser.map(String::from));
        let turn = Turn { gate: self, browser: browser.map(String::from) };
        if is_free {
            lanes.running += 1;
            return Some(turn);
        }
        let ticket = lanes.next_ticket;
        lanes.next_ticket += 1;
        lanes.waiting[lane].push_back(ticket);
        let is_waiting = |lanes: &mut Lanes| !lanes.called.remove(&ticket);
        drop(self.changed.wait_while(lanes, is_waiting).unpoisoned());
        Some(turn)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.state.lock().unpoisoned()
    }
}

impl Lanes {
    /// Takes the next ticket from the lanes.
    fn call(&mut self) -> Option<u64> {
        let ticket = self.waiting[self.next].pop_front();
        let ticket = ticket.or_else(|| self.waiting[1 - self.next].pop_front())?;
        self.next = 1 - self.next;
        Some(ticket)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut lanes = self.gate.lanes();
        if let Some(browser) = &self.browser {
            lanes.browsers.remove(browser);
        }
        // Passes the core to the next ticket, if there is one.
        match lanes.call() {
            Some(ticket) => drop(lanes.called.insert(ticket)),
            None => lanes.running -= 1,
        }
        drop(lanes);
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_is_bounded_and_a_browser_has_one_check() {
        let gate = Gate::new(1, 0);
        let turn = gate.enter(None);
        assert!(turn.is_some() && gate.enter(None).is_none() && gate.enter(Some("laptop")).is_none());
        drop(turn);
        let turn = gate.enter(Some("laptop"));
        assert!(turn.is_some() && gate.enter(Some("laptop")).is_none());
        drop(turn);
        assert!(gate.enter(Some("laptop")).is_some());
    }

    #[test]
    fn strangers_hold_a_known_browser_up_for_one_check_of_theirs() {
        let gate = Gate::new(1, 8);
        let order = Mutex::new(Vec::new());
        let waiting = |n: usize| {
            while gate.lanes().waiting.iter().map(VecDeque::len).sum::<usize>() < n {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let first = gate.enter(None).unwrap();
            for n in 0..8 {
                let (gate, order) = (&gate, &order);
                scope.spawn(move || {
                    let _turn = gate.enter(None).unwrap();
                    order.lock().unwrap().push(format!("stranger {n}"));
                });
                waiting(n + 1);
            }
            assert!(gate.enter(None).is_none(), "their lane is full");
            for (n, name) in ["laptop", "phone"].into_iter().enumerate() {
                let (gate, order) = (&gate, &order);
                scope.spawn(move || {
                    let _turn = gate.enter(Some(name)).unwrap();
                    order.lock().unwrap().push(name.into());
                });
                waiting(9 + n);
            }
            assert!(gate.enter(Some("laptop")).is_none(), "one for each browser");
            drop(first);
        });
        let order = order.into_inner().unwrap();
        let place = |name: &str| order.iter().position(|o| o == name).unwrap();
        assert!(place("laptop") <= 1 && place("phone") <= 3 && order.len() == 10, "{order:?}");
        assert!(gate.lanes().browsers.is_empty() && gate.lanes().running == 0);
    }
}
