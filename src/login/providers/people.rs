//! What is known of those who have signed in at a provider, and asking after them again: at each refresh of a client's
//! tokens, so that whoever was taken off a list, or out of a group, is out.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::rules::{Identity, Person, Rules};
use super::{Provider, ProviderTokens, Trouble};
use crate::context::Context;
use crate::identity::{User, UserId};
use crate::store::StoreError;
use crate::store::rows::KnownPerson;
use crate::tokens::Kind;

/// Answers of a provider that are this fresh are not asked for again, in seconds: clients refresh in parallel.
const FRESH: u64 = 30;
/// People remembered in memory; a forgotten one is read again.
const MAX_REMEMBERED: usize = 10_000;
/// How long to wait for another thread that asks after the same person.
const PATIENCE: Duration = Duration::from_secs(15);
/// Threads that wait so at one time.
const MAX_WAITING: usize = 32;

/// What is known, the rows in memory.
#[derive(Default)]
pub struct People {
    remembered: RwLock<HashMap<UserId, Arc<KnownPerson>>>,
    desk: Mutex<Desk>,
    freed: Condvar,
}

/// Who is being asked after: one thread for each person, since refresh tokens of providers are good once.
#[derive(Default)]
struct Desk {
    busy: HashSet<UserId>,
    waiting: usize,
}

/// The only thread that asks after a person, or writes what is known of them.
struct Alone<'p>(&'p People, UserId);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.desk.lock().unwrap_or_else(|e| e.into_inner()).busy.remove(&self.1);
        self.0.freed.notify_all();
    }
}

/// What asking after somebody came to.
#[derive(Debug)]
pub enum Standing {
    /// They may enter.
    Allowed(Arc<KnownPerson>),
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
    /// What is known of a user; `None` for those who signed in by password.
    pub fn get(&self, ctx: &Context, user: &UserId) -> Result<Option<Arc<KnownPerson>>, StoreError> {
        let remembered = self.remembered.read().unwrap_or_else(|e| e.into_inner()).get(user).cloned();
        if let Some(person) = remembered.filter(|p| p.expires_at > ctx.now()) {
            return Ok(Some(person));
        }
        let found = ctx.state.get::<KnownPerson>(user.as_str())?.map(Arc::new);
        if let Some(person) = &found {
            self.remember(person.clone());
        }
        Ok(found)
    }

    fn remember(&self, person: Arc<KnownPerson>) {
        let mut remembered = self.remembered.write().unwrap_or_else(|e| e.into_inner());
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(person.user.clone(), person);
    }

    /// Nothing is known any more: sessions and other grants of the user are good for nothing.
    fn forget(&self, ctx: &Context, user: &UserId) {
        let key = user.clone();
        // If it fails, the row stands for what the provider said last, and the next refresh comes to the same end.
        let _ = ctx.state.transact(move |tx| {
            tx.delete::<KnownPerson>(key.as_str());
            Ok(())
        });
        self.remembered.write().unwrap_or_else(|e| e.into_inner()).remove(user);
    }

    fn alone(&self, user: &UserId) -> Option<Alone<'_>> {
        crate::blocking::announce();
        let deadline = Instant::now() + PATIENCE;
        let mut desk = self.desk.lock().unwrap_or_else(|e| e.into_inner());
        while desk.busy.contains(user) {
            let left = deadline.saturating_duration_since(Instant::now());
            if desk.waiting >= MAX_WAITING || left.is_zero() {
                return None;
            }
            desk.waiting += 1;
            desk = self.freed.wait_timeout(desk, left).unwrap_or_else(|e| e.into_inner()).0;
            desk.waiting -= 1;
        }
        desk.busy.insert(user.clone());
        Some(Alone(self, user.clone()))
    }

    /// Keeps what a sign-in brought. A provider that gives no refresh token this time may have given one before.
    pub fn learn(
        &self,
        ctx: &Context,
        provider: &Provider,
        person: &Person,
        tokens: &ProviderTokens,
    ) -> Result<Arc<KnownPerson>, StoreError> {
        let _alone = self.alone(&person.user);
        let sealed = match tokens.refresh.is_some() || tokens.access.is_some() {
            true => Some(seal(ctx, &person.user, tokens)),
            false => self.tokens_of(ctx, provider, &person.user)?,
        };
        self.write(ctx, provider, &person.user, person.identity.clone(), sealed)
    }

    /// Has the provider given something to ask after the user with?
    pub fn can_be_asked_after(&self, ctx: &Context, provider: &Provider, user: &UserId) -> Result<bool, StoreError> {
        Ok(self.tokens_of(ctx, provider, user)?.is_some())
    }

    fn tokens_of(&self, ctx: &Context, provider: &Provider, user: &UserId) -> Result<Option<String>, StoreError> {
        let known = self.get(ctx, user)?;
        // Given to another client, they are good for nothing.
        Ok(known.filter(|k| k.credential == provider.credential).and_then(|k| k.tokens.clone()))
    }

    fn write(
        &self,
        ctx: &Context,
        provider: &Provider,
        user: &UserId,
        identity: Identity,
        tokens: Option<String>,
    ) -> Result<Arc<KnownPerson>, StoreError> {
        let now = ctx.now();
        let row = KnownPerson {
            user: user.clone(),
            provider: provider.slug,
            credential: provider.credential.clone(),
            identity,
            tokens,
            rules: provider.rules().digest(),
            asked_at: now,
            expires_at: now + ctx.config.lifetimes.refresh_total,
        };
        self.put(ctx, row)
    }

    /// In memory first: what a provider gives once must not be lost because the disk is full.
    fn put(&self, ctx: &Context, row: KnownPerson) -> Result<Arc<KnownPerson>, StoreError> {
        let row = Arc::new(row);
        self.remember(row.clone());
        let written = row.clone();
        ctx.state.transact(move |tx| {
            tx.put(written.user.as_str(), &*written);
            Ok(())
        })?;
        Ok(row)
    }

    /// May the user enter, as far as is known? Asks nobody.
    pub fn is_admitted(&self, ctx: &Context, user: &User) -> Result<bool, StoreError> {
        match ctx.providers.of_credential(&user.credential) {
            Some(provider) => self.is_admitted_by(ctx, &user.id, &provider.rules()),
            None => Ok(true),
        }
    }

    /// Likewise, by these rules.
    pub fn is_admitted_by(&self, ctx: &Context, user: &UserId, rules: &Rules) -> Result<bool, StoreError> {
        let known = self.get(ctx, user)?;
        Ok(known.is_some_and(|known| is_recent(ctx, &known) && rules.admit(&known.identity).is_some()))
    }

    /// May the user of a session enter? The provider is asked when its word is as old as an access token gets.
    pub fn is_welcome(&self, ctx: &Context, user: &User) -> Result<bool, StoreError> {
        if ctx.providers.of_credential(&user.credential).is_none() {
            return Ok(true);
        }
        let Some(known) = self.get(ctx, &user.id)? else { return Ok(false) };
        if ctx.now().saturating_sub(known.asked_at) < ctx.config.lifetimes.access_token {
            return self.is_admitted(ctx, user);
        }
        Ok(matches!(self.ask_after(ctx, user), Standing::Allowed(_)))
    }

    /// Asks the provider after the user, where it can be asked, and applies the allow rules.
    pub fn ask_after(&self, ctx: &Context, user: &User) -> Standing {
        let Some(provider) = ctx.providers.of_credential(&user.credential) else {
            return Standing::Denied("the provider is not configured any more".into());
        };
        let Some(_alone) = self.alone(&user.id) else {
            return Standing::Unknown("others are asking after the same user".into());
        };
        let known = match self.get(ctx, &user.id) {
            Ok(Some(known)) => known,
            Ok(None) => return Standing::Denied("nothing is known of the user any more".into()),
            Err(e) => return Standing::Unknown(e.to_string()),
        };
        let rules = provider.rules();
        let is_fresh = ctx.now().saturating_sub(known.asked_at) < FRESH && known.rules == rules.digest();
        let asked = if is_fresh { Ok(known.clone()) } else { self.ask(ctx, provider, &known) };
        let is_believed = is_recent(ctx, &known) && rules.admit(&known.identity).is_some();
        let standing = match asked {
            Ok(known) if rules.admit(&known.identity).is_some() => Standing::Allowed(known),
            Ok(_) => Standing::Denied("no allow rule fits".into()),
            Err(Silence::Refused(why)) => Standing::Denied(format!("the provider says no: {why}")),
            Err(Silence::NothingToAskWith(why) | Silence::Later(why)) if is_believed => {
                log::debug!(user:% = user.id, reason = why.as_str(); "the provider was not asked after a user; what it said before is believed");
                Standing::Allowed(known)
            }
            Err(Silence::NothingToAskWith(why)) => Standing::Denied(format!("the user has to sign in again: {why}")),
            // What was asked under other rules may lack what these want.
            Err(Silence::Later(why)) => Standing::Unknown(why),
        };
        if let Standing::Denied(_) = standing {
            self.forget(ctx, &user.id);
        }
        standing
    }

    fn ask(&self, ctx: &Context, provider: &Provider, known: &KnownPerson) -> Result<Arc<KnownPerson>, Silence> {
        let failed = |e: StoreError| Silence::Later(e.to_string());
        let sealed = known.tokens.as_ref().filter(|_| known.credential == provider.credential);
        let Some(tokens) = sealed.and_then(|sealed| open(ctx, &known.user, sealed)) else {
            return Err(Silence::NothingToAskWith("the provider gave nothing to ask with".into()));
        };
        if provider.was_silent(ctx.now()) {
            return Err(Silence::Later("it did not answer a moment ago".into()));
        }
        let heard = |trouble: Trouble| {
            provider.note_silence(matches!(trouble, Trouble::Unreachable(_)).then(|| ctx.now()));
            match trouble {
                Trouble::Refused(why) => Silence::Refused(why),
                // What can't be believed is no verdict: keys may have just been replaced.
                Trouble::Unreachable(why) | Trouble::Invalid(why) => Silence::Later(why),
            }
        };
        let renewed = match ctx.providers.renew(provider, &tokens).map_err(heard) {
            Ok(Some(renewed)) => renewed,
            Ok(None) => return Err(Silence::NothingToAskWith("the provider gave nothing to ask with".into())),
            // The session that the person had there is over, which says nothing of the person.
            Err(Silence::Refused(why)) if !provider.lasts() => {
                self.put(ctx, KnownPerson { tokens: None, ..known.clone() }).map_err(failed)?;
                return Err(Silence::NothingToAskWith(format!("the session at the provider is over ({why})")));
            }
            Err(silence) => return Err(silence),
        };
        // First of all: the old ones may be good for nothing now.
        let sealed = seal(ctx, &known.user, &renewed.tokens);
        let kept = self.put(ctx, KnownPerson { tokens: Some(sealed.clone()), ..known.clone() });
        let person = ctx.providers.whose(provider, &renewed, ctx.now()).map_err(heard)?;
        provider.note_silence(None);
        if person.user != known.user {
            return Err(Silence::Refused("it speaks of somebody else".into()));
        }
        if renewed.lacks_claims && provider.rules().admit(&person.identity).is_none() {
            return Err(Silence::Later("it gave no new ID token, and userinfo alone fits no rule".into()));
        }
        kept.map_err(failed)?;
        self.write(ctx, provider, &known.user, person.identity, Some(sealed)).map_err(failed)
    }
}

/// Is what the provider said still believed without asking again?
fn is_recent(ctx: &Context, known: &KnownPerson) -> bool {
    ctx.now().saturating_sub(known.asked_at) < ctx.config.lifetimes.identity
}

fn seal(ctx: &Context, user: &UserId, tokens: &ProviderTokens) -> String {
    let text = serde_json::to_vec(tokens).expect("tokens are plain data");
    ctx.keys.encrypt(Kind::ProviderTokens, user.as_str().as_bytes(), &text)
}

fn open(ctx: &Context, user: &UserId, sealed: &str) -> Option<ProviderTokens> {
    let text = ctx.keys.decrypt(Kind::ProviderTokens, user.as_str().as_bytes(), sealed)?;
    serde_json::from_slice(&text).ok()
}
