//! What is known of those who have signed in at a provider, and asking after them again: at each refresh of a client's
//! tokens, so that whoever was taken off a list, or out of a group, is out.

use crate::lock::Unpoisoned;
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
use crate::rules::Rules;
use crate::store::StoreError;
use crate::tokens::Kind;

/// Answers of a provider that are this fresh are not asked for again, in seconds: clients refresh in parallel.
const FRESH: u64 = 30;
/// People remembered in memory; a forgotten one is read again.
const MAX_REMEMBERED: usize = 10_000;
/// How long to wait for another thread that asks after the same person.
const PATIENCE: Duration = Duration::from_secs(15);
/// Threads that wait so at one time, in all and for one person.
const MAX_WAITING: usize = 64;
const MAX_WAITING_FOR_ONE: usize = 16;
/// How soon after somebody was asked after in vain it is tried again, in seconds.
const ASK_AGAIN: u64 = 15;
/// People remembered who were asked after in vain.
const MAX_IN_VAIN: usize = 10_000;

/// What is known, the rows in memory.
pub struct People {
    core: Arc<Core>,
    providers: Arc<Providers>,
    remembered: RwLock<BoundedMap<UserId, Arc<UserRecord>>>,
    desk: Mutex<Desk>,
    freed: Condvar,
    in_vain: Mutex<BoundedMap<UserId, Timestamp>>,
}

/// Who is being asked after: one thread for each person, since refresh tokens of providers are good once.
#[derive(Default)]
struct Desk {
    /// With the number of threads that wait for them.
    busy: HashMap<UserId, usize>,
    waiting: usize,
}

/// The only thread that asks after a person, or writes what is known of them.
struct Alone<'p>(&'p People, UserId);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.desk.lock().unpoisoned().busy.remove(&self.1);
        self.0.freed.notify_all();
    }
}

/// What asking after somebody came to.
#[derive(Debug)]
pub enum Standing {
    /// They may enter.
    Allowed(Arc<UserRecord>),
    /// They may not, or have to sign in again; says why, for the log.
    Denied(String),
    /// It can't be told now.
    Unknown(String),
}

/// Why the provider has said nothing new of somebody.
enum Silence {
    /// It says no.
    Refused(String),
    /// There is nothing to ask with: only signing in again helps.
    NothingToAskWith(String),
    /// It may say more later.
    Later(String),
}

impl People {
    /// Nobody is known yet but those in the store.
    pub fn new(core: Arc<Core>, providers: Arc<Providers>) -> People {
        People {
            core,
            providers,
            remembered: RwLock::new(BoundedMap::new(MAX_REMEMBERED)),
            desk: Mutex::default(),
            freed: Condvar::new(),
            in_vain: Mutex::new(BoundedMap::new(MAX_IN_VAIN)),
        }
    }

    /// What is known of a user; `None` for those who signed in by password.
    pub fn get(&self, user: &UserId) -> Result<Option<Arc<UserRecord>>, StoreError> {
        let remembered = self.remembered.read().unpoisoned().get(user).cloned();
        if let Some(person) = remembered.filter(|p| p.expires_at > self.core.now()) {
            return Ok(Some(person));
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

    /// Nothing is known any more: sessions and other grants of the user are good for nothing.
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
            // The row is still there; what is remembered hides it.
            Err(_) => self.remember(Arc::new(UserRecord {
                profile: UserProfile::default(),
                tokens: None,
                asked_at: 0,
                ..known.clone()
            })),
        }
    }

    /// `None` when others have the person for too long, or too many wait.
    fn alone(&self, user: &UserId) -> Option<Alone<'_>> {
        crate::blocking::announce();
        let deadline = Instant::now() + PATIENCE;
        let mut desk = self.desk.lock().unpoisoned();
        loop {
            let waiting = desk.waiting;
            let Some(for_one) = desk.busy.get_mut(user) else { break };
            let left = deadline.saturating_duration_since(Instant::now());
            if waiting >= MAX_WAITING || *for_one >= MAX_WAITING_FOR_ONE || left.is_zero() {
                return None;
            }
            *for_one += 1;
            desk.waiting += 1;
            desk = self.freed.wait_timeout(desk, left).unpoisoned().0;
            desk.waiting -= 1;
            if let Some(for_one) = desk.busy.get_mut(user) {
                *for_one = for_one.saturating_sub(1);
            }
        }
        desk.busy.insert(user.clone(), 0);
        Some(Alone(self, user.clone()))
    }

    /// Keeps what a sign-in brought. A provider that gives no refresh token this time may have given one before.
    pub fn learn(
        &self,
        provider: &Provider,
        person: &ProviderUser,
        tokens: &ProviderTokens,
    ) -> Result<Arc<UserRecord>, StoreError> {
        let Some(_alone) = self.alone(&person.user) else {
            return Err(StoreError("others are asking after the same user".into()));
        };
        let sealed = match tokens.refresh.is_some() || tokens.access.is_some() {
            true => Some(seal(&self.core, &person.user, tokens)),
            false => self.tokens_of(provider, &person.user)?,
        };
        // Whoever was forgotten begins anew: older sessions and grants are not theirs any more.
        let since =
            self.get(&person.user)?.filter(|known| known.asked_at > 0).map_or(self.core.now(), |known| known.since);
        self.in_vain.lock().unpoisoned().remove(&person.user);
        let row = row(&self.core, provider, &provider.rules(), person.clone(), sealed, since);
        self.put(row)
    }

    /// Has the provider given something to ask after the user with?
    pub fn can_be_asked_after(&self, provider: &Provider, user: &UserId) -> Result<bool, StoreError> {
        Ok(self.tokens_of(provider, user)?.is_some())
    }

    fn tokens_of(&self, provider: &Provider, user: &UserId) -> Result<Option<String>, StoreError> {
        let known = self.get(user)?;
        // Given to another client, they are good for nothing.
        Ok(known.filter(|k| k.credential == provider.credential).and_then(|k| k.tokens.clone()))
    }

    /// In memory first: what a provider gives once must not be lost because the disk is full.
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

    /// May the user enter, as far as is known? Asks nobody.
    pub fn is_admitted(&self, user: &User) -> Result<bool, StoreError> {
        match self.providers.of_credential(&user.credential) {
            Some(provider) => self.is_admitted_by(&user.id, &provider.rules()),
            None => Ok(true),
        }
    }

    /// Likewise, by these rules.
    pub fn is_admitted_by(&self, user: &UserId, rules: &Rules) -> Result<bool, StoreError> {
        let known = self.get(user)?;
        Ok(known.is_some_and(|known| is_recent(&self.core, &known) && rules.admit(&known.profile).is_some()))
    }

    /// May the user enter with what began at `begun`, a session or a grant? The provider is asked when its word is as old
    /// as an access token gets.
    pub fn is_welcome(&self, user: &User, begun: Timestamp) -> Result<bool, StoreError> {
        if self.providers.of_credential(&user.credential).is_none() {
            return Ok(true);
        }
        let Some(known) = self.get(&user.id)?.filter(|known| begun >= known.since) else { return Ok(false) };
        let lifetimes = self.core.lifetimes;
        if self.core.now().saturating_sub(known.asked_at) < lifetimes.access_token.min(lifetimes.identity) {
            return self.is_admitted(user);
        }
        Ok(matches!(self.ask_after(user, begun), Standing::Allowed(_)))
    }

    /// Asks the provider after the user of what began at `begun`, where it can be asked, and applies the allow rules.
    pub fn ask_after(&self, user: &User, begun: Timestamp) -> Standing {
        let Some(provider) = self.providers.of_credential(&user.credential) else {
            return Standing::Denied("the provider is not configured any more".into());
        };
        let Some(_alone) = self.alone(&user.id) else {
            return Standing::Unknown("others are asking after the same user".into());
        };
        let known = match self.get(&user.id) {
            Ok(Some(known)) => known,
            Ok(None) => return Standing::Denied("nothing is known of the user any more".into()),
            Err(e) => return Standing::Unknown(e.to_string()),
        };
        if begun < known.since {
            return Standing::Denied("the user was turned away since, and has signed in anew".into());
        }
        let rules = provider.rules();
        let is_fresh =
            self.core.now().checked_sub(known.asked_at).is_some_and(|age| age < FRESH) && known.rules == rules.digest();
        let asked = if is_fresh { Ok(known.clone()) } else { self.ask(provider, &rules, &known) };
        if provider.rules() != rules {
            return Standing::Unknown("who may enter has been changed meanwhile".into());
        }
        let is_believed = is_recent(&self.core, &known) && rules.admit(&known.profile).is_some();
        let before = known.clone();
        let standing = match asked {
            Ok(known) if rules.admit(&known.profile).is_some() => Standing::Allowed(known),
            Ok(_) => Standing::Denied("no allow rule fits".into()),
            Err(Silence::Refused(why)) => Standing::Denied(format!("the provider says no: {why}")),
            Err(Silence::NothingToAskWith(why) | Silence::Later(why)) if is_believed => {
                log::debug!(user:% = user.id, reason = why.as_str(); "the provider was not asked after a user; what it said before is believed");
                Standing::Allowed(known)
            }
            // That is no verdict: when they have signed in again, their other clients go on.
            Err(Silence::NothingToAskWith(why)) => {
                return Standing::Denied(format!("the user has to sign in again: {why}"));
            }
            // What was asked under other rules may lack what these want.
            Err(Silence::Later(why)) => Standing::Unknown(why),
        };
        if let Standing::Denied(_) = standing {
            self.forget(&before);
        }
        standing
    }

    fn ask(&self, provider: &Provider, rules: &Rules, known: &UserRecord) -> Result<Arc<UserRecord>, Silence> {
        let failed = |e: StoreError| Silence::Later(e.to_string());
        let sealed = known.tokens.as_ref().filter(|_| known.credential == provider.credential);
        let Some(tokens) = sealed.and_then(|sealed| open(&self.core, &known.user, sealed)) else {
            return Err(Silence::NothingToAskWith("the provider gave nothing to ask with".into()));
        };
        if self.was_in_vain(&known.user) {
            return Err(Silence::Later("it did not answer a moment ago".into()));
        }
        let heard = |trouble: ProviderError| match trouble {
            ProviderError::Refused(why) => Silence::Refused(why),
            // What can't be believed is no verdict: keys may have just been replaced. If that lasts, signing in helps.
            ProviderError::Invalid(why) => Silence::NothingToAskWith(why),
            ProviderError::Unreachable(why) => {
                self.note_in_vain(&known.user);
                Silence::Later(why)
            }
        };
        let renewed = match self.providers.renew(provider, &tokens).map_err(heard) {
            Ok(Some(renewed)) => renewed,
            Ok(None) => return Err(Silence::NothingToAskWith("the provider gave nothing to ask with".into())),
            // The session that the person had there is over, which says nothing of the person.
            Err(Silence::Refused(why)) if !provider.lasts() => {
                self.put(UserRecord { tokens: None, ..known.clone() }).map_err(failed)?;
                return Err(Silence::NothingToAskWith(format!("the session at the provider is over ({why})")));
            }
            Err(silence) => return Err(silence),
        };
        // First of all: the old ones may be good for nothing now.
        let sealed = seal(&self.core, &known.user, &renewed.tokens);
        let kept = self.put(UserRecord { tokens: Some(sealed.clone()), ..known.clone() });
        let person = self.providers.whose(provider, rules, &renewed, self.core.now()).map_err(heard)?;
        if person.user != known.user {
            return Err(Silence::Refused("it speaks of somebody else".into()));
        }
        let is_admitted = rules.admit(&person.profile).is_some();
        if renewed.lacks_claims && !is_admitted {
            return Err(Silence::NothingToAskWith("it gave no new ID token, and userinfo alone fits no rule".into()));
        }
        let row = row(&self.core, provider, rules, person, Some(sealed), known.since);
        if !is_admitted {
            // A no holds whatever becomes of the row.
            return Ok(Arc::new(row));
        }
        kept.map_err(failed)?;
        self.put(row).map_err(failed)
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

/// What the provider has just said, looked at by `rules`.
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
        provider: provider.slug,
        credential: provider.credential.clone(),
        profile: person.profile,
        tokens,
        rules: rules.digest(),
        since,
        asked_at: now,
        expires_at: now + core.lifetimes.refresh_total,
    }
}

/// Is what the provider said still believed without asking again?
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
