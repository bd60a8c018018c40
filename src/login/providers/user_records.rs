//! Records of users who have signed in at a provider. The proxy asks the provider about them again at each refresh of a
//! client's tokens, so that a user who was removed from a list or a group loses access.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::authorization::ProviderTokens;
use super::error::ProviderError;
use super::registry::{Provider, Providers};
use crate::bounded_map::BoundedMap;
use crate::clock::Timestamp;
use crate::core::Core;
use crate::identity::UserRecord;
use crate::identity::{ProviderUser, UserProfile};
use crate::identity::{User, UserId};
use crate::lock::Unpoisoned;
use crate::rules::Rules;
use crate::store::StoreError;
use crate::tokens::{Keys, Kind};

/// The provider is not asked again about a user within this time, in seconds, because clients refresh in parallel.
const FRESH: u64 = 30;
/// Maximum number of users cached in memory; others are read from the store again.
const MAX_REMEMBERED: usize = 10_000;
/// How long to wait for another thread that is asking the provider about the same user.
const PATIENCE: Duration = Duration::from_secs(15);
/// Maximum number of threads that wait in this way, in all and for one user.
const MAX_WAITING: usize = 64;
const MAX_WAITING_FOR_ONE: usize = 16;
/// After the provider could not be asked about a user, the next attempt for this user waits this long, in seconds.
const ASK_AGAIN: u64 = 15;
/// Maximum number of users whose last failed attempt is remembered.
const MAX_IN_VAIN: usize = 10_000;

/// The records of users, with a cache in memory.
pub struct UserRecords {
    core: Arc<Core>,
    providers: Arc<Providers>,
    remembered: RwLock<BoundedMap<UserId, Arc<UserRecord>>>,
    in_flight: Mutex<SingleFlight>,
    freed: Condvar,
    in_vain: Mutex<BoundedMap<UserId, Timestamp>>,
}

/// Users that a thread is asking the provider about. Only one thread per user, since a provider's refresh token may be
/// valid only once.
#[derive(Default)]
struct SingleFlight {
    /// Locked users, with the number of threads that wait for each.
    busy: HashMap<UserId, usize>,
    waiting: usize,
}

/// Lock on one user: while a thread has it, no other thread asks the provider about the user or writes the user's
/// record. Dropping it releases the lock.
struct Alone<'p>(&'p UserRecords, UserId);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.in_flight.lock().unpoisoned().busy.remove(&self.1);
        self.0.freed.notify_all();
    }
}

/// Result of asking the provider about a user.
#[derive(Debug)]
pub enum Recheck {
    /// The user may sign in.
    Allowed(Arc<UserRecord>),
    /// The user may not sign in, or has to sign in again; the reason, for the log.
    Denied(String),
    /// It is not known at the moment; the reason, for the log.
    Unknown(String),
}

/// Why there is no new profile from the provider.
enum Silence {
    /// The provider refused.
    Refused(String),
    /// The provider can't be asked without the user, or its response can't be accepted: the user has to sign in again.
    NothingToAskWith(String),
    /// A temporary failure: a later attempt may succeed.
    Later(String),
}

impl UserRecords {
    /// Starts with an empty cache.
    pub fn new(core: Arc<Core>, providers: Arc<Providers>) -> UserRecords {
        UserRecords {
            core,
            providers,
            remembered: RwLock::new(BoundedMap::new(MAX_REMEMBERED)),
            in_flight: Mutex::default(),
            freed: Condvar::new(),
            in_vain: Mutex::new(BoundedMap::new(MAX_IN_VAIN)),
        }
    }

    /// The record of a user; `None` if there is none, as for users who signed in by password.
    pub fn get(&self, user: &UserId) -> Result<Option<Arc<UserRecord>>, StoreError> {
        let remembered = self.remembered.read().unpoisoned().get(user).cloned();
        if let Some(person) = remembered.filter(|p| p.expires_at > self.core.now()) {
            // One that counts as deleted hides its row, which could not be deleted.
            return Ok(Some(person).filter(|person| person.asked_at > 0));
        }
        let found = self.core.state.get::<UserRecord>(user.as_str())?.map(Arc::new);
        if let Some(person) = &found {
            self.remember(person.clone());
        }
        Ok(found)
    }

    fn remember(&self, person: Arc<UserRecord>) {
        let mut remembered = self.remembered.write().unpoisoned();
        remembered.insert(person.user.clone(), person);
    }

    /// Deletes the user's record, which makes the user's sessions and grants invalid.
    fn forget(&self, known: &UserRecord) {
        let key = known.user.clone();
        let deleted = self.core.state.transact(move |tx| {
            tx.delete::<UserRecord>(key.as_str());
            Ok(())
        });
        match deleted {
            Ok(()) => {
                self.remembered.write().unpoisoned().remove(&known.user);
            }
            // The row could not be deleted: cache an empty record without tokens, which hides the row.
            Err(_) => self.remember(Arc::new(UserRecord {
                profile: UserProfile::default(),
                tokens: None,
                asked_at: 0,
                ..known.clone()
            })),
        }
    }

    /// Locks a user; `None` if other threads hold the lock for too long, or too many threads wait.
    fn alone(&self, user: &UserId) -> Option<Alone<'_>> {
        crate::blocking::announce();
        let deadline = Instant::now() + PATIENCE;
        let mut in_flight = self.in_flight.lock().unpoisoned();
        loop {
            let waiting = in_flight.waiting;
            let Some(for_one) = in_flight.busy.get_mut(user) else { break };
            let left = deadline.saturating_duration_since(Instant::now());
            if waiting >= MAX_WAITING || *for_one >= MAX_WAITING_FOR_ONE || left.is_zero() {
                return None;
            }
            *for_one += 1;
            in_flight.waiting += 1;
            in_flight = self.freed.wait_timeout(in_flight, left).unpoisoned().0;
            in_flight.waiting -= 1;
            if let Some(for_one) = in_flight.busy.get_mut(user) {
                *for_one = for_one.saturating_sub(1);
            }
        }
        in_flight.busy.insert(user.clone(), 0);
        Some(Alone(self, user.clone()))
    }

    /// Stores the profile and tokens of a sign-in. If the provider sent no tokens this time, keeps the ones from
    /// before.
    pub fn learn(
        &self,
        provider: &Provider,
        person: &ProviderUser,
        tokens: &ProviderTokens,
    ) -> Result<Arc<UserRecord>, StoreError> {
        let Some(_alone) = self.alone(&person.user) else {
            return Err(StoreError("too many requests about the same user are under way".into()));
        };
        let sealed = match tokens.refresh.is_some() || tokens.access.is_some() {
            true => Some(seal(&self.core, &person.user, tokens)),
            false => self.tokens_of(provider, &person.user)?,
        };
        // A user whose record was deleted gets a new `since`, so that older sessions and grants stay invalid.
        let since =
            self.get(&person.user)?.filter(|known| known.asked_at > 0).map_or(self.core.now(), |known| known.since);
        self.in_vain.lock().unpoisoned().remove(&person.user);
        let row = row(&self.core, provider, &provider.rules(), person.clone(), sealed, since);
        self.put(row)
    }

    /// Are there tokens to ask the provider about the user?
    pub fn can_be_rechecked(&self, provider: &Provider, user: &UserId) -> Result<bool, StoreError> {
        Ok(self.tokens_of(provider, user)?.is_some())
    }

    fn tokens_of(&self, provider: &Provider, user: &UserId) -> Result<Option<String>, StoreError> {
        let known = self.get(user)?;
        // Tokens that the provider issued to another client id can't be used.
        Ok(known.filter(|k| k.credential == provider.credential).and_then(|k| k.tokens.clone()))
    }

    /// Writes a record, to the cache first: tokens that a provider issues only once must not be lost if the store can't
    /// write.
    fn put(&self, row: UserRecord) -> Result<Arc<UserRecord>, StoreError> {
        let row = Arc::new(row);
        self.remember(row.clone());
        let written = row.clone();
        self.core.state.transact(move |tx| {
            tx.put(written.user.as_str(), &*written);
            Ok(())
        })?;
        Ok(row)
    }

    /// May the user sign in, according to the stored profile and the current allow rules? Does not ask the provider.
    pub fn is_admitted(&self, user: &User) -> Result<bool, StoreError> {
        match self.providers.of_credential(&user.credential) {
            Some(provider) => self.is_admitted_by(&user.id, &provider.rules()),
            None => Ok(true),
        }
    }

    /// The same for a user of a provider, with these rules.
    pub fn is_admitted_by(&self, user: &UserId, rules: &Rules) -> Result<bool, StoreError> {
        let known = self.get(user)?;
        Ok(known.is_some_and(|known| is_recent(&self.core, &known) && rules.admit(&known.profile).is_some()))
    }

    /// Is a session or grant that began at `begun` still valid for the user? Asks the provider if its last response is
    /// older than the lifetime of an access token or of a profile, whichever is shorter.
    pub fn is_welcome(&self, user: &User, begun: Timestamp) -> Result<bool, StoreError> {
        if self.providers.of_credential(&user.credential).is_none() {
            return Ok(true);
        }
        let Some(known) = self.get(&user.id)?.filter(|known| begun >= known.since) else { return Ok(false) };
        let lifetimes = self.core.lifetimes;
        if self.core.now().saturating_sub(known.asked_at) < lifetimes.access_token.min(lifetimes.identity) {
            return self.is_admitted(user);
        }
        Ok(matches!(self.recheck(user, begun), Recheck::Allowed(_)))
    }

    /// Asks the provider about the user of a session or grant that began at `begun`, if possible, and applies the allow
    /// rules.
    pub fn recheck(&self, user: &User, begun: Timestamp) -> Recheck {
        let Some(provider) = self.providers.of_credential(&user.credential) else {
            return Recheck::Denied("the provider is not configured any more".into());
        };
        let Some(_alone) = self.alone(&user.id) else {
            return Recheck::Unknown("too many requests about the same user are under way".into());
        };
        let known = match self.get(&user.id) {
            Ok(Some(known)) => known,
            Ok(None) => return Recheck::Denied("nothing is known of the user any more".into()),
            Err(e) => return Recheck::Unknown(e.to_string()),
        };
        if begun < known.since {
            return Recheck::Denied("the user was denied and has signed in again since".into());
        }
        let rules = provider.rules();
        let is_fresh =
            self.core.now().checked_sub(known.asked_at).is_some_and(|age| age < FRESH) && known.rules == rules.digest();
        let asked = if is_fresh { Ok(known.clone()) } else { self.ask(provider, &rules, &known) };
        if provider.rules() != rules {
            return Recheck::Unknown("the allow rules changed while the provider was asked".into());
        }
        let is_believed = is_recent(&self.core, &known) && rules.admit(&known.profile).is_some();
        let before = known.clone();
        let standing = match asked {
            Ok(known) if rules.admit(&known.profile).is_some() => Recheck::Allowed(known),
            Ok(_) => Recheck::Denied("no allow rule fits".into()),
            Err(Silence::Refused(why)) => Recheck::Denied(format!("the provider says no: {why}")),
            Err(Silence::NothingToAskWith(why) | Silence::Later(why)) if is_believed => {
                log::debug!(user:% = user.id, reason = why.as_str(); "the provider could not be asked about a user, so the stored profile is used");
                Recheck::Allowed(known)
            }
            // Returns before `forget`: the provider did not refuse the user, so the user's other clients go on after a
            // new sign-in.
            Err(Silence::NothingToAskWith(why)) => {
                return Recheck::Denied(format!("the user has to sign in again: {why}"));
            }
            // The stored profile is too old or matches no rule. That is no denial: it may have been fetched for other
            // rules, and lack data that the current rules need.
            Err(Silence::Later(why)) => Recheck::Unknown(why),
        };
        if let Recheck::Denied(_) = standing {
            self.forget(&before);
        }
        standing
    }

    fn ask(&self, provider: &Provider, rules: &Rules, known: &UserRecord) -> Result<Arc<UserRecord>, Silence> {
        let failed = |e: StoreError| Silence::Later(e.to_string());
        let sealed = known.tokens.as_ref().filter(|_| known.credential == provider.credential);
        let Some(tokens) = sealed.and_then(|sealed| open(&self.core, &known.user, sealed)) else {
            return Err(Silence::NothingToAskWith("the provider gave no token to ask it with".into()));
        };
        if self.was_in_vain(&known.user) {
            return Err(Silence::Later("it could not be reached a moment ago".into()));
        }
        let heard = |trouble: ProviderError| match trouble {
            ProviderError::Refused(why) => Silence::Refused(why),
            // An invalid response is not a refusal: the provider may have just rotated its keys. If it persists, the
            // user can sign in again.
            ProviderError::Invalid(why) => Silence::NothingToAskWith(why),
            ProviderError::Unreachable(why) => {
                self.note_in_vain(&known.user);
                Silence::Later(why)
            }
        };
        let renewed = match self.providers.renew(provider, &tokens).map_err(heard) {
            Ok(Some(renewed)) => renewed,
            Ok(None) => return Err(Silence::NothingToAskWith("the provider gave no token to ask it with".into())),
            // Only the user's session at the provider has ended; that says nothing about the user.
            Err(Silence::Refused(why)) if !provider.lasts() => {
                self.put(UserRecord { tokens: None, ..known.clone() }).map_err(failed)?;
                return Err(Silence::NothingToAskWith(format!("the session at the provider is over ({why})")));
            }
            Err(silence) => return Err(silence),
        };
        // Store the new tokens before anything else: the old refresh token may be invalid now.
        let sealed = seal(&self.core, &known.user, &renewed.tokens);
        let kept = self.put(UserRecord { tokens: Some(sealed.clone()), ..known.clone() });
        let person = self.providers.whose(provider, rules, &renewed, self.core.now()).map_err(heard)?;
        if person.user != known.user {
            return Err(Silence::Refused("its answer is about another user".into()));
        }
        let is_admitted = rules.admit(&person.profile).is_some();
        if renewed.lacks_claims && !is_admitted {
            return Err(Silence::NothingToAskWith("it gave no new ID token, and userinfo alone fits no rule".into()));
        }
        let row = row(&self.core, provider, rules, person, Some(sealed), known.since);
        if !is_admitted {
            // The user is denied, so it does not matter whether the tokens could be stored.
            return Ok(Arc::new(row));
        }
        kept.map_err(failed)?;
        self.put(row).map_err(failed)
    }

    /// Encrypts all stored tokens with the keys of today. `before` are those of before, which can decrypt them. Tokens that
    /// can't be read or written are lost: their users sign in again.
    pub fn encrypt_anew(&self, before: &Keys) {
        let mut users = Vec::new();
        let scanned = self.core.state.scan::<UserRecord>(|_, record| {
            if record.tokens.is_some() {
                users.push(record.user);
            }
        });
        if let Err(e) = scanned {
            log::warn!(error:% = e; "tokens of providers could not be encrypted anew; their users sign in again");
        }
        for user in users {
            let Some(_alone) = self.alone(&user) else { continue };
            let Ok(Some(record)) = self.core.state.get::<UserRecord>(user.as_str()) else { continue };
            let plain = record
                .tokens
                .as_deref()
                .and_then(|sealed| before.decrypt(Kind::ProviderTokens, user.as_str().as_bytes(), sealed));
            let encrypt =
                |plain: Vec<u8>| self.core.keys.encrypt(Kind::ProviderTokens, user.as_str().as_bytes(), &plain);
            // The store logs what is wrong with it.
            let _ = self.put(UserRecord { tokens: plain.map(encrypt), ..record });
        }
    }

    fn was_in_vain(&self, user: &UserId) -> bool {
        let in_vain = self.in_vain.lock().unpoisoned();
        in_vain.get(user).is_some_and(|at| self.core.now().saturating_sub(*at) < ASK_AGAIN)
    }

    fn note_in_vain(&self, user: &UserId) {
        let mut in_vain = self.in_vain.lock().unpoisoned();
        in_vain.insert(user.clone(), self.core.now());
    }
}

/// A record of what the provider has just said, fetched for `rules`.
fn row(
    core: &Core,
    provider: &Provider,
    rules: &Rules,
    person: ProviderUser,
    tokens: Option<String>,
    since: Timestamp,
) -> UserRecord {
    let now = core.now();
    UserRecord {
        user: person.user,
        provider: provider.id,
        credential: provider.credential.clone(),
        profile: person.profile,
        tokens,
        rules: rules.digest(),
        since,
        asked_at: now,
        expires_at: now + core.lifetimes.refresh_total,
    }
}

/// Is the stored profile recent enough to use without asking the provider again?
fn is_recent(core: &Core, known: &UserRecord) -> bool {
    core.now().saturating_sub(known.asked_at) < core.lifetimes.identity
}

fn seal(core: &Core, user: &UserId, tokens: &ProviderTokens) -> String {
    let text = serde_json::to_vec(tokens).expect("tokens are plain data");
    core.keys.encrypt(Kind::ProviderTokens, user.as_str().as_bytes(), &text)
}

fn open(core: &Core, user: &UserId, sealed: &str) -> Option<ProviderTokens> {
    let text = core.keys.decrypt(Kind::ProviderTokens, user.as_str().as_bytes(), sealed)?;
    serde_json::from_slice(&text).ok()
}
