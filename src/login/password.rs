//! Password checks. One bcrypt check takes a good part of a second on a small board, so at most one check per core runs
//! at a time. Further checks wait in two short queues, one for known browsers and one for all others, which are served
//! in turn.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::clock::Timestamp;
use crate::encoding::base64url;
use crate::identity::{CredentialId, User, UserId};
use crate::lock::Unpoisoned;
use crate::store::rows::KnownPassword;
use crate::store::{State, StoreError};
use crate::tokens::{Keys, Kind, equal};

/// bcrypt silently ignores all bytes after this length, so longer passwords are refused.
pub const MAX_PASSWORD_BYTES: usize = 72;

/// Expiry time of rows that never expire.
const NEVER: Timestamp = Timestamp::MAX;

/// A way to sign in by password.
#[derive(Clone)]
pub enum Password {
    /// As typed.
    Plain(String),
    /// A bcrypt hash.
    Bcrypt(String),
}

/// The configured passwords.
pub struct Passwords {
    known: Vec<Known>,
    /// Credentials that are configured now. Sessions and grants of other password credentials are no longer valid.
    current: Vec<CredentialId>,
    gate: Gate,
}

struct Known {
    check: Check,
    id: CredentialId,
}

enum Check {
    /// MAC of the password under a random key of this process: comparing MACs does not reveal the password's length.
    Plain {
        key: [u8; 32],
        mac: [u8; 32],
    },
    Bcrypt(String),
}

/// Result of a password check.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The password is right; the user to sign in.
    Right(User),
    /// Wrong.
    Wrong,
    /// The queue is full, or this browser already has a check that waits or runs.
    Busy,
}

impl Passwords {
    /// Takes the configured passwords; `queue` checks may wait in each queue. Records the passwords in `state`: if a
    /// password is removed and configured again later, it becomes a new credential, so that its old sessions and grants
    /// stay invalid.
    pub fn new(passwords: &[Password], queue: usize, keys: &Keys, state: &State) -> Result<Passwords, StoreError> {
        let names = |p: &Password, returns: u32| -> Vec<CredentialId> {
            let mut text = match p {
                Password::Plain(text) => format!("plain\0{text}"),
                Password::Bcrypt(hash) => format!("bcrypt\0{hash}"),
            };
            if returns > 0 {
                text += &format!("\0{returns}");
            }
            keys.macs(Kind::Credential, text.as_bytes()).iter().map(|mac| CredentialId(base64url(&mac[..12]))).collect()
        };
        let returns = returns(state, passwords.iter().map(|p| names(p, 0)).collect())?;
        let passwords = || passwords.iter().zip(&returns);
        let ids = |(p, returns): (&Password, &u32)| names(p, *returns);
        let known = passwords().map(|(p, returns)| Known {
            check: match p {
                Password::Plain(text) => {
                    let key = crate::tokens::random();
                    Check::Plain { key, mac: keyed(&key, text) }
                }
                Password::Bcrypt(hash) => Check::Bcrypt(hash.clone()),
            },
            id: ids((p, returns)).swap_remove(0),
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Passwords {
            known: known.collect(),
            // Includes the ids under all secrets that still verify: rotating the secret must not end sessions and
            // grants.
            current: passwords().flat_map(ids).collect(),
            gate: Gate::new(cores, queue),
        })
    }

    /// Is there any?
    pub fn any(&self) -> bool {
        !self.known.is_empty()
    }

    /// The credentials that are configured now.
    pub fn current(&self) -> &[CredentialId] {
        &self.current
    }

    /// Is `credential` configured now?
    pub fn is_current(&self, credential: &CredentialId) -> bool {
        self.current.contains(credential)
    }

    /// Checks a password against every configured one. `browser` is the device name of a known browser, `None` for
    /// others.
    pub fn check(&self, password: &str, browser: Option<&str>) -> Outcome {
        crate::blocking::announce();
        if password.is_empty() || password.len() > MAX_PASSWORD_BYTES {
            return Outcome::Wrong;
        }
        let Some(_turn) = self.gate.enter(browser) else { return Outcome::Busy };
        // Checks all configured passwords, so that the time does not reveal which one matched.
        let mut found = None;
        for known in &self.known {
            let right = match &known.check {
                Check::Plain { key, mac } => equal(&keyed(key, password), mac),
                Check::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            };
            if right && found.is_none() {
                found = Some(known.id.clone());
            }
        }
        match found {
            Some(credential) => Outcome::Right(User { id: UserId("password".into()), email: None, credential }),
            None => Outcome::Wrong,
        }
    }
}

/// Records which passwords are configured. Returns for each how often it was configured again after it had been
/// removed. `configured` has the ids of each password under all secrets that verify, the current secret first.
fn returns(state: &State, configured: Vec<Vec<CredentialId>>) -> Result<Vec<u32>, StoreError> {
    let mut known = HashMap::new();
    state.scan::<KnownPassword>(|name, row| {
        known.insert(name.to_string(), row);
    })?;
    let mut rows = Vec::new();
    for names in &configured {
        let found = names.iter().find_map(|name| known.remove(name.as_str()));
        let returns = found.map_or(0, |row| row.returns + u32::from(!row.is_configured));
        rows.push((names[0].as_str().to_string(), KnownPassword { returns, is_configured: true, expires_at: NEVER }));
    }
    let returns = rows.iter().map(|(_, row)| row.returns).collect();
    let dropped = known.into_iter().filter(|(_, row)| row.is_configured);
    rows.extend(dropped.map(|(name, row)| (name, KnownPassword { is_configured: false, ..row })));
    state.transact(move |tx| {
        rows.iter().for_each(|(name, row)| tx.put(name, row));
        Ok(())
    })?;
    Ok(returns)
}

fn keyed(key: &[u8; 32], text: &str) -> [u8; 32] {
    use hmac::{Hmac, KeyInit, Mac};
    let mac = Hmac::<sha2::Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.chain_update(text).finalize().into_bytes().into()
}

/// Lets one check per core run at a time. Others wait in one of two lanes, which are served in turn, so that strangers,
/// even many of them, delay a check of a known browser by only one check of theirs.
struct Gate {
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

struct Turn<'g> {
    gate: &'g Gate,
    browser: Option<String>,
}

impl Gate {
    fn new(cores: usize, queue: usize) -> Gate {
        Gate { cores, queue, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits for a turn; `None` if the lane is full, or if this known browser already has a check that waits or runs.
    fn enter(&self, browser: Option<&str>) -> Option<Turn<'_>> {
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
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::store::embedded::EmbeddedStore;
    use crate::tokens::Secret;

    fn passwords(list: &[Password], secret: &Secret) -> Passwords {
        of(list, &Keys::new("https://a", secret, &[]), &state())
    }

    fn state() -> State {
        State::new(Box::new(EmbeddedStore::in_memory().unwrap()), Arc::new(Clock::system())).unwrap()
    }

    fn of(list: &[Password], keys: &Keys, state: &State) -> Passwords {
        Passwords::new(list, 1, keys, state).unwrap()
    }

    #[test]
    fn a_password_that_is_taken_up_again_is_another_credential() {
        let (keys, state) = (Keys::new("https://a", &Secret::generate(), &[]), state());
        let one = || Password::Plain("one".into());
        let id = |list: &[Password]| credential(of(list, &keys, &state).check("one", None));
        let first = id(&[one()]);
        assert_eq!(id(&[one()]), first, "a restart changes nothing");
        assert_eq!(id(&[Password::Plain("beside".into()), one()]), first, "nor does another beside it");
        assert!(!of(&[Password::Plain("two".into())], &keys, &state).is_current(&first));
        let second = id(&[one()]);
        assert!(second != first && !of(&[one()], &keys, &state).is_current(&first));
        assert_eq!(id(&[one()]), second);
        of(&[], &keys, &state);
        assert!(id(&[one()]) != second);
    }

    fn credential(outcome: Outcome) -> CredentialId {
        match outcome {
            Outcome::Right(user) => user.credential,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn either_password_signs_in_and_each_has_its_own_credential() {
        let hash = Password::Bcrypt(bcrypt::hash("two", 4).unwrap());
        let both = passwords(&[Password::Plain("one".into()), hash], &Secret::generate());
        let (one, two) = (credential(both.check("one", None)), credential(both.check("two", Some("laptop"))));
        assert_ne!(one, two);
        assert!(both.is_current(&one) && both.is_current(&two));
        for wrong in ["", "three", "one ", "on", "One", &"x".repeat(73)] {
            assert_eq!(both.check(wrong, None), Outcome::Wrong, "{wrong}");
        }
    }

    #[test]
    fn what_72_bytes_of_bcrypt_would_cut_is_refused() {
        let long = "x".repeat(72);
        let p = passwords(&[Password::Bcrypt(bcrypt::hash(&long, 4).unwrap())], &Secret::generate());
        assert!(matches!(p.check(&long, None), Outcome::Right(_)));
        assert_eq!(p.check(&format!("{long}y"), None), Outcome::Wrong);
    }

    #[test]
    fn another_password_is_another_credential_and_a_rotated_secret_is_not() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let before = credential(passwords(&[Password::Plain("one".into())], &old).check("one", None));
        assert!(passwords(&[Password::Plain("one".into())], &old).is_current(&before));
        assert!(!passwords(&[Password::Plain("two".into())], &old).is_current(&before));
        let rotated = Keys::new("https://a", &new, &[old]);
        assert!(of(&[Password::Plain("one".into())], &rotated, &state()).is_current(&before));
    }

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
