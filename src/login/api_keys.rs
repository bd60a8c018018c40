//! API keys (`--api-keys`), for scripts that know no OAuth. A key is `map_`, 43 random letters and digits (256 bits), and a
//! checksum of six, by which secret scanners recognise one. Only its SHA-256 is stored: there is nothing to guess.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use crate::clock::Timestamp;
use crate::encoding::digest;
use crate::lock::Unpoisoned;
use crate::store::rows::ApiKey;
use crate::store::{State, StoreError};
use crate::tokens::random;

/// What each key begins with.
pub const PREFIX: &str = "map_";
/// Most keys at one time.
const MAX_KEYS: usize = 1_000;
/// Letters of the random part, and of the checksum.
const SECRET_LETTERS: usize = 43;
const CHECK_LETTERS: usize = 6;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The keys, in memory too: each request with a key asks for one.
pub struct ApiKeys {
    /// Are keys accepted?
    is_on: bool,
    by_digest: RwLock<HashMap<String, Arc<ApiKey>>>,
}

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// They are switched off.
    Off,
    /// It is not one of ours, or was revoked.
    Unknown,
    /// It has expired.
    Expired,
}

impl ApiKeys {
    /// Loads the keys.
    pub fn new(is_on: bool, state: &State) -> Result<ApiKeys, StoreError> {
        let mut by_digest = HashMap::new();
        state.scan::<ApiKey>(|_, key| {
            by_digest.insert(key.digest.clone(), Arc::new(key));
        })?;
        Ok(ApiKeys { is_on, by_digest: RwLock::new(by_digest) })
    }

    /// Are keys accepted?
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// The key with this text.
    pub fn find(&self, text: &str, now: Timestamp) -> Result<Arc<ApiKey>, KeyError> {
        if !self.is_on {
            return Err(KeyError::Off);
        }
        if !is_well_formed(text) {
            return Err(KeyError::Unknown);
        }
        // Looking up a digest reveals nothing about the keys by its time.
        let found = self.by_digest.read().unpoisoned().get(&digest(text.as_bytes())).cloned();
        let key = found.ok_or(KeyError::Unknown)?;
        if now >= key.expires_at { Err(KeyError::Expired) } else { Ok(key) }
    }

    /// All keys, by name.
    pub fn all(&self) -> Vec<Arc<ApiKey>> {
        let mut all: Vec<_> = self.by_digest.read().unpoisoned().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Makes a key, and returns its text, which is not stored. The error says why not.
    pub fn add(
        &self,
        state: &State,
        name: &str,
        servers: Vec<String>,
        expires_at: Timestamp,
    ) -> Result<String, String> {
        let mut keys = self.by_digest.write().unpoisoned();
        let now = state.clock().now();
        if keys.values().any(|key| key.name == name && now < key.expires_at) {
            return Err(format!("there is a key '{name}' already; revoke it first, or choose another name"));
        }
        keys.retain(|_, key| key.name != name);
        if keys.len() >= MAX_KEYS {
            return Err(format!("there are {MAX_KEYS} keys already; revoke some first"));
        }
        let text = generate();
        let key = ApiKey { name: name.into(), digest: digest(text.as_bytes()), servers, created_at: now, expires_at };
        let row = key.clone();
        let stored = state.transact(move |tx| {
            tx.put(&row.name, &row);
            Ok(())
        });
        stored.map_err(|e| format!("it can't be stored: {e}"))?;
        keys.insert(key.digest.clone(), Arc::new(key));
        Ok(text)
    }

    /// Ends a key; false if there is none with this name.
    pub fn revoke(&self, state: &State, name: &str) -> Result<bool, StoreError> {
        let mut keys = self.by_digest.write().unpoisoned();
        let row = name.to_string();
        state.transact(move |tx| {
            tx.delete::<ApiKey>(&row);
            Ok(())
        })?;
        let before = keys.len();
        keys.retain(|_, key| key.name != name);
        Ok(keys.len() < before)
    }
}

fn generate() -> String {
    let mut text = PREFIX.to_string();
    while text.len() < PREFIX.len() + SECRET_LETTERS {
        // Of 256 values, the last eight would make some letters more likely than others.
        let bytes: [u8; 64] = random();
        let left = PREFIX.len() + SECRET_LETTERS - text.len();
        text.extend(bytes.iter().filter(|b| **b < 248).take(left).map(|b| char::from(ALPHABET[usize::from(*b) % 62])));
    }
    let check = checksum(text.as_bytes());
    text + &check
}

fn is_well_formed(text: &str) -> bool {
    let length = PREFIX.len() + SECRET_LETTERS;
    text.len() == length + CHECK_LETTERS
        && text.starts_with(PREFIX)
        && text.bytes().skip(PREFIX.len()).all(|b| b.is_ascii_alphanumeric())
        && text[length..] == checksum(&text.as_bytes()[..length])
}

/// CRC-32 (as in zlib) in base 62.
fn checksum(data: &[u8]) -> String {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let mut crc = !data.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step));
    let mut letters = [ALPHABET[0]; CHECK_LETTERS];
    for letter in letters.iter_mut().rev() {
        *letter = ALPHABET[(crc % 62) as usize];
        crc /= 62;
    }
    letters.iter().map(|b| char::from(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_recognised_by_their_checksum() {
        let key = generate();
        assert!(is_well_formed(&key), "{key}");
        assert_ne!(key, generate());
        for at in 0..key.len() {
            let mut other = key.clone().into_bytes();
            other[at] = if other[at] == b'x' { b'y' } else { b'x' };
            assert!(!is_well_formed(std::str::from_utf8(&other).unwrap()), "changed at {at}");
        }
        assert!(!is_well_formed("map_") && !is_well_formed(&key[1..]) && !is_well_formed(&format!("{key}0")));
        // The check value of CRC-32/ISO-HDLC is 0xCBF43926.
        let mut crc = 0xCBF4_3926_u32;
        let mut expected = Vec::new();
        for _ in 0..6 {
            expected.insert(0, char::from(ALPHABET[(crc % 62) as usize]));
            crc /= 62;
        }
        assert_eq!(checksum(b"123456789"), expected.into_iter().collect::<String>());
    }
}
