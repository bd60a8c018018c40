//! What is known of those who have signed in at a provider, and asking after them again: at each refresh of a client's
//! tokens, so that whoever was taken off a list, or out of a group, is out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};

use super::rules::{Identity, Person};
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
/// People who are asked after at one time.
const LANES: usize = 16;

/// What is known, the rows in memory.
pub struct People {
    remembered: RwLock<HashMap<UserId, Arc<KnownPerson>>>,
    /// One of them is held while somebody is asked after: refresh tokens of providers are good once.
    lanes: [Mutex<()>; LANES],
}

impl Default for People {
    fn default() -> People {
        People { remembered: RwLock::default(), lanes: std::array::from_fn(|_| Mutex::default()) }
    }
}

/// What asking after somebody came to.
#[derive(Debug)]
pub enum Standing {
    /// They may enter.
    Allowed(Arc<KnownPerson>),
    /// They may not; says why, for the log.
    Denied(String),
    /// It can't be told now.
    Unknown(String),
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

    /// Keeps what a sign-in brought. A provider that gives no refresh token this time may have given one before.
    pub fn learn(
        &self,
        ctx: &Context,
        provider: &Provider,
        person: &Person,
        tokens: &ProviderTokens,
    ) -> Result<Arc<KnownPerson>, StoreError> {
        let known = self.get(ctx, &person.user)?;
        let kept = known.as_ref().filter(|k| k.provider == provider.slug).and_then(|k| k.tokens.clone());
        let has_tokens = tokens.refresh.is_some() || tokens.access.is_some();
        let sealed = if has_tokens { Some(seal(ctx, &person.user, tokens)) } else { kept };
        self.write(ctx, provider, &person.user, person.identity.clone(), sealed)
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
            identity,
            tokens,
            rules: provider.rules().digest(),
            asked_at: now,
            expires_at: now + ctx.config.lifetimes.refresh_total,
        };
        self.put(ctx, row)
    }

    fn put(&self, ctx: &Context, row: KnownPerson) -> Result<Arc<KnownPerson>, StoreError> {
        let written = row.clone();
        ctx.state.transact(move |tx| {
            tx.put(written.user.as_str(), &written);
            Ok(())
        })?;
        let row = Arc::new(row);
        self.remember(row.clone());
        Ok(row)
    }

    /// May the user enter, as far as is known? Asks nobody.
    pub fn is_admitted(&self, ctx: &Context, user: &User) -> Result<bool, StoreError> {
        let Some(provider) = ctx.providers.of_credential(&user.credential) else { return Ok(true) };
        let Some(known) = self.get(ctx, &user.id)? else { return Ok(false) };
        Ok(is_recent(ctx, &known) && provider.rules().admit(&known.identity).is_some())
    }

    /// Asks the provider after the user, where it can be asked, and applies the allow rules.
    pub fn ask_after(&self, ctx: &Context, user: &User) -> Standing {
        let Some(provider) = ctx.providers.of_credential(&user.credential) else {
            return Standing::Denied("the provider is not configured any more".into());
        };
        crate::blocking::announce();
        let lane = user.id.as_str().bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let _alone = self.lanes[lane % LANES].lock().unwrap_or_else(|e| e.into_inner());
        let known = match self.get(ctx, &user.id) {
            Ok(Some(known)) => known,
            Ok(None) => return Standing::Denied("nothing is known of the user any more".into()),
            Err(e) => return Standing::Unknown(e.to_string()),
        };
        let rules = provider.rules();
        let is_fresh = ctx.now().saturating_sub(known.asked_at) < FRESH && known.rules == rules.digest();
        let known = if is_fresh {
            known
        } else {
            match self.ask(ctx, provider, &known) {
                Ok(known) => known,
                Err(Standing::Unknown(why)) if is_recent(ctx, &known) => {
                    log::debug!(user:% = user.id, reason = why.as_str(); "the provider could not be asked after a user; what it said before is believed");
                    known
                }
                Err(standing) => return standing,
            }
        };
        match rules.admit(&known.identity) {
            Some(_) => Standing::Allowed(known),
            None => Standing::Denied("no allow rule fits".into()),
        }
    }

    fn ask(&self, ctx: &Context, provider: &Provider, known: &KnownPerson) -> Result<Arc<KnownPerson>, Standing> {
        let failed = |e: StoreError| Standing::Unknown(e.to_string());
        let in_trouble = |trouble: Trouble| match trouble {
            Trouble::Refused(why) if provider.lasts() => Standing::Denied(format!("the provider says no: {why}")),
            // The session that the person had there is over, which says nothing of the person.
            Trouble::Refused(why) | Trouble::Unreachable(why) => Standing::Unknown(why),
            Trouble::Invalid(why) => Standing::Denied(why),
        };
        let tokens = known.tokens.as_ref().and_then(|sealed| open(ctx, &known.user, sealed));
        let renewed = match tokens.map(|tokens| ctx.providers.renew(provider, &tokens)) {
            Some(outcome) => outcome.map_err(in_trouble)?,
            None => None,
        };
        let Some(renewed) = renewed else {
            return Err(Standing::Unknown("the provider gave nothing to ask with".into()));
        };
        // First of all: the old ones may be good for nothing now.
        let sealed = seal(ctx, &known.user, &renewed.tokens);
        self.put(ctx, KnownPerson { tokens: Some(sealed.clone()), ..known.clone() }).map_err(failed)?;
        let person = ctx.providers.whose(provider, &renewed, ctx.now()).map_err(in_trouble)?;
        // An issuer that is not named again is the same (OpenID Connect Core section 12.2).
        if person.user != known.user {
            return Err(Standing::Denied("the provider speaks of somebody else".into()));
        }
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
