//! Password checks. One bcrypt check takes a good part of a second on a small board, so they queue up in [`gate`](super::gate).

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use super::gate::Gate;
use super::htpasswd::Account;
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
    /// That of one user of a htpasswd file.
    Of(Account),
}

impl Password {
    /// The name of its user in the htpasswd file.
    pub fn name(&self) -> Option<&str> {
        match self {
            Password::Of(account) => Some(&account.name),
            Password::Plain(_) | Password::Bcrypt(_) => None,
        }
    }
}

/// The configured passwords.
pub struct Passwords {
    configured: RwLock<Arc<Configured>>,
    gate: Gate,
}

/// Those that are configured at one time.
struct Configured {
    known: Vec<Known>,
    /// Credentials that are configured now, each with the name of its user. Sessions and grants of other password
    /// credentials are no longer valid.
    current: HashMap<CredentialId, Option<String>>,
    /// The highest cost of the hashes of users with a name.
    dearest: u32,
}

struct Known {
    /// The user's name; `None` for a password that whoever knows it signs in with.
    name: Option<String>,
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
        let configured = RwLock::new(Arc::new(Configured::new(passwords, keys, state)?));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Passwords { configured, gate: Gate::new(cores, queue) })
    }

    /// Takes these passwords instead of the current ones.
    pub fn replace(&self, passwords: &[Password], keys: &Keys, state: &State) -> Result<(), StoreError> {
        let configured = Configured::new(passwords, keys, state)?;
        *self.configured.write().unpoisoned() = Arc::new(configured);
        Ok(())
    }

    fn configured(&self) -> Arc<Configured> {
        self.configured.read().unpoisoned().clone()
    }

    /// Is there a password that whoever knows it signs in with?
    pub fn has_shared(&self) -> bool {
        self.configured().known.iter().any(|known| known.name.is_none())
    }

    /// Are there users with a name and a password?
    pub fn has_names(&self) -> bool {
        self.configured().known.iter().any(|known| known.name.is_some())
    }

    /// Is there any?
    pub fn any(&self) -> bool {
        !self.configured().known.is_empty()
    }

    /// The credentials that are configured now.
    pub fn current(&self) -> Vec<CredentialId> {
        self.configured().current.keys().cloned().collect()
    }

    /// Is `credential` configured now?
    pub fn is_current(&self, credential: &CredentialId) -> bool {
        self.configured.read().unpoisoned().current.contains_key(credential)
    }

    /// Is `credential` configured now, for the user with this name (`None`: without one)?
    pub fn is_of(&self, credential: &CredentialId, name: Option<&str>) -> bool {
        self.configured().current.get(credential).is_some_and(|of| of.as_deref() == name)
    }

    /// Is there a user with this name?
    pub fn has_name(&self, name: &str) -> bool {
        self.configured().known.iter().any(|known| known.name.as_deref() == Some(name))
    }

    /// Checks a password: that of the user with this name, or without a name every password that needs none. `browser` is
    /// the device name of a known browser, `None` for others.
    pub fn check(&self, name: Option<&str>, password: &str, browser: Option<&str>) -> Outcome {
        crate::blocking::announce();
        if password.is_empty() || password.len() > MAX_PASSWORD_BYTES {
            return Outcome::Wrong;
        }
        let Some(_turn) = self.gate.enter(browser) else { return Outcome::Busy };
        let configured = self.configured();
        let found = match name {
            Some(name) => configured.check_named(name, password),
            None => configured.check_shared(password),
        };
        let id = UserId(name.map_or_else(|| "password".into(), |name| format!("htpasswd:{name}")));
        found.map_or(Outcome::Wrong, |credential| Outcome::Right(User { id, email: None, credential }))
    }
}

impl Configured {
    fn new(passwords: &[Password], keys: &Keys, state: &State) -> Result<Configured, StoreError> {
        let names = |p: &Password, returns: u32| -> Vec<CredentialId> {
            let mut text = match p {
                Password::Plain(text) => format!("plain\0{text}"),
                Password::Bcrypt(hash) => format!("bcrypt\0{hash}"),
                Password::Of(account) => format!("htpasswd\0{}\0{}", account.name, account.hash),
            };
            if returns > 0 {
                text += &format!("\0{returns}");
            }
            keys.macs(Kind::Credential, text.as_bytes()).iter().map(|mac| CredentialId(base64url(&mac[..12]))).collect()
        };
        let returns = returns(state, passwords.iter().map(|p| names(p, 0)).collect())?;
        let passwords = || passwords.iter().zip(&returns);
        let ids = |(p, returns): (&Password, &u32)| names(p, *returns);
        let name = |p: &Password| match p {
            Password::Of(account) => Some(account.name.clone()),
            _ => None,
        };
        let known = passwords().map(|(p, returns)| Known {
            name: name(p),
            check: match p {
                Password::Plain(text) => {
                    let key = crate::tokens::random();
                    Check::Plain { key, mac: keyed(&key, text) }
                }
                Password::Bcrypt(hash) | Password::Of(Account { hash, .. }) => Check::Bcrypt(hash.clone()),
            },
            id: ids((p, returns)).swap_remove(0),
        });
        let known: Vec<Known> = known.collect();
        let dearest = known.iter().filter(|known| known.name.is_some()).map(|known| known.check.cost()).max();
        // Includes the ids under all secrets that still verify: rotating the secret must not end sessions and grants.
        let current = passwords().flat_map(|(p, returns)| ids((p, returns)).into_iter().map(move |id| (id, name(p))));
        Ok(Configured { current: current.collect(), known, dearest: dearest.unwrap_or(0) })
    }

    /// Checks all passwords without a name, so that the time does not reveal which one matched.
    fn check_shared(&self, password: &str) -> Option<CredentialId> {
        let right = |known: &&Known| known.check.is_right(password);
        let found: Vec<_> = self.known.iter().filter(|known| known.name.is_none()).filter(right).collect();
        found.first().map(|known| known.id.clone())
    }

    /// Checks the password of one user. Every check costs as much as that of the dearest hash, so that the time reveals
    /// neither whether there is a user with this name nor how dear the user's hash is.
    fn check_named(&self, name: &str, password: &str) -> Option<CredentialId> {
        let Some(known) = self.known.iter().find(|known| known.name.as_deref() == Some(name)) else {
            burn(self.dearest, password);
            return None;
        };
        let is_right = known.check.is_right(password);
        // Each cost is twice the one below: what a hash of cost 10 lacks to 12 is one of cost 10 and one of cost 11.
        (known.check.cost()..self.dearest).for_each(|cost| burn(cost, password));
        is_right.then(|| known.id.clone())
    }
}

impl Check {
    fn is_right(&self, password: &str) -> bool {
        match self {
            Check::Plain { key, mac } => equal(&keyed(key, password), mac),
            Check::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
        }
    }

    /// The cost of a bcrypt hash; 0 for a password as typed.
    fn cost(&self) -> u32 {
        match self {
            Check::Plain { .. } => 0,
            Check::Bcrypt(hash) => hash.parse::<bcrypt::HashParts>().map_or(0, |parts| parts.get_cost()),
        }
    }
}

/// Takes as long as the check of a hash of this cost.
fn burn(cost: u32, password: &str) {
    let _ = bcrypt::verify(password, &format!("$2b${cost:02}${}", ".".repeat(53)));
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
        // Rows under previous secrets are no longer kept up to date, so the one that counts may be any of them.
        let found = names.iter().filter_map(|name| known.remove(name.as_str()));
        let latest = found.max_by_key(|row| (row.returns, row.is_configured));
        let returns = latest.map_or(0, |row| row.returns + u32::from(!row.is_configured));
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
        let id = |list: &[Password]| credential(of(list, &keys, &state).check(None, "one", None));
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

    #[test]
    fn a_password_is_the_same_credential_after_any_number_of_rotations_and_restarts() {
        let (state, mut secrets) = (state(), vec![Secret::generate()]);
        let one = || [Password::Plain("one".into())];
        let at_first = of(&one(), &Keys::new("https://a", &secrets[0], &[]), &state);
        let mut ids = vec![credential(at_first.check(None, "one", None))];
        for round in 0..4 {
            secrets.push(Secret::generate());
            let (current, previous) = secrets.split_last().unwrap();
            for restart in 0..2 {
                let now = of(&one(), &Keys::new("https://a", current, previous), &state);
                ids.push(credential(now.check(None, "one", None)));
                let lost: Vec<_> = ids.iter().filter(|id| !now.is_current(id)).collect();
                assert!(lost.is_empty(), "round {round}, restart {restart}: {lost:?}");
            }
        }
        let (current, previous) = secrets.split_last().unwrap();
        of(&[], &Keys::new("https://a", current, previous), &state);
        let again = of(&one(), &Keys::new("https://a", current, previous), &state);
        assert!(ids.iter().all(|id| !again.is_current(id)), "a password that was removed in between is another one");
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
        let (one, two) =
            (credential(both.check(None, "one", None)), credential(both.check(None, "two", Some("laptop"))));
        assert_ne!(one, two);
        assert!(both.is_current(&one) && both.is_current(&two));
        for wrong in ["", "three", "one ", "on", "One", &"x".repeat(73)] {
            assert_eq!(both.check(None, wrong, None), Outcome::Wrong, "{wrong}");
        }
    }

    #[test]
    fn each_user_has_a_password_and_every_name_costs_the_same() {
        let account = |name: &str, password: &str, cost| {
            Password::Of(Account { name: name.into(), hash: bcrypt::hash(password, cost).unwrap() })
        };
        let (keys, state) = (Keys::new("https://a", &Secret::generate(), &[]), state());
        let all = [account("alice", "one", 4), account("bob", "two", 6), Password::Plain("shared".into())];
        let p = of(&all, &keys, &state);
        let Outcome::Right(alice) = p.check(Some("alice"), "one", None) else { panic!() };
        assert_eq!(alice.id.as_str(), "htpasswd:alice");
        for (name, password) in [
            (Some("alice"), "two"),
            (Some("bob"), "one"),
            (Some("carol"), "one"),
            (Some("alice"), "shared"),
            (None, "one"),
            (Some(""), "shared"),
        ] {
            assert_eq!(p.check(name, password, None), Outcome::Wrong, "{name:?} {password}");
        }
        assert!(matches!(p.check(None, "shared", None), Outcome::Right(_)));
        assert!(p.is_of(&alice.credential, Some("alice")) && !p.is_of(&alice.credential, Some("bob")));
        assert!(!p.is_of(&alice.credential, None));
        // Apache's htpasswd writes another letter for the same function.
        let hash = bcrypt::hash("three", 4).unwrap().replacen("$2b$", "$2y$", 1);
        let apache = of(&[Password::Of(Account { name: "dora".into(), hash })], &keys, &self::state());
        assert!(matches!(apache.check(Some("dora"), "three", None), Outcome::Right(_)));
        // What burn checks is well formed, so it really takes the time.
        assert!(!bcrypt::verify("x", &format!("$2b$04${}", ".".repeat(53))).unwrap());
        assert_eq!(p.configured().dearest, 6);
        // Who is taken out, or gets another password, has another credential; who stays keeps it.
        p.replace(&[all[0].clone(), account("bob", "new", 4)], &keys, &state).unwrap();
        assert!(p.is_current(&alice.credential) && !p.has_shared());
        p.replace(&[account("alice", "other", 4)], &keys, &state).unwrap();
        assert!(!p.is_current(&alice.credential));
        assert_eq!(p.check(Some("bob"), "new", None), Outcome::Wrong);
    }

    #[test]
    fn what_72_bytes_of_bcrypt_would_cut_is_refused() {
        let long = "x".repeat(72);
        let p = passwords(&[Password::Bcrypt(bcrypt::hash(&long, 4).unwrap())], &Secret::generate());
        assert!(matches!(p.check(None, &long, None), Outcome::Right(_)));
        assert_eq!(p.check(None, &format!("{long}y"), None), Outcome::Wrong);
    }

    #[test]
    fn another_password_is_another_credential_and_a_rotated_secret_is_not() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let before = credential(passwords(&[Password::Plain("one".into())], &old).check(None, "one", None));
        assert!(passwords(&[Password::Plain("one".into())], &old).is_current(&before));
        assert!(!passwords(&[Password::Plain("two".into())], &old).is_current(&before));
        let rotated = Keys::new("https://a", &new, &[old]);
        assert!(of(&[Password::Plain("one".into())], &rotated, &state()).is_current(&before));
    }
}
