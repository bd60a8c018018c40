//! Checking passwords. bcrypt takes a good part of a second on a small board: one check a core at a time, a short
//! queue, and nothing else waits for it.

use std::sync::{Condvar, Mutex};

use crate::config::Password;
use crate::identity::{CredentialId, User, UserId};
use crate::tokens::{Keys, Kind, base64url, equal};

/// bcrypt silently ignores what comes after.
pub const MAX_PASSWORD_BYTES: usize = 72;

/// The configured passwords.
pub struct Passwords {
    known: Vec<Known>,
    /// Credentials that are configured now; what was made with another has ended.
    current: Vec<CredentialId>,
    gate: Gate,
}

struct Known {
    check: Check,
    id: CredentialId,
}

enum Check {
    /// MACs under a key of this process, so that a comparison tells nothing of lengths.
    Plain {
        key: [u8; 32],
        mac: [u8; 32],
    },
    Bcrypt(String),
}

/// What a check came to.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Right.
    Right(User),
    /// Wrong.
    Wrong,
    /// Too many others are waiting.
    Busy,
}

impl Passwords {
    /// Takes the configured passwords; `queue` sign-ins may wait.
    pub fn new(passwords: &[Password], queue: usize, keys: &Keys) -> Passwords {
        let ids = |p: &Password| -> Vec<CredentialId> {
            let text = match p {
                Password::Plain(text) => format!("plain\0{text}"),
                Password::Bcrypt(hash) => format!("bcrypt\0{hash}"),
            };
            keys.macs(Kind::Credential, text.as_bytes()).iter().map(|mac| CredentialId(base64url(&mac[..12]))).collect()
        };
        let known = passwords.iter().map(|p| Known {
            check: match p {
                Password::Plain(text) => {
                    let key = crate::tokens::random();
                    Check::Plain { key, mac: keyed(&key, text) }
                }
                Password::Bcrypt(hash) => Check::Bcrypt(hash.clone()),
            },
            id: ids(p).swap_remove(0),
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Passwords {
            known: known.collect(),
            // Under every secret that verifies: rotating the secret is not changing the password.
            current: passwords.iter().flat_map(ids).collect(),
            gate: Gate { cores, queue, state: Mutex::default(), freed: Condvar::new() },
        }
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

    /// Checks a password against every configured one.
    pub fn check(&self, password: &str) -> Outcome {
        crate::blocking::announce();
        if password.is_empty() || password.len() > MAX_PASSWORD_BYTES {
            return Outcome::Wrong;
        }
        let Some(_turn) = self.gate.enter() else { return Outcome::Busy };
        // All are tried, so that the time does not tell which kind was right.
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

fn keyed(key: &[u8; 32], text: &str) -> [u8; 32] {
    use hmac::{Hmac, KeyInit, Mac};
    let mac = Hmac::<sha2::Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.chain_update(text).finalize().into_bytes().into()
}

/// Lets as many through at a time as there are cores, and as many wait as the queue holds.
struct Gate {
    cores: usize,
    queue: usize,
    state: Mutex<(usize, usize)>,
    freed: Condvar,
}

struct Turn<'g>(&'g Gate);

impl Gate {
    fn enter(&self) -> Option<Turn<'_>> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if state.0 >= self.cores {
            if state.1 >= self.queue {
                return None;
            }
            state.1 += 1;
            state = self.freed.wait_while(state, |s| s.0 >= self.cores).unwrap_or_else(|e| e.into_inner());
            state.1 -= 1;
        }
        state.0 += 1;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner()).0 -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Secret;

    fn passwords(list: &[Password], secret: &Secret) -> Passwords {
        Passwords::new(list, 1, &Keys::new("https://a", secret, &[]))
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
        let (one, two) = (credential(both.check("one")), credential(both.check("two")));
        assert_ne!(one, two);
        assert!(both.is_current(&one) && both.is_current(&two));
        for wrong in ["", "three", "one ", "on", "One", &"x".repeat(73)] {
            assert_eq!(both.check(wrong), Outcome::Wrong, "{wrong}");
        }
    }

    #[test]
    fn what_72_bytes_of_bcrypt_would_cut_is_refused() {
        let long = "x".repeat(72);
        let p = passwords(&[Password::Bcrypt(bcrypt::hash(&long, 4).unwrap())], &Secret::generate());
        assert!(matches!(p.check(&long), Outcome::Right(_)));
        assert_eq!(p.check(&format!("{long}y")), Outcome::Wrong);
    }

    #[test]
    fn another_password_is_another_credential_and_a_rotated_secret_is_not() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let before = credential(passwords(&[Password::Plain("one".into())], &old).check("one"));
        assert!(passwords(&[Password::Plain("one".into())], &old).is_current(&before));
        assert!(!passwords(&[Password::Plain("two".into())], &old).is_current(&before));
        let rotated = Keys::new("https://a", &new, &[old]);
        assert!(Passwords::new(&[Password::Plain("one".into())], 1, &rotated).is_current(&before));
    }

    #[test]
    fn the_queue_is_bounded() {
        let gate = Gate { cores: 1, queue: 0, state: Mutex::default(), freed: Condvar::new() };
        let turn = gate.enter();
        assert!(turn.is_some() && gate.enter().is_none());
        drop(turn);
        assert!(gate.enter().is_some());
    }
}
